"""BCCD: two teachers of other architectures, GFL R18 and Faster R-CNN R18, one RetinaNet student.

python tools/experiments.py docs/results/bccd-retinanet

The weights were not tuned for this pair: they are those of ../bccd-gfl. No location of a dense head
belongs to a RoI, so of Faster R-CNN only features are distilled. Both pyramids have 64 channels;
`project` maps them all the same.
"""

title = 'BCCD: GFL or Faster R-CNN R18 teaches RetinaNet R18 of a quarter of the width, 16 epochs'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2, 3, 4]
baselines = ['plain', 'pkd_faster']
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


rows = dict(
    plain=dict(
        config='configs/bccd/retinanet_r18-quarter_256x192_bccd.py',
        label='plain student',
        options=last,
    ),
    fmkt_faster=row(
        'FM-KT^Theta from Faster R-CNN',
        'faster',
        ['fmkt'],
        **{
            'model.losses.fmkt.objective.type': 'mmkd_fm.EndpointMatching',
            'model.losses.fmkt.objective.project': True,
        },
    ),
    pkd=row('PKD from GFL', 'gfl', ['pkd']),
    fmkt=row('FM-KT^Theta from GFL', 'gfl', ['fmkt']),
    fmkt_wttm=row(
        'FM-KT^Theta + WTTM from GFL',
        'gfl',
        ['fmkt', 'wttm'],
        **{'model.losses.wttm.loss_weight': 0.5},
    ),
    pkd_faster=row(
        'PKD from Faster R-CNN', 'faster', ['pkd'], **{'model.losses.pkd.project': True}
    ),
)
