"""CIFAR-10 student: ResNet-8 (0.08 M parameters), 2 epochs from random weights.

python tools/train.py configs/cifar10/resnet8_cifar10.py
"""

_base_ = ['../_base_/datasets/cifar10.py', 'mmpretrain::_base_/default_runtime.py']
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkd_fm.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
max_epochs = 2
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
)
warmup = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=200)
param_scheduler = [
    warmup,
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
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
