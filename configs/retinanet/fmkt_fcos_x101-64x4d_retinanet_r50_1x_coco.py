"""FM-KT^Theta, FCOS X101-64x4d (multi-scale 2x) -> RetinaNet R50, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 42.6, plain student 36.5.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/retinanet/fmkt_fcos_x101-64x4d_retinanet_r50_1x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/fcos/'
        'fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco/'
        'fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco-ede514a8.pth',
    ),
    losses={{_base_.feature_losses}},
    terms=['fmkt'],
)
