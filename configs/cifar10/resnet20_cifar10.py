"""CIFAR-10 teacher: ResNet-20 (0.27 M parameters), 8 epochs from random weights.

python tools/train.py configs/cifar10/resnet20_cifar10.py
"""

_base_ = './resnet8_cifar10.py'
model = dict(backbone=dict(depth=20))
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    {{_base_.warmup}},
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
