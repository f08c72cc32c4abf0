"""CIFAR-100: ResNet-56, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 72.34. Ours: not run.

    python tools/train.py configs/cifar100/resnet56_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.resnet56}}
