"""Demo: FM-KT on the pyramid and WTTM on the logits, at zero inference cost."""

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
    losses=dict(fmkt={{_base_.fmkt}}, wttm={{_base_.wttm}}),
)
