"""WTTM and the other methods on ImageNet, ResNet-50 -> ResNet-18, 100 epochs, 8 GPUs x 32 images.

Published top-1: teacher 76.55, student 69.90 (mmpretrain 1.2 model zoo); with torchvision's weights
KD 71.35, DIST 72.12, WTTM 72.26 (arXiv 2402.11148). Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/wttm_resnet50_resnet18_8xb32_in1k.py --launcher pytorch
    ... --cfg-options "model.terms=[dist]"    # another method
"""

_base_ = './wttm_resnet34_resnet18_8xb32_in1k.py'
model = dict(
    teacher=dict(
        config='mmpretrain::resnet/resnet50_8xb32_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet50_8xb32_in1k_20210831-ea4938fc.pth',
    ),
)
