"""BCCD, GFL R18 -> R18 of a quarter of the width: what might make FM-KT better.

python tools/experiments.py docs/results/bccd-gfl-attempts

On the validation images: one seed, 12 epochs, as ../bccd-gfl-weights, whose teacher and, where
nothing else is said, feature weight of 8 it takes.
"""

title = 'BCCD: attempts to improve, GFL R18 -> R18 of a quarter of the width, 12 epochs'
metric = 'coco/bbox_mAP'
seeds = [0]
options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
teachers = dict(gfl=dict(config='configs/bccd/gfl_r18_bccd.py', seed=0))


def row(label, terms, **losses):
    """A row of 12 epochs with feature weights of 8."""
    return dict(
        config='configs/bccd/fmkt-wttm_gfl_r18_r18-quarter_bccd.py',
        teacher='gfl',
        label=label,
        options={
            'train_cfg.max_epochs': 12,
            'train_cfg.val_interval': 12,
            'param_scheduler.1.T_max': 12,
            'param_scheduler.1.end': 12,
            'model.terms': terms,
            'model.losses.pkd.loss_weight': 8.0,
            'model.losses.fmkt.loss_weight': 8.0,
            'model.losses.fmkt.theta_weight': 8.0,
            'model.losses.wttm.loss_weight': 0.5,
            'model.losses.wttm_boxes.loss_weight': 0.5,
            **{f'model.losses.{key}': value for key, value in losses.items()},
        },
    )


backbone = {
    'backbone.type': 'mmkd_fm.FMKTLoss',
    'backbone.tap': 'backbone',
    'backbone.levels': [1, 2, 3],
    'backbone.flow.num_steps': [1, 2, 4],
    'backbone.loss_weight': 8.0,
    'backbone.theta_weight': 8.0,
}
pkd_backbone = {
    'backbone.type': 'mmkd_fm.PKDLoss',
    'backbone.tap': 'backbone',
    'backbone.levels': [1, 2, 3],
    'backbone.loss_weight': 8.0,
}


def combined(features, logits):
    """FM-KT with the metric CWD and WTTM on scores and boxes, with other weights."""
    return row(
        f'FM-KT (CWD, weight {features:g}) + WTTM (weights {logits:g})',
        ['fmkt', 'wttm', 'wttm_boxes'],
        **cwd,
        **{
            'fmkt.loss_weight': features,
            'fmkt.theta_weight': features,
            'wttm.loss_weight': logits,
            'wttm_boxes.loss_weight': logits,
        },
    )


cwd = {'fmkt.metric.type': 'mmkd_fm.CWDLoss'}
cwd_backbone = {
    **cwd,
    **{key: value for key, value in backbone.items() if 'weight' not in key},
    'backbone.metric.type': 'mmkd_fm.CWDLoss',
    'fmkt.loss_weight': 4.0,
    'fmkt.theta_weight': 4.0,
    'backbone.loss_weight': 4.0,
    'backbone.theta_weight': 4.0,
    'wttm.loss_weight': 1.0,
    'wttm_boxes.loss_weight': 1.0,
}
rows = dict(
    fmkt_wttm_boxes=row('FM-KT + WTTM on scores and boxes', ['fmkt', 'wttm', 'wttm_boxes']),
    fmkt_backbone=row('FM-KT on neck and backbone', ['fmkt', 'backbone'], **backbone),
    pkd_backbone=row('PKD on neck and backbone', ['pkd', 'backbone'], **pkd_backbone),
    pkd_wttm_boxes=row('PKD + WTTM on scores and boxes', ['pkd', 'wttm', 'wttm_boxes']),
    fmkt_cwd=row('FM-KT with the metric CWD', ['fmkt'], **cwd),
    fmkt_cwd_wttm_boxes=row(
        'FM-KT with the metric CWD + WTTM on scores and boxes',
        ['fmkt', 'wttm', 'wttm_boxes'],
        **cwd,
    ),
    cwd_wttm_boxes=row(
        'CWD + WTTM on scores and boxes',
        ['cwd', 'wttm', 'wttm_boxes'],
        **{'cwd.loss_weight': 8.0},
    ),
    fmkt_cwd4_wttm1_boxes1=combined(4.0, 1.0),
    fmkt_cwd4_wttm2_boxes2=combined(4.0, 2.0),
    fmkt_cwd2_wttm1_boxes1=combined(2.0, 1.0),
    fmkt_cwd4_backbone_wttm1_boxes1=row(
        'FM-KT (CWD, weight 4) on neck and backbone + WTTM (weights 1)',
        ['fmkt', 'backbone', 'wttm', 'wttm_boxes'],
        **cwd_backbone,
    ),
    fmkt_source=row(
        'FM-KT (CWD, weight 2, source term 4)',
        ['fmkt'],
        **cwd,
        **{'fmkt.loss_weight': 2.0, 'fmkt.theta_weight': 0.0, 'fmkt.source_weight': 4.0},
    ),
    fmkt_source_wttm1_boxes1=row(
        'FM-KT (CWD, weight 2, source term 4) + WTTM (weights 1)',
        ['fmkt', 'wttm', 'wttm_boxes'],
        **cwd,
        **{
            'fmkt.loss_weight': 2.0,
            'fmkt.theta_weight': 0.0,
            'fmkt.source_weight': 4.0,
            'wttm.loss_weight': 1.0,
            'wttm_boxes.loss_weight': 1.0,
        },
    ),
    fmkt_conv=row(
        'FM-KT, convolutional meta-encoder',
        ['fmkt'],
        **{'fmkt.flow.meta_encoder.type': 'mmkd_fm.ConvMetaEncoder'},
    ),
    fmkt_no_theta=row('FM-KT without the Theta term', ['fmkt'], **{'fmkt.theta_weight': 0.0}),
)
