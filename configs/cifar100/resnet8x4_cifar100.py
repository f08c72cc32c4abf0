"""CIFAR-100: ResNet-8x4, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 72.50. Ours: not run.

    python tools/train.py configs/cifar100/resnet8x4_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.resnet8x4}}
