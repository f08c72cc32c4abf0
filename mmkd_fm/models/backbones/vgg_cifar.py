"""VGG with batch norm for images of 32x32 (arXiv 1409.1556)."""

from collections.abc import Sequence
from typing import Optional

from torch import nn

from mmkd_fm.models.backbones.staged import StagedBackbone
from mmkd_fm.registry import MODELS

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of each stage by depth; 8 is that of CRD (arXiv 1910.10699)."""


@MODELS.register_module()
class CIFARVGG(StagedBackbone):
    """VGG with batch norm: five stages, without the large fully connected layers.

    As in the protocol of CRD (arXiv 1910.10699) nothing is pooled between the last two stages: the
    strides are 1, 2, 4, 8 and 8, so that both work at 4x4.

    Args:
        depth: 8, 11, 13, 16 or 19; all but 8 count the two fully connected layers that are not
            there.
        widths: Channels of the five stages.
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If ``depth`` is another, ``widths`` are not five, or an index is out of range.

    Example:
        >>> CIFARVGG(13)(torch.randn(2, 3, 32, 32))[0].shape
        torch.Size([2, 512, 4, 4])
    """

    def __init__(
        self,
        depth: int = 13,
        widths: Sequence[int] = WIDTHS,
        out_indices: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        if depth not in CONVOLUTIONS:
            raise ValueError(
                f'unknown depth {depth}; valid depths: {", ".join(map(str, CONVOLUTIONS))}'
            )
        if len(widths) != len(WIDTHS):
            raise ValueError(f'widths: expected those of 5 stages, but got {tuple(widths)}')
        stages, in_channels = [], 3
        for index, (channels, number) in enumerate(zip(widths, CONVOLUTIONS[depth])):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if index in (1, 2, 3) else []
            for _ in range(number):
                layers += [
                    nn.Conv2d(in_channels, channels, 3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
                in_channels = channels
            stages.append(nn.Sequential(*layers))
        super().__init__(nn.Identity(), stages, out_indices, init_cfg)
