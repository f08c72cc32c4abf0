"""That student distilled; its views never come again, so that the teacher's are not kept."""

_base_ = ['./augmented.py', '../../../configs/_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(config='configs/bccd/gfl_r18_bccd.py'),
    losses={{_base_.gfl_losses}},
)
