"""FM-KT with the flow at inference on ImageNet, ResNet-101 -> ResNet-18, 8 GPUs x 32 images.

The flow is the student's, 8 steps; the recipe is that of the plain student, not the authors'.
Published top-1: teacher 77.97, plain student 69.90 (mmpretrain 1.2 model zoo). Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/fmkt-head_resnet101_resnet18_8xb32_in1k.py --launcher pytorch
"""

_base_ = './fmkt-head_resnet34_resnet18_8xb32_in1k.py'
model = dict(
    teacher=dict(
        config='mmpretrain::resnet/resnet101_8xb32_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet101_8xb32_in1k_20210831-539c63f8.pth',
    ),
)
