"""MobileNetV1 (arXiv 1704.04861), and MobileNetV2 (arXiv 1801.04381) for images of 32x32."""

from collections.abc import Sequence
from typing import Optional

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from torch import Tensor, nn

from mmkd_fm.models.backbones.staged import BN, StagedBackbone
from mmkd_fm.registry import MODELS

RELU6 = dict(type='ReLU6')


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """MobileNetV1 for ImageNet: five stages of depthwise separable convolutions.

    The strides of the stages are 2, 4, 8, 16 and 32, the last width is 1024 times ``width``.

    Args:
        width: Multiple of all widths.
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If an index is out of range.

    Example:
        >>> MobileNetV1()(torch.randn(2, 3, 224, 224))[0].shape
        torch.Size([2, 1024, 7, 7])
    """

    def __init__(
        self,
        width: float = 1.0,
        out_indices: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        in_channels = int(32 * width)
        stem = ConvModule(3, in_channels, 3, stride=2, padding=1, norm_cfg=BN)
        stages = []
        for channels, number in ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2)):
            channels, layers = int(channels * width), []
            for index in range(number):
                stride = 2 if stages and index == 0 else 1
                layers.append(
                    DepthwiseSeparableConvModule(
                        in_channels, channels, 3, stride, padding=1, norm_cfg=BN
                    )
                )
                in_channels = channels
            stages.append(nn.Sequential(*layers))
        super().__init__(stem, stages, out_indices, init_cfg)


class InvertedResidual(nn.Module):
    """1x1 that expands, depthwise 3x3, 1x1 without activation; added to x if of its shape.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the depthwise convolution.
        expansion: Channels in between over those of the input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == channels
        self.layers = nn.Sequential(
            ConvModule(in_channels, hidden, 1, norm_cfg=BN, act_cfg=RELU6),
            ConvModule(
                hidden, hidden, 3, stride, padding=1, groups=hidden, norm_cfg=BN, act_cfg=RELU6
            ),
            ConvModule(hidden, channels, 1, norm_cfg=BN, act_cfg=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map of shape (N, C', H', W') for ``x`` of shape (N, C, H, W)."""
        return x + self.layers(x) if self.residual else self.layers(x)


@MODELS.register_module()
class CIFARMobileNetV2(StagedBackbone):
    """MobileNetV2 for images of 32x32, as in the protocol of CRD (arXiv 1910.10699).

    The strides of the eight stages are 2, 2, 4, 8, 8, 16, 16 and 16; the last is the 1x1
    convolution to 1280 channels, which no ``width`` makes fewer. Against the original the first
    two stages do not halve the map, and the first block expands too, by 1.

    Args:
        width: Multiple of all widths but the last.
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If an index is out of range.

    Example:
        >>> CIFARMobileNetV2()(torch.randn(2, 3, 32, 32))[0].shape
        torch.Size([2, 1280, 2, 2])
    """

    # expansion, channels, blocks, stride
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(
        self,
        width: float = 0.5,
        out_indices: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        in_channels = int(32 * width)
        stem = ConvModule(3, in_channels, 3, stride=2, padding=1, norm_cfg=BN, act_cfg=RELU6)
        stages: list[nn.Module] = []
        for expansion, channels, number, stride in self.STAGES:
            channels, blocks = int(channels * width), []
            for index in range(number):
                blocks.append(
                    InvertedResidual(in_channels, channels, 1 if index else stride, expansion)
                )
                in_channels = channels
            stages.append(nn.Sequential(*blocks))
        last = max(1280, int(1280 * width))
        stages.append(ConvModule(in_channels, last, 1, norm_cfg=BN, act_cfg=RELU6))
        super().__init__(stem, stages, out_indices, init_cfg)
