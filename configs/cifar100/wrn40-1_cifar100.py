"""CIFAR-100: WRN-40-1, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 71.98. Ours: not run.

    python tools/train.py configs/cifar100/wrn40-1_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.wrn40_1}}
