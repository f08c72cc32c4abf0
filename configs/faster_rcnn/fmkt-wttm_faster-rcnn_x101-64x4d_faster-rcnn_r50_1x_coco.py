"""FM-KT^Theta + WTTM, Faster R-CNN X101 (1x) -> Faster R-CNN R50, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 42.1, plain student 37.4.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/faster_rcnn/fmkt-wttm_faster-rcnn_x101-64x4d_faster-rcnn_r50_1x_coco.py \
        --launcher pytorch
"""

_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_x101-64x4d_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/'
        'faster_rcnn_x101_64x4d_fpn_1x_coco/'
        'faster_rcnn_x101_64x4d_fpn_1x_coco_20200204-833ee192.pth',
    ),
    losses={{_base_.roi_losses}},
    terms=['fmkt', 'wttm'],
)
