"""ImageNet: MobileNetV1, 100 epochs, 8 GPUs x 32 images. Plain mmpretrain.

Published top-1: 70.6 (arXiv 1704.04861); 68.87 as the baseline of KD papers (arXiv 2402.11148).
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/mobilenetv1_8xb32_in1k.py --launcher pytorch
"""

_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
model = dict(backbone=dict(_delete_=True, type='mmkd_fm.MobileNetV1'), head=dict(in_channels=1024))
