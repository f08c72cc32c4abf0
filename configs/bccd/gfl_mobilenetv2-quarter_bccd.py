"""BCCD student of another architecture: GFL with a MobileNetV2 of a quarter of the width, 256x192.

python tools/train.py configs/bccd/gfl_mobilenetv2-quarter_bccd.py
"""

_base_ = './gfl_r18-quarter_bccd.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=0.25,
        out_indices=(1, 2, 4, 7),
        norm_eval=False,
    ),
    neck=dict(in_channels=[8, 8, 24, 1280]),
)
