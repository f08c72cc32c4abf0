"""CIFAR-100: ShuffleNetV1, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 70.50. Ours: not run.

    python tools/train.py configs/cifar100/shufflenetv1_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.shufflenetv1}}
optim_wrapper = dict(optimizer=dict(lr=0.01))
