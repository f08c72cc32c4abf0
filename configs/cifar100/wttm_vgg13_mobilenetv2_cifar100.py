"""WTTM and the other methods on CIFAR-100, VGG-13 -> MobileNetV2, 240 epochs.

Published top-1: teacher 74.64, student 64.60 (CRD, arXiv 1910.10699);
TTM 68.98, WTTM 69.16 (arXiv 2402.11148). Ours: not run.
Train the teacher first, with vgg13_cifar100.py.

    python tools/train.py configs/cifar100/wttm_vgg13_mobilenetv2_cifar100.py

With another method:

    ... --cfg-options "model.terms=[dist]"
"""

_base_ = '../_base_/distill_cifar100.py'
model = dict(
    student={{_base_.classifiers.mobilenetv2}},
    teacher=dict(
        config='{{fileDirname}}/vgg13_cifar100.py',
        checkpoint='work_dirs/vgg13_cifar100/epoch_240.pth',
    ),
    losses=dict(
        ttm=dict(gamma=0.2, loss_weight=16.0),
        wttm=dict(gamma=0.2, loss_weight=3.0),
        fmkt_stages=dict(levels=[0, 1, 2]),  # the teacher has no stride 16
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
