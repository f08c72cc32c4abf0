"""CIFAR-100: MobileNetV2 of half the width, 240 epochs of CRD's protocol. Plain mmpretrain.

Published top-1 (arXiv 1910.10699): 64.60. Ours: not run.

    python tools/train.py configs/cifar100/mobilenetv2_cifar100.py
"""

_base_ = '../_base_/cifar100.py'
model = {{_base_.classifiers.mobilenetv2}}
optim_wrapper = dict(optimizer=dict(lr=0.01))
