"""CIFAR-100 in the protocol of CRD (arXiv 1910.10699), and its classifiers.

A config takes one of these with `model = {{_base_.classifiers.resnet20}}`. All backbones return a
map for each stride that they have; the head reads the last.

240 epochs of batch 64 on one GPU, SGD 0.05 (0.01 for MobileNetV2 and the ShuffleNets), a tenth of
it from epochs 150, 180 and 210, weight decay 5e-4, random crops with padding 4, flips.
"""

_base_ = [
    'mmpretrain::_base_/datasets/cifar100_bs16.py',
    'mmpretrain::_base_/default_runtime.py',
]


def classifier(in_channels, type, **backbone):
    return dict(
        type='ImageClassifier',
        backbone=dict(type=type, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=100,
            in_channels=in_channels,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def resnet(depth, factor=1):
    widths = (32, 64, 128, 256) if factor == 4 else (16, 16, 32, 64)
    kind = dict(type='mmkd_fm.CIFARResNet', depth=depth, widths=widths)
    return classifier(widths[-1], **kind, out_indices=(0, 1, 2))


def wrn(depth, factor):
    kind = dict(type='mmkd_fm.CIFARWideResNet', depth=depth, widen_factor=factor)
    return classifier(64 * factor, **kind, out_indices=(0, 1, 2))


def vgg(depth):
    return classifier(512, type='mmkd_fm.CIFARVGG', depth=depth, out_indices=(0, 1, 2, 4))


classifiers = dict(
    resnet20=resnet(20),
    resnet32=resnet(32),
    resnet56=resnet(56),
    resnet110=resnet(110),
    resnet8x4=resnet(8, 4),
    resnet32x4=resnet(32, 4),
    resnet50=classifier(2048, type='ResNet_CIFAR', depth=50, out_indices=(0, 1, 2, 3)),
    wrn16_2=wrn(16, 2),
    wrn40_1=wrn(40, 1),
    wrn40_2=wrn(40, 2),
    vgg8=vgg(8),
    vgg13=vgg(13),
    mobilenetv2=classifier(
        1280, type='mmkd_fm.CIFARMobileNetV2', width=0.5, out_indices=(1, 2, 4, 7)
    ),
    shufflenetv1=classifier(960, type='mmkd_fm.CIFARShuffleNetV1', out_indices=(0, 1, 2)),
    shufflenetv2=classifier(1024, type='mmkd_fm.CIFARShuffleNetV2', out_indices=(0, 1, 3)),
)

train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64)
test_dataloader = dict(batch_size=64)

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=20, max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=64)
