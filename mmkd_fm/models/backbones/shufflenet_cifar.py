"""ShuffleNet (arXiv 1707.01083) and ShuffleNetV2 (arXiv 1807.11164) for images of 32x32."""

from collections.abc import Sequence
from typing import Optional

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.models.backbones.staged import BN, StagedBackbone
from mmkd_fm.registry import MODELS

STEM = 24
RELU = dict(type='ReLU')


class ChannelShuffle(nn.Module):
    """Channel ``group * n + i`` becomes channel ``i * groups + group``.

    Args:
        groups: Groups of n channels each; 1 changes nothing.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Map of the shape of ``x``, (N, C, H, W)."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


def pointwise(
    in_channels: int, channels: int, groups: int = 1, act_cfg: Optional[dict] = RELU
) -> ConvModule:
    """1x1 convolution, BN and, unless ``act_cfg`` is None, ReLU."""
    return ConvModule(in_channels, channels, 1, groups=groups, norm_cfg=BN, act_cfg=act_cfg)


def depthwise(channels: int, stride: int, act_cfg: Optional[dict] = None) -> ConvModule:
    """3x3 depthwise convolution, BN and, if ``act_cfg`` says so, ReLU."""
    return ConvModule(
        channels, channels, 3, stride, padding=1, groups=channels, norm_cfg=BN, act_cfg=act_cfg
    )


class GroupUnit(nn.Module):
    """Unit of ShuffleNet: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1.

    With stride 2 the average of the input is put beside the result, otherwise the input is added.

    Args:
        in_channels: Channels of the input; the first 1x1 has one group where it is the stem's.
        channels: Channels of the output.
        stride: 1 or 2.
        groups: Groups of the 1x1 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        own = channels - in_channels if stride == 2 else channels
        first = 1 if in_channels == STEM else groups
        self.layers = nn.Sequential(
            pointwise(in_channels, own // 4, first),
            ChannelShuffle(first),
            depthwise(own // 4, stride, RELU),
            pointwise(own // 4, own, groups, act_cfg=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map of shape (N, C', H', W') for ``x`` of shape (N, C, H, W)."""
        if self.stride == 1:
            return F.relu(self.layers(x) + x)
        average = F.avg_pool2d(x, 3, stride=2, padding=1)
        return F.relu(torch.cat([self.layers(x), average], dim=1))


class SplitUnit(nn.Module):
    """Unit of ShuffleNetV2 that keeps the shape: half of the channels pass untouched.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.layers = nn.Sequential(
            pointwise(half, half), depthwise(half, stride=1), pointwise(half, half)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map of the shape of ``x``, (N, C, H, W)."""
        untouched, rest = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([untouched, self.layers(rest)], dim=1))


class DownUnit(nn.Module):
    """Unit of ShuffleNetV2 that halves the map: two branches side by side.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.short = nn.Sequential(depthwise(in_channels, stride=2), pointwise(in_channels, half))
        self.long = nn.Sequential(
            pointwise(in_channels, half), depthwise(half, stride=2), pointwise(half, half)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map of shape (N, C', H / 2, W / 2) for ``x`` of shape (N, C, H, W)."""
        return self.shuffle(torch.cat([self.short(x), self.long(x)], dim=1))


@MODELS.register_module()
class CIFARShuffleNetV1(StagedBackbone):
    """ShuffleNet of three groups for images of 32x32, as in CRD's protocol (arXiv 1910.10699).

    The stem is a 1x1 convolution to 24 channels, the strides of the stages are 2, 4 and 8. Against
    the original there is a ReLU behind the depthwise convolutions too.

    Args:
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If an index is out of range.

    Example:
        >>> CIFARShuffleNetV1()(torch.randn(2, 3, 32, 32))[0].shape
        torch.Size([2, 960, 4, 4])
    """

    def __init__(
        self, out_indices: Optional[Sequence[int]] = None, init_cfg: Optional[dict] = None
    ) -> None:
        stages, in_channels = [], STEM
        for channels, number in ((240, 4), (480, 8), (960, 4)):
            units = [GroupUnit(in_channels, channels, 2, groups=3)]
            units += [GroupUnit(channels, channels, 1, groups=3) for _ in range(number - 1)]
            stages.append(nn.Sequential(*units))
            in_channels = channels
        super().__init__(pointwise(3, STEM), stages, out_indices, init_cfg)


@MODELS.register_module()
class CIFARShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 for images of 32x32, as in CRD's protocol (arXiv 1910.10699).

    The stem is a 1x1 convolution to 24 channels, the strides of the four stages are 2, 4, 8 and 8;
    the last is a 1x1 convolution to 1024 channels.

    Args:
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If an index is out of range.

    Example:
        >>> CIFARShuffleNetV2()(torch.randn(2, 3, 32, 32))[0].shape
        torch.Size([2, 1024, 4, 4])
    """

    def __init__(
        self, out_indices: Optional[Sequence[int]] = None, init_cfg: Optional[dict] = None
    ) -> None:
        stages: list[nn.Module] = []
        in_channels = STEM
        for channels, number in ((116, 3), (232, 7), (464, 3)):
            units: list[nn.Module] = [DownUnit(in_channels, channels)]
            units += [SplitUnit(channels) for _ in range(number)]
            stages.append(nn.Sequential(*units))
            in_channels = channels
        stages.append(pointwise(in_channels, 1024))
        super().__init__(pointwise(3, STEM), stages, out_indices, init_cfg)
