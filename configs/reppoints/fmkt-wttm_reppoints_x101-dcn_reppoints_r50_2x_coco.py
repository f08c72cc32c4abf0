"""FM-KT^Theta + WTTM, RepPoints X101-dcn (2x) -> RepPoints R50, 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 44.2, plain student 38.6.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/reppoints/fmkt-wttm_reppoints_x101-dcn_reppoints_r50_2x_coco.py --launcher pytorch
"""

_base_ = [
    'mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py',
    '../_base_/distill_runtime.py',
]
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/reppoints/'
        'reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco/'
        'reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-f87da1ea.pth',
    ),
    losses={{_base_.dense_losses}},
    terms=['fmkt', 'wttm'],
)
