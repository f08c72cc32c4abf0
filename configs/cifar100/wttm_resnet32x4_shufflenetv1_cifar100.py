"""WTTM and the other methods on CIFAR-100, ResNet-32x4 -> ShuffleNetV1, 240 epochs.

Published top-1: teacher 79.42, student 70.50 (CRD, arXiv 1910.10699);
TTM 74.18, WTTM 74.37 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with resnet32x4_cifar100.py.

    python tools/train.py configs/cifar100/wttm_resnet32x4_shufflenetv1_cifar100.py

With another method:

    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.shufflenetv1}},
    teacher=dict(
        config='{{fileDirname}}/resnet32x4_cifar100.py',
        checkpoint='work_dirs/resnet32x4_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.2, loss_weight=12.0),
        wttm=dict(gamma=0.2, loss_weight=1.4),
        fmkt_stages=dict(levels=[0, 1]),  # the teacher has no stride 8
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
