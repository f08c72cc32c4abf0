"""WTTM and the other methods on CIFAR-100, ResNet-56 -> ResNet-20, 240 epochs.

Published top-1: teacher 72.34, student 69.06 (CRD, arXiv 1910.10699);
TTM 71.83, WTTM 71.92, without cross-entropy 70.95 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with resnet56_cifar100.py.

    python tools/train.py configs/cifar100/wttm_resnet56_resnet20_cifar100.py

Without cross-entropy (gamma is published, the weight is not), or with another method:

    ... --cfg-options model.task_loss_weight=0 model.losses.wttm.gamma=0.6
    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.resnet20}},
    teacher=dict(
        config='{{fileDirname}}/resnet56_cifar100.py',
        checkpoint='work_dirs/resnet56_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.3, loss_weight=7.0),
        wttm=dict(gamma=0.3, loss_weight=1.5),
    ),
)
