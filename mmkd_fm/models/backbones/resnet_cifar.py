"""The residual networks for images of 32x32 (arXiv 1512.03385, section 4.2)."""

from collections.abc import Sequence
from typing import Optional

from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmkd_fm.models.backbones.staged import BN, StagedBackbone
from mmkd_fm.registry import MODELS


class BasicBlock(nn.Module):
    """ReLU(x + BN-conv(ReLU-BN-conv(x))); a shortcut that changes the shape is BN-conv1x1.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvModule(in_channels, channels, 3, stride, padding=1, norm_cfg=BN)
        self.conv2 = ConvModule(channels, channels, 3, padding=1, norm_cfg=BN, act_cfg=None)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = ConvModule(in_channels, channels, 1, stride, norm_cfg=BN, act_cfg=None)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map of shape (N, C', H', W') for ``x`` of shape (N, C, H, W)."""
        return self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


@MODELS.register_module()
class CIFARResNet(StagedBackbone):
    """ResNet of 6n + 2 layers for images of 32x32: three stages of n basic blocks.

    The widths are those of He et al. (arXiv 1512.03385); the shortcuts that change the shape are
    convolutions of 1x1, as in the protocol of CRD (arXiv 1910.10699), whose 'x4' variants have
    ``widths=(32, 64, 128, 256)``. The strides of the stages are 1, 2 and 4.

    Args:
        depth: Number of layers, 6n + 2: 8, 14, 20, 32, 44, 56, 110 and so on.
        widths: Channels of the stem and of the stages.
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If ``depth`` is not of the form 6n + 2, ``widths`` are not four, or an index is
            out of range.

    Example:
        >>> CIFARResNet(20)(torch.randn(2, 3, 32, 32))[0].shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self,
        depth: int = 20,
        widths: Sequence[int] = (16, 16, 32, 64),
        out_indices: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                f'depth must be 6n + 2, such as 8, 14, 20, 32, 44, 56 or 110, but got {depth}'
            )
        if len(widths) != 4:
            raise ValueError(f'widths are those of the stem and of 3 stages, but got {widths}')
        stages = []
        for in_channels, channels, stride in zip(widths, widths[1:], (1, 2, 2)):
            blocks = [BasicBlock(in_channels, channels, stride)]
            blocks += [BasicBlock(channels, channels, 1) for _ in range((depth - 2) // 6 - 1)]
            stages.append(nn.Sequential(*blocks))
        stem = ConvModule(3, widths[0], 3, padding=1, norm_cfg=BN)
        super().__init__(stem, stages, out_indices, init_cfg)
