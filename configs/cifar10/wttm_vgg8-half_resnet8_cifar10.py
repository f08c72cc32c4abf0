"""WTTM and the other methods on CIFAR-10, VGG-8 of half the width -> ResNet-8, 2 epochs.

Measured by us, WTTM with gamma 0.25 and weight 1.5: docs/results/cifar10-pairs.md. Train the
teacher first, with vgg8-half_cifar10.py.

    python tools/train.py configs/cifar10/wttm_vgg8-half_resnet8_cifar10.py
    ... --cfg-options "model.terms=[wttm,fmkt]"
"""

_base_ = './wttm_resnet20_resnet8_cifar10.py'
model = dict(
    teacher=dict(
        config='{{fileDirname}}/vgg8-half_cifar10.py',
        checkpoint='work_dirs/vgg8-half_cifar10/epoch_8.pth',
    ),
)
