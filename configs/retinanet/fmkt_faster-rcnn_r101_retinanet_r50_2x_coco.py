"""FM-KT^Theta, Faster R-CNN R101 (2x) -> RetinaNet R50, 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 39.8, plain student 37.4.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/retinanet/fmkt_faster-rcnn_r101_retinanet_r50_2x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/'
        'faster_rcnn_r101_fpn_2x_coco/'
        'faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth',
    ),
    losses={{_base_.other_family_losses}},
    terms=['fmkt'],
)
