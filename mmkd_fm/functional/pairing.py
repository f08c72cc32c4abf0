"""Pair decoupling: teachers of other samples as targets (FM-KT, arXiv 2402.02012)."""

import random

import torch
from torch import Tensor


def decouple_pairs(batch_size: int, ratio: float, seed: int, iteration: int) -> Tensor:
    """Which sample's teacher each sample of a batch is compared with.

    A pure function of its arguments, like `draw_num_steps`.

    The first ``round(ratio * N)`` samples keep their own teacher, the teachers of the others are
    permuted among themselves. Students and labels stay; index the teacher with the result, which
    makes a copy and leaves the teacher's tensor as it is.

    Args:
        batch_size: N.
        ratio: Share of the samples that keep their teacher, in [0, 1]; 1 permutes nothing.
        seed: Seed of the sequence of permutations.
        iteration: Training iteration, from 0.

    Returns:
        A permutation of 0 to N - 1, int64, shape (N,).

    Raises:
        ValueError: If the ratio is outside [0, 1].

    Example:
        >>> order = decouple_pairs(len(teacher), 0.5, seed=0, iteration=10)
        >>> loss = metric(student, teacher[order])
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f'the ratio of kept pairs must be in [0, 1], but got {ratio}')
    order = list(range(batch_size))
    kept = round(ratio * batch_size)
    others = order[kept:]
    # a stream of its own: not that of the numbers of steps
    random.Random(f'pairs/{seed}/{iteration}').shuffle(others)
    return torch.tensor(order[:kept] + others, dtype=torch.int64)
