"""CIFAR-10 teacher of another architecture: VGG-8 of half the width, 8 epochs.

python tools/train.py configs/cifar10/vgg8-half_cifar10.py
"""

_base_ = './resnet20_cifar10.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkd_fm.CIFARVGG',
        depth=8,
        widths=(32, 64, 128, 256, 256),
        out_indices=(0, 1, 2, 4),
    ),
    head=dict(in_channels=256),
)
optim_wrapper = dict(optimizer=dict(lr=0.05))  # as for VGG in the protocol of CRD
