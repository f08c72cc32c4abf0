"""What every distillation config needs, and the methods for detectors.

A config takes these with `default_hooks = {{_base_.distill_hooks}}` and, by the kind of its heads,
`losses={{_base_.dense_losses}}`, among which its `terms` choose. Two bases may not set the same
key, so this file can't set `default_hooks` or `model` itself.
"""

distill_hooks = dict(
    distill_state=dict(type='mmkd_fm.DistillStateHook'),
    distill_clip=dict(type='mmkd_fm.ClipApartHook'),
    distill_data=dict(type='mmkd_fm.DataCheckHook'),
)

# The flow of FM-KT: one for each level, shared by all its steps. On validation images the
# convolutional encoder is 1.1 AP below the depthwise one on BCCD (MobileNetV2), 1.8 above it on
# drawn shapes, three seeds each, and adds four times the time (docs/results/benchmark.md).
flow = dict(
    meta_encoder=dict(type='mmkd_fm.DepthwiseMetaEncoder'),
    schedule='rectified',
    num_steps=[1, 2, 4],
)

# FM-KT^Theta: the flow in training only, zero inference cost. The weights are the best that were
# tried on BCCD with RetinaNet (docs/results/bccd.md). P7 is left out, as in the authors' configs.
# For images of 160 to 256 pixels try `levels=[0, 1]`: on validation images +2.9 AP (+1.0 to +4.8)
# on drawn shapes, +1.9 (+0.9 to +3.0) and -0.1 (-2.4 to +2.2) on BCCD (MobileNetV2, ResNet), three
# seeds each. The maps left out have 9 to 48 locations there; P6 of a COCO image has 273, and this
# was not tried on such.
fmkt = dict(
    type='mmkd_fm.FMKTLoss',
    tap='neck',
    levels=[0, 1, 2, 3],
    flow=flow,
    objective=dict(type='mmkd_fm.EndpointMatching'),
    metric=dict(type='mmkd_fm.PKDLoss'),
    loss_weight=4.0,
    theta_weight=4.0,
)
# FM-KT with the flow at inference: the flow is the student's, in its FlowNeck.
fmkt_neck = dict(type='mmkd_fm.FMKTLoss', tap='neck', flow='neck', loss_weight=4.0, theta_weight=0)
# On the class scores of a dense head; of the same family, since its locations must correspond.
wttm = dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0, gamma=0.7, loss_weight=0.25)

# Baselines.
pkd = dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0, 1, 2, 3], loss_weight=4.0)
cwd = dict(type='mmkd_fm.CWDLoss', tap='neck', levels=[0, 1, 2, 3], loss_weight=4.0)
scores = dict(tap='bbox_head', index=0, loss_weight=0.25)

# The catalogues. All weights but those tried on BCCD are starting points.
# Any two necks, of whatever detectors:
feature_losses = dict(fmkt=fmkt, pkd=pkd, cwd=cwd)
# Necks of two families, whose channels mean different things even where they are as many, and of
# which one should not rule the other: docs/results/bccd-retinanet.md.
other_family_losses = dict(
    fmkt=dict(
        fmkt,
        objective=dict(type='mmkd_fm.EndpointMatching', project=True),
        metric=dict(type='mmkd_fm.CWDLoss'),
        loss_weight=0.5,
        theta_weight=0.5,
    ),
    pkd=dict(pkd, project=True, loss_weight=1.0),
    cwd=dict(cwd, project=True, loss_weight=0.5),
)
# Dense heads of one family:
dense_losses = dict(
    feature_losses,
    wttm=wttm,
    ttm=dict(type='mmkd_fm.TTMLoss', gamma=0.7, **scores),
    kd=dict(type='mmkd_fm.KDLoss', temperature=1.0, **scores),
    dkd=dict(type='mmkd_fm.DKDLoss', temperature=1.0, **scores),
    dist=dict(type='mmkd_fm.DISTLoss', **scores),
)
# Dense heads with other numbers of anchors, of which the best of each location are compared:
best_anchor_losses = dict(
    feature_losses,
    wttm=dict(wttm, anchors='max'),
    kd=dict(type='mmkd_fm.KDLoss', temperature=1.0, anchors='max', **scores),
)
# GFL-type heads also predict a distribution for each side of a box. The weights of FM-KT and PKD
# are those of docs/results/bccd-gfl.md, where WTTM has 0.5; 4 was the best of 0.5, 2, 4 and 8
# beside FM-KT in docs/results/bccd-folds-weights.md, and KD with 4 better than WTTM, by 0.7 AP
# (+0.1 to +1.3), so that `--distill` takes it for two GFL heads; measured on two levels, and with
# KD on four (51.8 instead of 52.1, -1.0 to +0.4). Not tried on COCO. CWD as FM-KT's metric:
# validation AP 49.4 instead of PKD's 48.5 (docs/results/bccd-gfl.md, three seeds; the interval
# holds 0), 21.1 instead of 18.5 in docs/results/demo-gfl.md (one seed).
box_tap = dict(
    tap=dict(scores='bbox_head', boxes='bbox_head'),
    index=dict(scores=0, boxes=1),
)
gfl_losses = dict(
    dense_losses,
    fmkt_cwd=dict(fmkt, metric=dict(type='mmkd_fm.CWDLoss')),
    pkd=dict(pkd, loss_weight=8.0),
    wttm=dict(wttm, loss_weight=4.0),
    wttm_boxes=dict(wttm, **dict(box_tap, loss_weight=4.0)),
    kd=dict(dense_losses['kd'], loss_weight=4.0),
    kd_boxes=dict(type='mmkd_fm.KDLoss', temperature=1.0, loss_weight=4.0, **box_tap),
)
# Two-stage detectors, whose teacher scores the student's RoIs:
roi_losses = dict(
    feature_losses,
    wttm=dict(wttm, tap='roi_head.bbox_head'),
    kd=dict(dense_losses['kd'], tap='roi_head.bbox_head'),
)
# the same, each of the stages with its own RoIs
cascade_losses = dict(
    feature_losses,
    wttm_0=dict(wttm, tap='roi_head.bbox_head.0'),
    wttm_1=dict(wttm, tap='roi_head.bbox_head.1'),
    wttm_2=dict(wttm, tap='roi_head.bbox_head.2'),
)
# RTMDet and YOLOX, whose necks have three levels, all of them used:
pafpn_feature_losses = dict(
    fmkt=dict(fmkt, levels=None),
    pkd=dict(pkd, levels=None),
    cwd=dict(cwd, levels=None),
)
pafpn_losses = dict(dense_losses, **pafpn_feature_losses)
