"""Demo student: RetinaNet R18 of a quarter of the width, FPN 48, 18 epochs. Plain mmdet.

Part of `make demo`; by itself:

    python tools/train.py configs/demo/retinanet_r18-quarter_demo.py
"""

_base_ = './retinanet_r18_demo.py'
model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=48),
    bbox_head=dict(in_channels=48, feat_channels=48),
)
