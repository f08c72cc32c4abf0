"""Wide residual networks for images of 32x32 (arXiv 1605.07146)."""

from collections.abc import Sequence
from typing import Optional

from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmkd_fm.models.backbones.staged import BN, StagedBackbone
from mmkd_fm.registry import MODELS


class PreActivationBlock(nn.Module):
    """x + conv(ReLU-BN-conv(y)) with y = ReLU-BN(x), and a 1x1 of y where the channels change.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution; above 1 only where the channels change.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        self.conv1 = ConvModule(in_channels, channels, 3, stride, padding=1, norm_cfg=BN)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: Optional[nn.Module] = None
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map of shape (N, C', H', W') for ``x`` of shape (N, C, H, W)."""
        y = self.activate(x)
        skip = x if self.shortcut is None else self.shortcut(y)
        return skip + self.conv2(self.conv1(y))


@MODELS.register_module()
class CIFARWideResNet(StagedBackbone):
    """WRN of 6n + 4 layers: three stages of n pre-activation blocks, without dropout.

    The strides of the stages are 1, 2 and 4; behind the last stage is a BN-ReLU.

    Args:
        depth: Number of layers, 6n + 4: 16, 28, 40 and so on.
        widen_factor: Multiple of the widths 16, 32 and 64 of the stages.
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If ``depth`` is not of the form 6n + 4, ``widen_factor`` is below 1, or an
            index is out of range.

    Example:
        >>> CIFARWideResNet(40, 2)(torch.randn(2, 3, 32, 32))[0].shape
        torch.Size([2, 128, 8, 8])
    """

    def __init__(
        self,
        depth: int = 40,
        widen_factor: int = 2,
        out_indices: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f'depth must be 6n + 4, such as 10, 16, 22, 28 or 40, but got {depth}')
        if widen_factor < 1:
            raise ValueError(f'widen_factor must be 1 or more, but got {widen_factor}')
        widths = [16] + [width * widen_factor for width in (16, 32, 64)]
        stages = []
        for in_channels, channels, stride in zip(widths, widths[1:], (1, 2, 2)):
            blocks: list[nn.Module] = [PreActivationBlock(in_channels, channels, stride)]
            blocks += [PreActivationBlock(channels, channels, 1) for _ in range((depth - 10) // 6)]
            stages.append(nn.Sequential(*blocks))
        stages[-1].append(nn.BatchNorm2d(widths[-1])).append(nn.ReLU(inplace=True))
        stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        super().__init__(stem, stages, out_indices, init_cfg)
