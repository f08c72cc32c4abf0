"""BCCD: WTTM on sigmoid scores, the shipped default, beside the plain student, 16 epochs.

python tools/experiments.py docs/results/bccd-wttm

Short: the student is undertrained, the teacher has 12 of its 32 epochs.
"""

title = 'BCCD: WTTM alone, RetinaNet R18 -> R18 of a quarter of the width, 16 epochs'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2]
baselines = ['plain']


def epochs(number):
    """Options of a training of so many epochs."""
    return {
        'train_cfg.max_epochs': number,
        'train_cfg.val_interval': number,
        'param_scheduler.1.T_max': number,
        'param_scheduler.1.end': number,
    }


options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
evaluations = dict(
    test={},
    validation={
        'test_dataloader.dataset.ann_file': 'val.json',
        'test_evaluator.ann_file': 'data/bccd/val.json',
    },
)
teachers = dict(
    retinanet=dict(config='configs/bccd/retinanet_r18_bccd.py', options=epochs(12), seed=0)
)
rows = dict(
    plain=dict(
        config='configs/bccd/retinanet_r18-quarter_bccd.py',
        label='plain student',
        options=epochs(16),
    ),
    wttm=dict(
        config='configs/bccd/fmkt-wttm_retinanet_r18_r18-quarter_bccd.py',
        teacher='retinanet',
        label='WTTM, the default',
        options={'model.terms': ['wttm'], **epochs(16)},
    ),
)
