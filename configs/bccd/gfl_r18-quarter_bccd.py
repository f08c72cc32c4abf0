"""BCCD student: GFL R18 of a quarter of the width, FPN 64, at 256x192, 16 epochs.

python tools/train.py configs/bccd/gfl_r18-quarter_bccd.py
"""

_base_ = [
    '../_base_/models/gfl_r18_fpn.py',
    '../_base_/datasets/bccd_256x192.py',
    '../_base_/schedules/from_scratch.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64),
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(octave_base_scale=4),  # cells are small
    ),
)
default_hooks = dict(logger=dict(interval=13), checkpoint=dict(interval=4, max_keep_ckpts=1))
