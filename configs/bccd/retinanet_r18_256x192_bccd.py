"""BCCD teacher at 256x192: RetinaNet R18, FPN 128, 24 epochs from random weights. Plain mmdet.

python tools/train.py configs/bccd/retinanet_r18_256x192_bccd.py
"""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/bccd_256x192.py',
    '../_base_/schedules/from_scratch_24e.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    bbox_head=dict(
        num_classes=3,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=2),  # cells are small
    ),
)
default_hooks = dict(logger=dict(interval=13), checkpoint=dict(interval=4, max_keep_ckpts=1))
