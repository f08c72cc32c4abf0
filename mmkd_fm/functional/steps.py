"""How many flow steps an iteration takes."""

import random
from collections.abc import Sequence


def draw_num_steps(choices: Sequence[int], seed: int, iteration: int) -> int:
    """One of `choices`, uniformly, as a pure function of (seed, iteration).

    Purity makes the draw equal on all ranks, needs no state to resume and takes nothing from the
    global generators.

    Args:
        choices: Numbers of steps to draw from, at least one.
        seed: Seed of the sequence of draws.
        iteration: Training iteration, from 0.

    Example:
        >>> draw_num_steps((1, 2, 4), seed=0, iteration=10)
    """
    if len(choices) == 1:
        return choices[0]
    uniform = random.Random(f'{seed}/{iteration}').random()
    return choices[int(uniform * len(choices))]
