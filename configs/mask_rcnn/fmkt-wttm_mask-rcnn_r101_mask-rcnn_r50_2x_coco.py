"""FM-KT^Theta + WTTM, Mask R-CNN R101 (2x) -> Mask R-CNN R50, 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 40.8, plain student 39.2.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/mask_rcnn/fmkt-wttm_mask-rcnn_r101_mask-rcnn_r50_2x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/'
        'mask_rcnn_r101_fpn_2x_coco/'
        'mask_rcnn_r101_fpn_2x_coco_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7.pth',
    ),
    losses={{_base_.roi_losses}},
    terms=['fmkt', 'wttm'],
)
