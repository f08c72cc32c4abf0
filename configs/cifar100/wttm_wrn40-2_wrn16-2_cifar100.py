"""WTTM and the other methods on CIFAR-100, WRN-40-2 -> WRN-16-2, 240 epochs.

Published top-1: teacher 75.61, student 73.26 (CRD, arXiv 1910.10699);
TTM 76.23, WTTM 76.37, without cross-entropy 75.11 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with wrn40-2_cifar100.py.

    python tools/train.py configs/cifar100/wttm_wrn40-2_wrn16-2_cifar100.py

Without cross-entropy (gamma is published, the weight is not), or with another method:

    ... --cfg-options model.task_loss_weight=0 model.losses.wttm.gamma=0.2
    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.wrn16_2}},
    teacher=dict(
        config='{{fileDirname}}/wrn40-2_cifar100.py',
        checkpoint='work_dirs/wrn40-2_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.1, loss_weight=101.0),
        wttm=dict(gamma=0.1, loss_weight=4.0),
    ),
)
