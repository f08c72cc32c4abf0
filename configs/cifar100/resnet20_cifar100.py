"""CIFAR-100: ResNet-20, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 69.06. Ours: not run.

    python tools/train.py configs/cifar100/resnet20_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.resnet20}}
