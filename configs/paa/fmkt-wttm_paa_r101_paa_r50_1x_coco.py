"""FM-KT^Theta + WTTM, PAA R101 (1x) -> PAA R50, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 42.6, plain student 40.4.
Training PAA needs scikit-learn. Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/paa/fmkt-wttm_paa_r101_paa_r50_1x_coco.py --launcher pytorch
"""

_base_ = ['mmdet::paa/paa_r50_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::paa/paa_r101_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/paa/'
        'paa_r101_fpn_1x_coco/paa_r101_fpn_1x_coco_20200821-0a1825a4.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
