"""BCCD teacher: GFL R18, FPN 128, at 256x192, 24 epochs from random weights. Plain mmdet.

python tools/train.py configs/bccd/gfl_r18_bccd.py
"""

_base_ = [
    '../_base_/models/gfl_r18_fpn.py',
    '../_base_/datasets/bccd_256x192.py',
    '../_base_/schedules/from_scratch_24e.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    bbox_head=dict(num_classes=3, anchor_generator=dict(octave_base_scale=4)),  # cells are small
)
default_hooks = dict(logger=dict(interval=13), checkpoint=dict(interval=4, max_keep_ckpts=1))
