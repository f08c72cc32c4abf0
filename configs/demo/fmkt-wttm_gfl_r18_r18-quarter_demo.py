"""FM-KT + WTTM on scores and boxes on the demo's data, GFL R18 -> R18 of a quarter of the width.

`terms` chooses among the methods. Measured by us, with these weights of WTTM and KD:
docs/results/demo-gfl.md. Train the teacher first, with gfl_r18_demo.py.

    python tools/train.py configs/demo/fmkt-wttm_gfl_r18_r18-quarter_demo.py
"""

_base_ = ['./gfl_r18-quarter_demo.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/gfl_r18_demo.py',
        checkpoint='work_dirs/gfl_r18_demo/epoch_24.pth',
        cache=2,  # gigabytes: flips alone give two views of an image, which both come again
    ),
    losses=dict(
        _base_.gfl_losses,
        wttm=dict(_base_.gfl_losses.wttm, loss_weight=0.5),
        wttm_boxes=dict(_base_.gfl_losses.wttm_boxes, loss_weight=0.5),
        kd_boxes=dict(_base_.gfl_losses.kd_boxes, loss_weight=0.5),
    ),
    terms=['fmkt_cwd', 'wttm', 'wttm_boxes'],
)
