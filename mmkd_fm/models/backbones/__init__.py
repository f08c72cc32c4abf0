"""Small backbones that mmpretrain lacks: those of the CIFAR-100 protocol, and MobileNetV1."""

from mmkd_fm.models.backbones.mobilenet import CIFARMobileNetV2, MobileNetV1
from mmkd_fm.models.backbones.resnet_cifar import CIFARResNet
from mmkd_fm.models.backbones.shufflenet_cifar import CIFARShuffleNetV1, CIFARShuffleNetV2
from mmkd_fm.models.backbones.vgg_cifar import CIFARVGG
from mmkd_fm.models.backbones.wide_resnet_cifar import CIFARWideResNet

__all__ = [
    'CIFARVGG',
    'CIFARMobileNetV2',
    'CIFARResNet',
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'CIFARWideResNet',
    'MobileNetV1',
]
