"""FM-KT^Theta, DINO Swin-L (5 scales, 12e) -> Deformable DETR R50, 50 epochs, 16 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 57.2, plain student 44.3.
Queries do not correspond: the features of the neck are distilled. Ours: not run.

    torchrun --nnodes 2 --nproc_per_node 8 tools/train.py \
        configs/deformable_detr/fmkt_dino_swin-l_deformable-detr_r50_50e_coco.py --launcher pytorch
"""

_base_ = [
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    '../_base_/distill_runtime.py',
]
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v3.0/dino/'
        'dino-5scale_swin-l_8xb2-12e_coco/'
        'dino-5scale_swin-l_8xb2-12e_coco_20230228_072924-a654145f.pth',
    ),
    losses={{_base_.feature_losses}},
    terms=['fmkt'],
)
