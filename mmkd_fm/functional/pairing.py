"""Pair decoupling: teachers of other samples as targets (FM-KT, arXiv 2402.02012)."""

import torch
from torch import Tensor


def decouple_pairs(batch_size: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Which sample's teacher each sample of a batch is compared with.

    The first ``round(ratio * N)`` samples keep their own teacher, the teachers of the others are
    permuted among themselves. Students and labels stay; index the teacher with the result, which
    makes a copy and leaves the teacher's tensor as it is.

    Args:
        batch_size: N.
        ratio: Share of the samples that keep their teacher, in [0, 1]; 1 permutes nothing.
        generator: Where the permutation is drawn from.

    Returns:
        A permutation of 0 to N - 1, int64, shape (N,).

    Raises:
        ValueError: If the ratio is outside [0, 1].

    Example:
        >>> order = decouple_pairs(len(teacher), 0.5, torch.Generator().manual_seed(0))
        >>> loss = metric(student, teacher[order])
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f'the ratio of kept pairs must be in [0, 1], but got {ratio}')
    kept = round(ratio * batch_size)
    permuted = kept + torch.randperm(batch_size - kept, generator=generator)
    return torch.cat([torch.arange(kept), permuted])
