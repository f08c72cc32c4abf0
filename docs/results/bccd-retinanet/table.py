"""BCCD: two teachers of other architectures, GFL R18 and Faster R-CNN R18, one RetinaNet student.

python tools/experiments.py docs/results/bccd-retinanet

The weights of ../bccd-gfl, and an eighth of them, between which the validation images chose. No
location of a dense head belongs to a RoI, so of Faster R-CNN only features are distilled. Both
pyramids have 64 channels; `project` maps them all the same.
"""

title = 'BCCD: Faster R-CNN R18 teaches RetinaNet R18 of a quarter of the width, 16 epochs'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2, 3, 4]
baselines = ['plain', 'pkd_faster_low']
options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
evaluations = dict(test={}, validation={})
teachers = dict(
    faster=dict(config='configs/bccd/faster-rcnn_r18-half_bccd.py', seed=0),
    gfl=dict(config='configs/bccd/gfl_r18_bccd.py', seed=0),
)
last = {'train_cfg.val_interval': 16}
features = {
    'model.losses.pkd.loss_weight': 8.0,
    'model.losses.fmkt.metric.type': 'mmkd_fm.CWDLoss',
    'model.losses.fmkt.loss_weight': 4.0,
    'model.losses.fmkt.theta_weight': 4.0,
}
configs = dict(
    gfl='configs/bccd/fmkt-wttm_gfl_r18_retinanet_r18-quarter_bccd.py',
    faster='configs/bccd/fmkt_faster-rcnn_r18-half_retinanet_r18-quarter_bccd.py',
)


def row(label, teacher, terms, **more):
    """A distilled student."""
    return dict(
        config=configs[teacher],
        teacher=teacher,
        label=label,
        options={**last, **features, 'model.terms': terms, **more},
    )


def from_faster(weight):
    """FM-KT^Theta with that weight, and that of its Theta term."""
    return row(
        f'FM-KT^Theta from Faster R-CNN, weight {weight:g}',
        'faster',
        ['fmkt'],
        **{
            'model.losses.fmkt.objective.type': 'mmkd_fm.EndpointMatching',
            'model.losses.fmkt.objective.project': True,
            'model.losses.fmkt.loss_weight': weight,
            'model.losses.fmkt.theta_weight': weight,
        },
    )


rows = dict(
    plain=dict(
        config='configs/bccd/retinanet_r18-quarter_256x192_bccd.py',
        label='plain student',
        options=last,
    ),
    fmkt_faster=from_faster(4.0),
    pkd_faster=row(
        'PKD from Faster R-CNN, weight 8',
        'faster',
        ['pkd'],
        **{'model.losses.pkd.project': True},
    ),
    fmkt_faster_low=from_faster(0.5),
    pkd_faster_low=row(
        'PKD from Faster R-CNN, weight 1',
        'faster',
        ['pkd'],
        **{'model.losses.pkd.project': True, 'model.losses.pkd.loss_weight': 1.0},
    ),
    pkd=row('PKD from GFL', 'gfl', ['pkd']),
    fmkt=row('FM-KT^Theta from GFL', 'gfl', ['fmkt']),
    fmkt_wttm=row(
        'FM-KT^Theta + WTTM from GFL',
        'gfl',
        ['fmkt', 'wttm'],
        **{'model.losses.wttm.loss_weight': 0.5},
    ),
)
