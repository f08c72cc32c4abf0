"""FM-KT^Theta + WTTM, TOOD R101 (multi-scale 2x) -> TOOD R50, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 46.1, plain student 42.4.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/tood/fmkt-wttm_tood_r101_tood_r50_1x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::tood/tood_r50_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::tood/tood_r101_fpn_ms-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/tood/'
        'tood_r101_fpn_mstrain_2x_coco/'
        'tood_r101_fpn_mstrain_2x_coco_20211210_144232-a18f53c8.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
