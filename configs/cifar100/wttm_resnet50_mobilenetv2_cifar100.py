"""WTTM and the other methods on CIFAR-100, ResNet-50 -> MobileNetV2, 240 epochs.

Published top-1: teacher 79.34, student 64.60 (CRD, arXiv 1910.10699);
TTM 69.24, WTTM 69.59 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with resnet50_cifar100.py.

    python tools/train.py configs/cifar100/wttm_resnet50_mobilenetv2_cifar100.py

With another method:

    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.mobilenetv2}},
    teacher=dict(
        config='{{fileDirname}}/resnet50_cifar100.py',
        checkpoint='work_dirs/resnet50_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.2, loss_weight=20.0),
        wttm=dict(gamma=0.2, loss_weight=5.0),
        fmkt_stages=dict(levels=[0, 1, 2]),  # the teacher has no stride 16
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
