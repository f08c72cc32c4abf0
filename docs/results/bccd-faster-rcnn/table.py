"""BCCD, a teacher of another family: Faster R-CNN R18 -> RetinaNet R18 of a quarter of the width.

python tools/experiments.py docs/results/bccd-faster-rcnn

Short: the student has 16 epochs, the teacher 12 of its 32.
"""

title = 'BCCD: Faster R-CNN teaches RetinaNet, 16 epochs'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2]
baselines = ['plain']


def epochs(number):
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
    faster_rcnn=dict(config='configs/bccd/faster-rcnn_r18_bccd.py', options=epochs(12), seed=0)
)
rows = dict(
    plain=dict(
        config='configs/bccd/retinanet_r18-quarter_bccd.py',
        label='plain student',
        options=epochs(16),
    ),
    fmkt=dict(
        config='configs/bccd/fmkt_faster-rcnn_r18_retinanet_r18-quarter_bccd.py',
        teacher='faster_rcnn',
        label='FM-KT^Theta',
        options=epochs(16),
    ),
)
