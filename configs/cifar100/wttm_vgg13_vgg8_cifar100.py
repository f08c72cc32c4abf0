"""WTTM and the other methods on CIFAR-100, VGG-13 -> VGG-8, 240 epochs.

Published top-1: teacher 74.64, student 70.36 (CRD, arXiv 1910.10699);
TTM 74.33, WTTM 74.44, without cross-entropy 74.04 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with vgg13_cifar100.py.

    python tools/train.py configs/cifar100/wttm_vgg13_vgg8_cifar100.py

Without cross-entropy (gamma is published, the weight is not), or with another method:

    ... --cfg-options model.task_loss_weight=0 model.losses.wttm.gamma=0.2
    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.vgg8}},
    teacher=dict(
        config='{{fileDirname}}/vgg13_cifar100.py',
        checkpoint='work_dirs/vgg13_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.1, loss_weight=45.0),
        wttm=dict(gamma=0.1, loss_weight=2.25),
    ),
)
