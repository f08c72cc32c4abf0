"""Meta-encoders: the velocity networks of FM-KT, and the time embedding.

A meta-encoder is any module built with ``channels`` whose ``forward(x, t_embedding)`` takes the
state, shape (N, C, H, W), and the embedded time, shape (N, C), and returns a velocity like ``x``.
"""

import math

import torch
from torch import Tensor, nn

from mmkd_fm.registry import MODELS


class TimeEmbedding(nn.Module):
    """Sinusoids of the time (cosines first, longest period 10000), then one linear layer.

    Args:
        channels: Dimension C of the embedding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, t: Tensor) -> Tensor:
        """Embed times of shape (N,) in (0, 1] as (N, C)."""
        channels = self.linear.in_features
        half = max(channels // 2, 1)
        exponents = torch.arange(half, dtype=t.dtype, device=t.device) / half
        angles = t[:, None] * torch.exp(-math.log(10000) * exponents)
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=1)[:, :channels]
        return self.linear(nn.functional.pad(sinusoids, (0, channels - sinusoids.shape[1])))


@MODELS.register_module()
class ConvMetaEncoder(nn.Module):
    """SiLU, 3x3 convolution, GroupNorm of one group, SiLU, 3x3 convolution; no bias, no skip.

    The last convolution starts at zero, so that training starts from zero velocity, that is from
    comparing the student's own features with the teacher's.

    Args:
        channels: Channels C of the state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """Velocity at state ``x``, shape (N, C, H, W), with ``t_embedding`` of shape (N, C)."""
        x = self.conv1(self.act(x + t_embedding[:, :, None, None]))
        return self.conv2(self.act(self.norm(x)))
