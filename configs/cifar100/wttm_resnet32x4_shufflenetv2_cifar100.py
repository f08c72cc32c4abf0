"""WTTM and the other methods on CIFAR-100, ResNet-32x4 -> ShuffleNetV2, 240 epochs.

Published top-1: teacher 79.42, student 71.82 (CRD, arXiv 1910.10699);
TTM 76.57, WTTM 76.55 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with resnet32x4_cifar100.py.

    python tools/train.py configs/cifar100/wttm_resnet32x4_shufflenetv2_cifar100.py

With another method:

    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.shufflenetv2}},
    teacher=dict(
        config='{{fileDirname}}/resnet32x4_cifar100.py',
        checkpoint='work_dirs/resnet32x4_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.4, loss_weight=40.0),
        wttm=dict(gamma=0.4, loss_weight=16.0),
        fmkt_stages=dict(levels=[0, 1]),  # the teacher has no stride 8
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
