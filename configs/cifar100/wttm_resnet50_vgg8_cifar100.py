"""WTTM and the other methods on CIFAR-100, ResNet-50 -> VGG-8, 240 epochs.

Published top-1: teacher 79.34, student 70.36 (CRD, arXiv 1910.10699);
TTM 74.87, WTTM 74.82 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with resnet50_cifar100.py.

    python tools/train.py configs/cifar100/wttm_resnet50_vgg8_cifar100.py

With another method:

    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.vgg8}},
    teacher=dict(
        config='{{fileDirname}}/resnet50_cifar100.py',
        checkpoint='work_dirs/resnet50_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.1, loss_weight=70.0),
        wttm=dict(gamma=0.1, loss_weight=2.0),
    ),
)
