"""BCCD teacher of another family: Faster R-CNN R18 of half the width, FPN 64, 256x192, 24 epochs.

Anchors, sampler and box head are small, as the images are. RoIs go to levels by a quarter of the
usual scale, by which all of them would be cut from stride 4, and the other levels would learn
little that is worth teaching. From random weights. Plain mmdet.

    python tools/train.py configs/bccd/faster-rcnn_r18-half_bccd.py
"""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/bccd_256x192.py',
    '../_base_/schedules/from_scratch_24e.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        stem_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=14),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=3),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=128))),
)
default_hooks = dict(logger=dict(interval=13), checkpoint=dict(interval=4, max_keep_ckpts=1))
