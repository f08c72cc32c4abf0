"""FM-KT + WTTM on BCCD, GFL R18 -> RetinaNet R18 of a quarter of the width, at 256x192.

RetinaNet has nine anchors at a location and GFL one: the best anchor of each location is compared.
Train the teacher first, with gfl_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt-wttm_gfl_r18_retinanet_r18-quarter_bccd.py
"""

_base_ = ['./retinanet_r18-quarter_256x192_bccd.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/gfl_r18_bccd.py',
        checkpoint='work_dirs/gfl_r18_bccd/epoch_24.pth',
        cache=2,
    ),
    losses={{_base_.best_anchor_losses}},
    terms=['fmkt', 'wttm'],
)
