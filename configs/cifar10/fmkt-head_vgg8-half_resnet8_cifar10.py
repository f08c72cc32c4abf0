"""FM-KT with the flow at inference on CIFAR-10, VGG-8 of half the width -> ResNet-8, 2 epochs.

As fmkt-head_resnet20_resnet8_cifar10.py. Measured by us:
docs/results/cifar10-pairs.md. Train the teacher first, with vgg8-half_cifar10.py.

    python tools/train.py configs/cifar10/fmkt-head_vgg8-half_resnet8_cifar10.py
"""

_base_ = './fmkt-head_resnet20_resnet8_cifar10.py'
model = dict(
    teacher=dict(
        config='{{fileDirname}}/vgg8-half_cifar10.py',
        checkpoint='work_dirs/vgg8-half_cifar10/epoch_8.pth',
    ),
)
