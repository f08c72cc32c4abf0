"""WTTM and the other methods on CIFAR-100, WRN-40-2 -> ShuffleNetV1, 240 epochs.

Published top-1: teacher 75.61, student 70.50 (CRD, arXiv 1910.10699);
TTM 75.39, WTTM 75.42 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with wrn40-2_cifar100.py.

    python tools/train.py configs/cifar100/wttm_wrn40-2_shufflenetv1_cifar100.py

With another method:

    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.shufflenetv1}},
    teacher=dict(
        config='{{fileDirname}}/wrn40-2_cifar100.py',
        checkpoint='work_dirs/wrn40-2_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.3, loss_weight=8.0),
        wttm=dict(gamma=0.3, loss_weight=3.0),
        fmkt_stages=dict(levels=[0, 1]),  # the teacher has no stride 8
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
