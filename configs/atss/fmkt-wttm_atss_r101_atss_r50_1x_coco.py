"""FM-KT^Theta + WTTM, ATSS R101 (1x) -> ATSS R50, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 41.5, plain student 39.4.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/atss/fmkt-wttm_atss_r101_atss_r50_1x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::atss/atss_r101_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/atss/'
        'atss_r101_fpn_1x_coco/atss_r101_fpn_1x_20200825-dfcadd6f.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
