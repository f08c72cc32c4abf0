"""FM-KT with the flow at inference on ImageNet, ResNet-50 -> MobileNetV1, 8 GPUs x 32 images.

The flow is the student's, 8 steps; the recipe is that of the plain student, not the authors'.
Published top-1: teacher 76.55 (mmpretrain 1.2 model zoo), plain student 68.87 (arXiv 2402.11148).
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/fmkt-head_resnet50_mobilenetv1_8xb32_in1k.py --launcher pytorch
"""

_base_ = './fmkt-head_resnet50_resnet18_8xb32_in1k.py'
model = dict(
    student=dict(  # that of mobilenetv1_8xb32_in1k.py
        backbone=dict(_delete_=True, type='mmkd_fm.MobileNetV1'),
        head=dict(
            head=dict(in_channels=1024),
            # a 3x3 convolution of 1024 channels would have four times the student's parameters
            flow=dict(meta_encoder=dict(type='mmkd_fm.DepthwiseMetaEncoder')),
        ),
    )
)
