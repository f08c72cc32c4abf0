"""FM-KT^Theta on BCCD, Faster R-CNN R18 of half the width -> RetinaNet R18 of a quarter.

At 256x192. The levels of the strides that both have, 8 to 64, are paired. Measured by us:
docs/results/bccd-retinanet.md. Train the teacher first, with faster-rcnn_r18-half_bccd.py.

    python tools/train.py configs/bccd/fmkt_faster-rcnn_r18-half_retinanet_r18-quarter_bccd.py
"""

_base_ = ['./retinanet_r18-quarter_256x192_bccd.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/faster-rcnn_r18-half_bccd.py',
        checkpoint='work_dirs/faster-rcnn_r18-half_bccd/epoch_24.pth',
        cache=2,
    ),
    losses={{_base_.other_family_losses}},
    terms=['fmkt'],
)
