"""WTTM and the other methods on ImageNet, ResNet-34 -> ResNet-18, 100 epochs, 8 GPUs x 32 images.

Published top-1: teacher 73.62, student 69.90 (mmpretrain 1.2 model zoo); with torchvision's weights
KD 71.21, DIST 72.07, WTTM 72.19 (arXiv 2402.11148). Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/wttm_resnet34_resnet18_8xb32_in1k.py --launcher pytorch
    ... --cfg-options "model.terms=[dist]"    # another method
"""

_base_ = ['mmpretrain::resnet/resnet18_8xb32_in1k.py', '../_base_/distill_cls.py']
default_hooks = {{_base_.cls_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::resnet/resnet34_8xb32_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet34_8xb32_in1k_20210831-f257d4e6.pth',
    ),
    losses={{_base_.cls_losses}},
    terms=['wttm'],
)
