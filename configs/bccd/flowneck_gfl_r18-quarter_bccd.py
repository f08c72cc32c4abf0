"""Control on BCCD: the GFL student with a flow behind its neck and no teacher, 256x192, 16 epochs.

python tools/train.py configs/bccd/flowneck_gfl_r18-quarter_bccd.py
"""

_base_ = ['./gfl_r18-quarter_bccd.py', '../_base_/distill_runtime.py']
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
