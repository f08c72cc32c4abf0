"""CIFAR-100: ShuffleNetV2, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 71.82. Ours: not run.

    python tools/train.py configs/cifar100/shufflenetv2_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.shufflenetv2}}
optim_wrapper = dict(optimizer=dict(lr=0.01))
