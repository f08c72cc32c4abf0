"""Control on BCCD: GFL MobileNetV2 of a quarter, a flow behind its neck, no teacher, 16 epochs.

python tools/train.py configs/bccd/flowneck_gfl_mobilenetv2-quarter_bccd.py
"""

_base_ = ['./gfl_mobilenetv2-quarter_bccd.py', '../_base_/distill_runtime.py']
model = dict(
    neck=dict(
        _delete_=True,
        type='mmkd_fm.FlowNeck',
        neck={{_base_.model.neck}},
        flow={{_base_.flow}},
        levels=[0, 1, 2, 3],
        nfe=1,
    )
)
