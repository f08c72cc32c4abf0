"""FM-KT^Theta + WTTM, RetinaNet X101-64x4d (1x) -> RetinaNet R50, 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 41.0, plain student 37.4.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/retinanet/fmkt-wttm_retinanet_x101-64x4d_retinanet_r50_2x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/'
        'retinanet_x101_64x4d_fpn_1x_coco/'
        'retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
