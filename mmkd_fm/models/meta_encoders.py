"""Meta-encoders: the velocity networks of FM-KT (arXiv 2402.02012).

A meta-encoder is any module built with ``channels`` whose ``forward(x, t_embedding)`` takes the
state, shape (N, C, H, W), and the embedded time, shape (N, C, 1, 1) or (N, C, H, W), and returns a
velocity of the shape of the state.

Those of this module add the two first. At the start of training they return zero, so that training
starts from comparing the student's own features with the teacher's; the gradient of what keeps them
at zero is not zero. They treat samples apart, are deterministic and keep no statistics, hence may
be recomputed in the backward pass.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.registry import MODELS


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position.

    Args:
        channels: Channels C of the map.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SampleNorm(nn.GroupNorm):
    """GroupNorm of one group: normalises each sample over channels and positions.

    Args:
        channels: Channels C of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, H, W)."""
        # not of torch.nn.functional, which refuses a single number (N = C = H = W = 1)
        return torch.group_norm(x, 1, self.weight, self.bias, self.eps)


@MODELS.register_module()
class ConvMetaEncoder(nn.Module):
    """SiLU, 3x3 convolution, GroupNorm of one group, SiLU, 3x3 convolution; no bias, no skip.

    The last convolution starts at zero.

    Args:
        channels: Channels C of the state.

    Example:
        >>> ConvMetaEncoder(64)(torch.randn(2, 64, 32, 32), torch.randn(2, 64, 1, 1))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = SampleNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """Velocity at state ``x``, shape (N, C, H, W); ``t_embedding`` is added to it."""
        x = self.conv1(self.act(x + t_embedding))
        return self.conv2(self.act(self.norm(x)))


@MODELS.register_module()
class DepthwiseMetaEncoder(nn.Module):
    """ReLU, 1x1 convolution, GroupNorm of one group, ReLU, 3x3 depthwise convolution; no bias.

    The depthwise convolution starts at zero.

    Args:
        channels: Channels C of the state.

    Example:
        >>> DepthwiseMetaEncoder(64)(torch.randn(2, 64, 32, 32), torch.randn(2, 64, 1, 1))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = SampleNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """Velocity at state ``x``, shape (N, C, H, W); ``t_embedding`` is added to it."""
        x = self.conv1(self.act(x + t_embedding))
        return self.conv2(self.act(self.norm(x)))


@MODELS.register_module()
class ResidualConvMetaEncoder(nn.Module):
    """Two residual blocks, each x + GroupNorm(3x3 convolution(SiLU(x))) with one group; no bias.

    Deviation from FM-KT: a scale per channel, zero at the start, follows the blocks.

    Args:
        channels: Channels C of the state.

    Example:
        >>> ResidualConvMetaEncoder(64)(torch.randn(2, 64, 32, 32), torch.randn(2, 64, 1, 1))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                SampleNorm(channels),
            )
            for _ in range(2)
        )
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """Velocity at state ``x``, shape (N, C, H, W); ``t_embedding`` is added to it."""
        x = x + t_embedding
        for block in self.blocks:
            x = x + block(x)
        return self.scale * x


@MODELS.register_module()
class MLPMetaEncoder(nn.Module):
    """Blocks of 1x1 convolution, ReLU, 1x1 convolution (no bias), skip, channel LayerNorm.

    The weight of the last LayerNorm starts at zero. A LayerNorm last bounds the velocity: at each
    position its norm is at most the largest weight times the root of C, plus the bias.

    Args:
        channels: Channels C of the state.
        num_blocks: Number of blocks.

    Raises:
        ValueError: If ``num_blocks`` is below 1.

    Example:
        >>> MLPMetaEncoder(64)(torch.randn(2, 64, 32, 32), torch.randn(2, 64, 1, 1))
    """

    def __init__(self, channels: int, num_blocks: int = 1) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f'num_blocks must be 1 or more, but got {num_blocks}')
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 1, bias=False),
            )
            for _ in range(num_blocks)
        )
        self.norms = nn.ModuleList(ChannelLayerNorm(channels) for _ in range(num_blocks))
        nn.init.zeros_(self.norms[-1].weight)

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """Velocity at state ``x``, shape (N, C, H, W); ``t_embedding`` is added to it."""
        x = x + t_embedding
        for block, norm in zip(self.blocks, self.norms):
            x = norm(x + block(x))
        return x


class WindowAttention(nn.Module):
    """Self-attention inside the windows of a map, with a bias per relative position (Swin).

    A map that the window does not divide is continued below and to the right; what is added there
    is hidden from the attention, hence changes nothing.

    Args:
        channels: Channels C of the map.
        num_heads: Number of heads.
        head_dim: Dimension of each head.
        window_size: Side S of a window.
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Conv2d(channels, 3 * num_heads * head_dim, 1, bias=False)
        self.proj = nn.Conv2d(num_heads * head_dim, channels, 1)
        span = 2 * window_size - 1  # offsets from -(S - 1) to S - 1
        self.position_bias = nn.Parameter(torch.empty(num_heads, span * span))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        side = torch.arange(window_size)
        position = (side[:, None] * span + side).flatten()  # row * span + column
        offset = position[:, None] - position + (window_size - 1) * (span + 1)
        self.register_buffer('offset', offset, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the windows of ``x``, shape (N, C, H, W); the result is like ``x``."""
        (n, _, height, width), side = x.shape, self.window_size
        # rounded up without a negative number, whose division ONNX would round another way
        rows, columns = ((length + side - 1) // side for length in (height, width))
        padding = (0, columns * side - width, 0, rows * side - height)
        qkv = self.qkv(x)
        mask = self.position_bias[:, self.offset][None]  # (1, heads, S * S, S * S)
        if any(padding):
            qkv = F.pad(qkv, padding)
            hidden = F.pad(qkv.new_zeros(height, width), padding, value=1).bool()
            hidden = hidden.reshape(rows, side, columns, side).transpose(1, 2)
            hidden = hidden.reshape(rows * columns, 1, 1, side * side)
            mask = mask.masked_fill(hidden, float('-inf')).repeat(n, 1, 1, 1)
        qkv = qkv.reshape(n, 3, self.num_heads, -1, rows, side, columns, side)
        # to (3, N * windows, heads, S * S, head_dim) and back
        qkv = qkv.permute(1, 0, 4, 6, 2, 5, 7, 3)
        q, k, v = qkv.reshape(3, n * rows * columns, self.num_heads, side * side, -1)
        x = F.scaled_dot_product_attention(q, k, v, mask.to(q.dtype))
        x = x.reshape(n, rows, columns, self.num_heads, side, side, -1)
        x = x.permute(0, 3, 6, 1, 4, 2, 5).reshape(n, -1, rows * side, columns * side)
        return self.proj(x[:, :, :height, :width])


@MODELS.register_module()
class WindowTransformerMetaEncoder(nn.Module):
    """One pre-norm transformer block with attention in windows, after Swin (arXiv 2103.14030).

    x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x)) with GELU. Deviations from FM-KT: a
    scale per channel, zero at the start, follows the block; the windows are not shifted, and maps
    that they do not divide are padded, where the authors' are smaller; the MLP's width follows C,
    where theirs is 1024.

    Args:
        channels: Channels C of the state.
        num_heads: Heads of the attention.
        head_dim: Dimension of each head.
        window_size: Side of a window; need not divide the map's.
        mlp_ratio: Hidden channels of the MLP over C.

    Raises:
        ValueError: If ``window_size`` is not above 0.

    Example:
        >>> WindowTransformerMetaEncoder(64)(torch.randn(2, 64, 32, 32), torch.randn(2, 64, 1, 1))
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        head_dim: int = 64,
        window_size: int = 7,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        if window_size < 1:
            raise ValueError(f'window_size must be 1 or more positions, but got {window_size}')
        self.norm1 = ChannelLayerNorm(channels)
        self.attention = WindowAttention(channels, num_heads, head_dim, window_size)
        self.norm2 = ChannelLayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, mlp_ratio * channels, 1),
            nn.GELU(),
            nn.Conv2d(mlp_ratio * channels, channels, 1),
        )
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """Velocity at state ``x``, shape (N, C, H, W); ``t_embedding`` is added to it."""
        x = x + t_embedding
        x = x + self.attention(self.norm1(x))
        return self.scale * (x + self.mlp(self.norm2(x)))


@MODELS.register_module()
class ConvNeXtMetaEncoder(nn.Module):
    """Depthwise convolution, channel LayerNorm, 1x1 to 4C, GELU, 1x1 to C (arXiv 2201.03545).

    Deviations from the block: no skip, so that the layer scale, zero at the start, scales the whole
    velocity; no drop path, which would make it random.

    Args:
        channels: Channels C of the state.
        kernel_size: Odd size of the depthwise convolution.

    Raises:
        ValueError: If ``kernel_size`` is even.

    Example:
        >>> ConvNeXtMetaEncoder(64)(torch.randn(2, 64, 32, 32), torch.randn(2, 64, 1, 1))
    """

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd to keep the size, but got {kernel_size}')
        self.conv = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )
        self.norm = ChannelLayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """Velocity at state ``x``, shape (N, C, H, W); ``t_embedding`` is added to it."""
        return self.scale * self.mlp(self.norm(self.conv(x + t_embedding)))
