"""FM-KT^Theta + WTTM, Cascade R-CNN X101 (1x) -> Cascade R-CNN R50, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 44.7, plain student 40.3.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/cascade_rcnn/fmkt-wttm_cascade-rcnn_x101-64x4d_cascade-rcnn_r50_1x_coco.py \
        --launcher pytorch
"""

_base_ = ['mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::cascade_rcnn/cascade-rcnn_x101-64x4d_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/'
        'cascade_rcnn_x101_64x4d_fpn_1x_coco/'
        'cascade_rcnn_x101_64x4d_fpn_1x_coco_20200515_075702-43ce6a30.pth',
    ),
    losses={{_base_.cascade_losses}},
    terms=['fmkt', 'wttm_0', 'wttm_1', 'wttm_2'],
)
