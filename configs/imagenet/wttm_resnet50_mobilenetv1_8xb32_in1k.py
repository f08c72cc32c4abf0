"""WTTM and the other methods on ImageNet, ResNet-50 -> MobileNetV1, 100 epochs, 8 GPUs x 32 images.

Published top-1: teacher 76.55 (mmpretrain 1.2 model zoo); with torchvision's weights student 68.87,
KD 70.50, DIST 73.24, WTTM 73.09 (arXiv 2402.11148). Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/wttm_resnet50_mobilenetv1_8xb32_in1k.py --launcher pytorch
    ... --cfg-options "model.terms=[dist]"    # another method
"""

_base_ = './wttm_resnet50_resnet18_8xb32_in1k.py'
model = dict(
    student=dict(  # that of mobilenetv1_8xb32_in1k.py
        backbone=dict(_delete_=True, type='mmkd_fm.MobileNetV1'), head=dict(in_channels=1024)
    ),
    losses=dict(
        ttm=dict(gamma=0.7, loss_weight=3.5),
        wttm=dict(gamma=0.7, loss_weight=3.5),
    ),
)
