"""WTTM and the other methods on CIFAR-100, ResNet-110 -> ResNet-32, 240 epochs.

Published top-1: teacher 74.31, student 71.14 (CRD, arXiv 1910.10699);
TTM 73.97, WTTM 74.13, without cross-entropy 73.21 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with resnet110_cifar100.py.

    python tools/train.py configs/cifar100/wttm_resnet110_resnet32_cifar100.py

Without cross-entropy (gamma is published, the weight is not), or with another method:

    ... --cfg-options model.task_loss_weight=0 model.losses.wttm.gamma=0.4
    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.resnet32}},
    teacher=dict(
        config='{{fileDirname}}/resnet110_cifar100.py',
        checkpoint='work_dirs/resnet110_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.1, loss_weight=33.0),
        wttm=dict(gamma=0.1, loss_weight=1.5),
    ),
)
