"""WTTM and the other methods on CIFAR-100, WRN-40-2 -> WRN-40-1, 240 epochs.

Published top-1: teacher 75.61, student 71.98 (CRD, arXiv 1910.10699);
TTM 74.32, WTTM 74.58, without cross-entropy 73.16 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with wrn40-2_cifar100.py.

    python tools/train.py configs/cifar100/wttm_wrn40-2_wrn40-1_cifar100.py

Without cross-entropy (gamma is published, the weight is not), or with another method:

    ... --cfg-options model.task_loss_weight=0 model.losses.wttm.gamma=0.5
    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.wrn40_1}},
    teacher=dict(
        config='{{fileDirname}}/wrn40-2_cifar100.py',
        checkpoint='work_dirs/wrn40-2_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.1, loss_weight=76.0),
        wttm=dict(gamma=0.1, loss_weight=3.0),
    ),
)
