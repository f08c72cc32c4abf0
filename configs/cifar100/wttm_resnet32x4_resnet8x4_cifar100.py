"""WTTM and the other methods on CIFAR-100, ResNet-32x4 -> ResNet-8x4, 240 epochs.

Published top-1: teacher 79.42, student 72.50 (CRD, arXiv 1910.10699);
TTM 76.17, WTTM 76.06, without cross-entropy 72.94 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with resnet32x4_cifar100.py.

    python tools/train.py configs/cifar100/wttm_resnet32x4_resnet8x4_cifar100.py

Without cross-entropy (gamma is published, the weight is not), or with another method:

    ... --cfg-options model.task_loss_weight=0 model.losses.wttm.gamma=0.5
    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.resnet8x4}},
    teacher=dict(
        config='{{fileDirname}}/resnet32x4_cifar100.py',
        checkpoint='work_dirs/resnet32x4_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.1, loss_weight=100.0),
        wttm=dict(gamma=0.1, loss_weight=3.0),
    ),
)
