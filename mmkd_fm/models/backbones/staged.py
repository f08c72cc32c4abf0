"""What all backbones of this folder are: a stem and stages."""

from collections.abc import Sequence
from typing import Optional

from mmengine.model import BaseModule
from torch import Tensor, nn

BN = dict(type='BN')

INIT = (
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', layer='_BatchNorm', val=1),
)
"""Initial weights: normal with the fan-out of each convolution, batch norms the identity."""


class StagedBackbone(BaseModule):
    """A stem and stages that run one after another, with mmpretrain's interface of a backbone.

    Args:
        stem: First layers; takes images (N, 3, H, W).
        stages: The stages.
        out_indices: Indices of the stages that `forward` returns; None returns the last.
        init_cfg: As for mmengine's `BaseModule`; None draws the weights after `INIT`.

    Raises:
        ValueError: If an index is out of range.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        out_indices: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(list(INIT) if init_cfg is None else init_cfg)
        last = len(stages) - 1
        self.out_indices = (last,) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not all(0 <= i <= last for i in self.out_indices):
            raise ValueError(
                f'out_indices={out_indices}: {type(self).__name__} has the stages 0 to {last}'
            )
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (N, C, H', W') of the stages in `out_indices`, for images ``x`` (N, 3, H, W)."""
        x = self.stem(x)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)
