"""BCCD, Faster R-CNN R18 -> RetinaNet R18 of a quarter of the width: a teacher of another family.

python tools/experiments.py docs/results/bccd-faster

No location of a dense head belongs to a RoI, so only features are distilled. The weights are those
that ../bccd-gfl-weights chose for another pair.
"""

title = 'BCCD: Faster R-CNN R18 teaches RetinaNet R18 of a quarter of the width, 24 epochs'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2]
baselines = ['plain', 'pkd']
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
teachers = dict(faster=dict(config='configs/bccd/faster-rcnn_r18_bccd.py', seed=0))
distilled = dict(
    config='configs/bccd/fmkt_faster-rcnn_r18_retinanet_r18-quarter_bccd.py', teacher='faster'
)
rows = dict(
    plain=dict(
        config='configs/bccd/retinanet_r18-quarter_256x192_bccd.py', label='plain student'
    ),
    pkd=dict(distilled, label='PKD', options={'model.terms': ['pkd']}),
    fmkt=dict(distilled, label='FM-KT^Theta'),
)
