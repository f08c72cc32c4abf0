"""FM-KT^Theta + WTTM, RetinaNet R101 (2x) -> RetinaNet R50, 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 38.9, plain student 37.4.
Ours: 32 iterations, not to the end.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/retinanet/fmkt-wttm_retinanet_r101_retinanet_r50_2x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/'
        'retinanet_r101_fpn_2x_coco/retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
