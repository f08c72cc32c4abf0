"""FM-KT with the flow at inference (the authors' form) on BCCD, 48 epochs.

The head reads the transported pyramid, in training and at test. Measured by us:
docs/results/bccd.md. Train the teacher first, with retinanet_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt-neck_retinanet_r18_r18-quarter_bccd.py
    python tools/test.py configs/bccd/fmkt-neck_retinanet_r18_r18-quarter_bccd.py CKPT --nfe 1 2 4 8
"""

_base_ = './flowneck_retinanet_r18-quarter_bccd.py'
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/retinanet_r18_bccd.py',
        checkpoint='work_dirs/retinanet_r18_bccd/epoch_32.pth',
    ),
    losses=dict(fmkt={{_base_.fmkt_neck}}),
)
