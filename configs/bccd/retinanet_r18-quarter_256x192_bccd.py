"""BCCD student at 256x192: RetinaNet R18 of a quarter of the width, FPN 64, 16 epochs.

Its anchors are half the usual size, since cells are small.

python tools/train.py configs/bccd/retinanet_r18-quarter_256x192_bccd.py
"""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/bccd_256x192.py',
    '../_base_/schedules/from_scratch.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        depth=18,
        base_channels=16,
        stem_channels=16,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64),
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=2),
    ),
)
default_hooks = dict(logger=dict(interval=13), checkpoint=dict(interval=4, max_keep_ckpts=1))
