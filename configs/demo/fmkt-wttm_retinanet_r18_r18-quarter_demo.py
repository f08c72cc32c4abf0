"""FM-KT + WTTM on the demo's data, RetinaNet R18 -> R18 of a quarter of the width, 18 epochs.

`make demo` trains the teacher, the plain student and this, and compares them: docs/results/demo.md.

    python tools/train.py configs/demo/fmkt-wttm_retinanet_r18_r18-quarter_demo.py
"""

_base_ = ['./retinanet_r18-quarter_demo.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/retinanet_r18_demo.py',
        checkpoint='work_dirs/demo/teacher/epoch_18.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
