"""Demo teacher: RetinaNet R18, FPN 96, 18 epochs from random weights. Plain mmdet.

Part of `make demo`; by itself:

    python tools/make_demo_data.py data/demo
    python tools/train.py configs/demo/retinanet_r18_demo.py --work-dir work_dirs/demo/teacher
"""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/demo.py',
    '../_base_/schedules/from_scratch.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(
        in_channels=[64, 128, 256, 512],
        out_channels=96,
        num_outs=4,
        norm_cfg=dict(type='BN'),
    ),
    bbox_head=dict(
        num_classes=6,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16),
        anchor_generator=dict(octave_base_scale=2, ratios=[1.0], strides=[8, 16, 32, 64]),
    ),
)
max_epochs = 18
auto_scale_lr = dict(base_batch_size=4)  # that of the demo's data
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        eta_min=0,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1))
