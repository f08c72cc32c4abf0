"""FM-KT with the flow at inference on ImageNet, ResNet-152 -> ResNet-18, 8 GPUs x 32 images.

The flow is the student's, 8 steps; the recipe is that of the plain student, not the authors'.
Published top-1: teacher 78.48, plain student 69.90 (mmpretrain 1.2 model zoo). Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/fmkt-head_resnet152_resnet18_8xb32_in1k.py --launcher pytorch
"""

_base_ = './fmkt-head_resnet34_resnet18_8xb32_in1k.py'
model = dict(
    teacher=dict(
        config='mmpretrain::resnet/resnet152_8xb32_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet152_8xb32_in1k_20210901-4d7582fa.pth',
    ),
)
