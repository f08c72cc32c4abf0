"""How many flow steps an iteration takes."""

import random
from collections.abc import Sequence
from typing import Union


def check_num_steps(num_steps: Union[int, Sequence[int]]) -> tuple[int, ...]:
    """One number of steps, or several to draw from, as a tuple.

    Raises:
        ValueError: If there is none, or one is negative or not whole, or all are 0.
    """
    given = num_steps if isinstance(num_steps, (list, tuple)) else (num_steps,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in given)
    if not whole or not any(given):
        raise ValueError(
            f'num_steps must be a whole number of steps from 1, or a list of such numbers to draw '
            f'from (with 0 among them for a student that also works without the flow), but got '
            f'{num_steps!r}'
        )
    return tuple(given)


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


def warm_up_num_steps(num_steps: int, epoch: int, warmup_epochs: int) -> int:
    """``num_steps``, but no more than the warm-up allows in this epoch.

    The limit is ``floor((epoch + E) / E)`` rounded down to a power of two: 1 in the first E
    epochs, then 2, from epoch 3 E on 4, from 7 E on 8 (E = 10 in FM-KT's code, off by default).

    Args:
        num_steps: Steps without a warm-up, 0 or more.
        epoch: Epoch, from 0.
        warmup_epochs: E; 0 switches the warm-up off.

    Example:
        >>> warm_up_num_steps(8, epoch=10, warmup_epochs=10)
        2
    """
    if not warmup_epochs:
        return num_steps
    limit = (epoch + warmup_epochs) // warmup_epochs
    return min(num_steps, 1 << (limit.bit_length() - 1))
