"""CIFAR-100: WRN-40-2, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 75.61. Ours: not run.

    python tools/train.py configs/cifar100/wrn40-2_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.wrn40_2}}
