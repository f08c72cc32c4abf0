"""Teacher on the demo's data: GFL R18, FPN 128, 24 epochs from random weights. Plain mmdet.

python tools/make_demo_data.py data/demo
python tools/train.py configs/demo/gfl_r18_demo.py
"""

_base_ = [
    '../_base_/models/gfl_r18_fpn.py',
    '../_base_/datasets/demo.py',
    '../_base_/schedules/from_scratch_24e.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    neck=dict(num_outs=4),
    bbox_head=dict(
        num_classes=6,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64]),  # shapes are small
    ),
)
train_dataloader = dict(batch_size=8)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4, max_keep_ckpts=1))
