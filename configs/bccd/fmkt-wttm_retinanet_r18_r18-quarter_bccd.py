"""FM-KT + WTTM on BCCD, RetinaNet R18 -> R18 of a quarter of the width, 48 epochs from scratch.

Measured by us: docs/results/bccd.md. Train the teacher first, with retinanet_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt-wttm_retinanet_r18_r18-quarter_bccd.py
"""

_base_ = ['./retinanet_r18-quarter_bccd.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/retinanet_r18_bccd.py',
        checkpoint='work_dirs/retinanet_r18_bccd/epoch_32.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
