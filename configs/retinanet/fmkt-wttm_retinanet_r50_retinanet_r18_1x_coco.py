"""FM-KT^Theta + WTTM, RetinaNet R50 (2x) -> RetinaNet R18, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 37.4, plain student 31.7.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/retinanet/fmkt-wttm_retinanet_r50_retinanet_r18_1x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r50_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/'
        'retinanet_r50_fpn_2x_coco/retinanet_r50_fpn_2x_coco_20200131-fdb43119.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
