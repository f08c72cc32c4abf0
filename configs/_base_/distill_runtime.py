"""What every distillation config needs, and the defaults of the methods.

A config takes these with `default_hooks = {{_base_.distill_hooks}}` and `{{_base_.fmkt}}`: two
bases may not set the same key, so this file can't set `default_hooks` or `model` itself.
"""

distill_hooks = dict(
    distill_state=dict(type='mmkd_fm.DistillStateHook'),
    distill_clip=dict(type='mmkd_fm.ClipApartHook'),
    distill_data=dict(type='mmkd_fm.DataCheckHook'),
)

# The flow of FM-KT: one for each level, shared by all its steps.
flow = dict(
    meta_encoder=dict(type='mmkd_fm.DepthwiseMetaEncoder'),
    schedule='rectified',
    num_steps=[1, 2, 4],
)

# FM-KT^Theta: the flow in training only, zero inference cost. The weights are the best that were
# tried on BCCD (docs/results/bccd.md). P7 is left out, as in the authors' configs.
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
wttm = dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0, gamma=0.7, loss_weight=0.25)

# Baselines.
pkd = dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0, 1, 2, 3], loss_weight=4.0)
cwd = dict(type='mmkd_fm.CWDLoss', tap='neck', levels=[0, 1, 2, 3], loss_weight=4.0)
