"""CIFAR-100: WRN-16-2, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 73.26. Ours: not run.

    python tools/train.py configs/cifar100/wrn16-2_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.wrn16_2}}
