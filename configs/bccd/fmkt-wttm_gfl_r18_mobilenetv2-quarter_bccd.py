"""FM-KT + WTTM on scores and boxes on BCCD, GFL R18 -> GFL MobileNetV2 of a quarter of the width.

Measured by us: docs/results/bccd-gfl-mobilenetv2.md, with 0.5 for WTTM, and
docs/results/bccd-folds-weights.md. The teacher is that of
fmkt-wttm_gfl_r18_r18-quarter_bccd.py, and so is all else but the student.

    python tools/train.py configs/bccd/fmkt-wttm_gfl_r18_mobilenetv2-quarter_bccd.py
"""

_base_ = ['./gfl_mobilenetv2-quarter_bccd.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/gfl_r18_bccd.py',
        checkpoint='work_dirs/gfl_r18_bccd/epoch_24.pth',
        cache=2,  # gigabytes: flips alone give three views of an image, which all come again
    ),
    losses={{_base_.gfl_losses}},
    terms=['fmkt_cwd', 'wttm', 'wttm_boxes'],
)
