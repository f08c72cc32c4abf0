"""CIFAR-100: VGG-13, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 74.64. Ours: not run.

    python tools/train.py configs/cifar100/vgg13_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.vgg13}}
