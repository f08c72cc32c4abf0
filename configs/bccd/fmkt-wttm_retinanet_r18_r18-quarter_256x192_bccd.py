"""All methods on BCCD, RetinaNet R18 -> R18 of a quarter of the width, at 256x192, by `terms`.

Measured by us: docs/results/bccd-folds-retinanet.md. Train the teacher first, with
retinanet_r18_256x192_bccd.py.

    python tools/train.py configs/bccd/fmkt-wttm_retinanet_r18_r18-quarter_256x192_bccd.py
    ... --cfg-options "model.terms=[pkd]"
"""

_base_ = ['./retinanet_r18-quarter_256x192_bccd.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/retinanet_r18_256x192_bccd.py',
        checkpoint='work_dirs/retinanet_r18_256x192_bccd/epoch_24.pth',
        cache=2,  # gigabytes: flips alone give three views of an image, which all come again
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
