"""FM-KT^Theta, Mask R-CNN Swin-S (3x) -> FCOS R50, multi-scale 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 48.2, plain student 38.5.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/fcos/fmkt_mask-rcnn_swin-s_fcos_r50_ms-2x_coco.py --launcher pytorch
"""

_base_ = [
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
    '../_base_/distill_runtime.py',
]
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/swin/'
        'mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/'
        'mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth',
    ),
    losses={{_base_.other_family_losses}},
    terms=['fmkt'],
)
