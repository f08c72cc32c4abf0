"""Student on the demo's data: GFL R18 of a quarter of the width, FPN 64, 16 epochs. Plain mmdet.

python tools/train.py configs/demo/gfl_r18-quarter_demo.py
"""

_base_ = [
    '../_base_/models/gfl_r18_fpn.py',
    '../_base_/datasets/demo.py',
    '../_base_/schedules/from_scratch.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64, num_outs=4),
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64]),  # shapes are small
    ),
)
train_dataloader = dict(batch_size=8)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4, max_keep_ckpts=1))
