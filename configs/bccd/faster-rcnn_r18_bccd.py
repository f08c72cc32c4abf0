"""BCCD teacher of another family: Faster R-CNN R18, FPN 128, 32 epochs from random weights.

Ours: not run. Plain mmdet.

    python tools/train.py configs/bccd/faster-rcnn_r18_bccd.py
"""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/from_scratch_32e.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=512, num_classes=3),
    ),
)
default_hooks = dict(logger=dict(interval=13), checkpoint=dict(interval=4, max_keep_ckpts=1))
