"""FM-KT^Theta, Cascade Mask R-CNN X101 (20e) -> Faster R-CNN R50, 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 45.6, plain student 38.4.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/faster_rcnn/fmkt_cascade-mask-rcnn_x101-64x4d_faster-rcnn_r50_2x_coco.py \
        --launcher pytorch
"""

_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/'
        'cascade_mask_rcnn_x101_64x4d_fpn_20e_coco/'
        'cascade_mask_rcnn_x101_64x4d_fpn_20e_coco_20200512_161033-bdb5126a.pth',
    ),
    losses={{_base_.feature_losses}},
    terms=['fmkt'],
)
