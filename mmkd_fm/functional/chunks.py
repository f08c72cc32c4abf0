"""A loss over all locations of dense heads, without keeping what it computes for them.

A head of 80 classes gives 16 million logits for one COCO image; autograd would keep ten copies of
them. Here the maps are walked in pieces, and the gradient of each piece is computed at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmkd_fm.functional.forms import precise


@dataclass(frozen=True)
class Chunk:
    """A piece of one level: some images, or some rows of pixels of one image.

    Attributes:
        level: Index of the level.
        images: Which images.
        lines: Which lines of the map.
    """

    level: int
    images: slice
    lines: slice

    def rows(self, maps: Sequence[Tensor], channels: int) -> Tensor:
        """The piece as rows, shapes (N, A * channels, H, W) to (n * h * W * A, channels)."""
        piece = maps[self.level][self.images, :, self.lines]
        return piece.permute(0, 2, 3, 1).reshape(-1, channels)

    def write(self, maps: Sequence[Tensor], rows: Tensor) -> None:
        """Write rows back into the maps."""
        piece = maps[self.level][self.images, :, self.lines]
        n, channels, h, width = piece.shape
        piece.copy_(rows.reshape(n, h, width, channels).permute(0, 3, 1, 2))


def chunks(maps: Sequence[Tensor], size: int = 2**20) -> Iterator[Chunk]:
    """Pieces of maps (N, C, H, W) with about ``size`` elements each, at least a line of pixels."""
    for level, x in enumerate(maps):
        if not x.numel():
            continue
        n, channels, height, width = x.shape
        images = max(1, size // (channels * height * width))
        lines = max(1, size // (channels * width)) if images == 1 else height
        for i in range(0, n, images):
            for j in range(0, height, lines):
                yield Chunk(level, slice(i, i + images), slice(j, j + lines))


def chunked_sum(
    loss: Callable[[Chunk, Tensor], tuple[Tensor, Tensor]],
    maps: Sequence[Tensor],
    channels: int,
    size: int = 2**20,
) -> tuple[Tensor, Tensor]:
    """Sum of a loss over the rows of dense maps; it needs little more memory than their gradient.

    Args:
        loss: Takes a piece and the student's rows there, shape (M, channels), and returns the sum
            of their losses, a scalar, and what else is to be summed, any shape, detached. It is
            called once for each piece.
        maps: The student's maps, each of shape (N, A * channels, H, W).
        channels: Width of a row.
        size: Elements in a piece.

    Returns:
        Both sums. The first can be differentiated once.

    Example:
        >>> total, count = chunked_sum(
        ...     lambda chunk, rows: (rows.square().sum(), torch.tensor(len(rows))),
        ...     [torch.randn(2, 6, 8, 8, requires_grad=True)], channels=3)
    """
    return _ChunkedSum.apply(loss, channels, size, *maps)


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss, channels: int, size: int, *maps: Tensor) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad)
        # in float32 also for half precision: here the loss is not scaled yet
        gradients = [
            torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) if wanted else x
            for x in maps
        ]
        total, more = precise(maps[0]).new_zeros(()), None
        for chunk in chunks(maps, size):
            rows = precise(chunk.rows(maps, channels)).detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                value, other = loss(chunk, rows)
            if wanted:
                chunk.write(gradients, torch.autograd.grad(value, rows)[0])
            total += value.detach()
            more = other if more is None else more + other
        if wanted:
            ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in maps]
        more = total.new_zeros(()) if more is None else more
        ctx.mark_non_differentiable(more)
        return total, more

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple:
        gradients = [(grad * g).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes)]
        return (None, None, None, *gradients)
