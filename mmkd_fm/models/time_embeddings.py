"""Time embeddings: what a meta-encoder adds to the state so that its velocity depends on the time.

A time embedding is any module built with ``channels`` whose ``forward(t, z)`` takes times, shape
(N,) in [0, 1], and the state, shape (N, C, H, W), and returns what is added to the state, shape
(N, C, 1, 1) or (N, C, H, W). In a half-precision model the state is of the dtype of the parameters,
while the times, which that would round too far, are float32.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.registry import MODELS


def sinusoids(t: Tensor, channels: int) -> Tensor:
    """Cosines, then sines of the time; the periods over 2 pi grow from 1 towards 10000.

    The time is used as it is, in [0, 1], not multiplied by 1000 as diffusion models do.

    Args:
        t: Times, shape (N,).
        channels: Number C of values. An odd one leaves the last value at zero, except for C = 1.

    Returns:
        Shape (N, C).

    Example:
        >>> sinusoids(torch.ones(2), 64)
    """
    half = max(channels // 2, 1)
    exponents = torch.arange(half, dtype=t.dtype, device=t.device) / half
    angles = t[:, None] * torch.exp(-math.log(10000) * exponents)
    values = torch.cat([angles.cos(), angles.sin()], dim=1)[:, :channels]
    return F.pad(values, (0, channels - values.shape[1]))


@MODELS.register_module()
class LinearTimeEmbedding(nn.Module):
    """Sinusoids of the time, then one linear layer (FM-KT, arXiv 2402.02012, for features).

    Args:
        channels: Channels C of the state.

    Example:
        >>> LinearTimeEmbedding(64)(torch.ones(2), torch.randn(2, 64, 32, 32))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Embed times ``t``, shape (N,), as (N, C, 1, 1); the state ``z`` is not used."""
        del z
        values = sinusoids(t, self.linear.in_features)
        return self.linear(values.to(self.linear.weight.dtype))[:, :, None, None]


@MODELS.register_module()
class MLPTimeEmbedding(nn.Module):
    """Sinusoids of the time, linear, ReLU, linear (FM-KT, arXiv 2402.02012, for logits).

    Args:
        channels: Channels C of the state.

    Example:
        >>> MLPTimeEmbedding(64)(torch.ones(2), torch.randn(2, 64, 32, 32))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, channels)
        self.linear2 = nn.Linear(channels, channels)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Embed times ``t``, shape (N,), as (N, C, 1, 1); the state ``z`` is not used."""
        del z
        values = sinusoids(t, self.linear1.in_features)
        hidden = self.linear1(values.to(self.linear1.weight.dtype)).relu()
        return self.linear2(hidden)[:, :, None, None]


@MODELS.register_module()
class StepBranchTimeEmbedding(nn.Module):
    """One residual branch of the state for each step: 1x1 convolution, SiLU, 3x3 depthwise.

    The time in ((i - 1) / num_steps, i / num_steps] selects branch i - 1, the time 0 the first:
    FM-KT's option of a model-based time step (arXiv 2402.02012).

    Args:
        channels: Channels C of the state.
        num_steps: Number S of branches; best the largest number of steps of the transport.

    Raises:
        ValueError: If ``num_steps`` is below 1.

    Example:
        >>> StepBranchTimeEmbedding(64)(torch.ones(2), torch.randn(2, 64, 32, 32))
    """

    def __init__(self, channels: int, num_steps: int = 16) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f'num_steps must be 1 or more, one branch each, but got {num_steps}')
        self.num_steps = num_steps
        self.weight1 = nn.Parameter(torch.empty(num_steps, channels, channels, 1, 1))
        self.bias1 = nn.Parameter(torch.empty(num_steps, channels))
        self.weight2 = nn.Parameter(torch.empty(num_steps, channels, 1, 3, 3))
        self.bias2 = nn.Parameter(torch.empty(num_steps, channels))
        for parameter, fan_in in [
            (self.weight1, channels),
            (self.bias1, channels),
            (self.weight2, 9),
            (self.bias2, 9),
        ]:  # as torch initialises single convolutions
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Branch of the time ``t``, shape (N,), all equal, at the state ``z``, (N, C, H, W)."""
        # t = i / num_steps is rounded and may lie just above its cell: allow a thousandth of one
        cell = (t[:1] * self.num_steps - 1e-3).ceil().long() - 1
        cell = cell.clamp(0, self.num_steps - 1)
        # The index stays on the device: reading it would stop the host at each step. And selecting
        # from stacked weights gives those of all other branches a gradient of zero instead of none,
        # so that DDP, without a search for unused parameters, does not wait for them.
        weight1, bias1, weight2, bias2 = (
            parameter.index_select(0, cell).squeeze(0)
            for parameter in (self.weight1, self.bias1, self.weight2, self.bias2)
        )
        hidden = F.silu(F.conv2d(z, weight1, bias1))
        return F.conv2d(hidden, weight2, bias2, padding=1, groups=len(weight2))
