"""WTTM and the other methods on ImageNet, ResNet-101 -> ResNet-18, 100 epochs, 8 GPUs x 32 images.

Published top-1: teacher 77.97, student 69.90 (mmpretrain 1.2 model zoo); with torchvision's weights
KD 71.09, DIST 72.08, WTTM 72.34 (arXiv 2402.11148). Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/wttm_resnet101_resnet18_8xb32_in1k.py --launcher pytorch
    ... --cfg-options "model.terms=[dist]"    # another method
"""

_base_ = './wttm_resnet34_resnet18_8xb32_in1k.py'
model = dict(
    teacher=dict(
        config='mmpretrain::resnet/resnet101_8xb32_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet101_8xb32_in1k_20210831-539c63f8.pth',
    ),
)
