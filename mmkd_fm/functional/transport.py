"""Serial transport of student features towards the teacher's (FM-KT, arXiv 2402.02012).

Time convention, here and everywhere in this package: t = 1 is the student, t = 0 the teacher. With
N steps, t runs through 1, (N-1)/N, ..., 1/N and the state is updated by ``Z <- Z - v / N``.
"Serial" means that every state comes from the student and earlier predictions: the teacher is never
an input.
"""

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from mmkd_fm.functional.schedules import get_schedule


class Transport(NamedTuple):
    """What a transport returns; K is the number of steps.

    Attributes:
        endpoint: What is passed on: the mean of the estimates (x itself with 0 steps), like x. For
            the rectified flow this equals the state that the Euler steps end in.
        estimates: The teacher as estimated at each step, shape (K, *x.shape).
        velocities: The velocity at each step, shape (K, *x.shape).
        times: The time of each step, falling from 1, shape (K,).
    """

    endpoint: Tensor
    estimates: Tensor
    velocities: Tensor
    times: Tensor


def transport(
    x: Tensor,
    velocity: Callable[[Tensor, Tensor], Tensor],
    num_steps: int,
    schedule: str = 'rectified',
) -> Transport:
    """Carry ``x`` towards the teacher by Euler steps along ``velocity``.

    Args:
        x: Student features X^S, shape (N, ...). Not modified.
        velocity: Called as ``velocity(z, t)`` with the state ``z`` like ``x`` and the time ``t`` of
            shape (N,); returns dZ/dt like ``x``.
        num_steps: Number of steps, 0 or more.
        schedule: Name of the noise schedule.

    Raises:
        ValueError: If ``num_steps`` is negative or the schedule unknown.

    Example:
        >>> transport(x, lambda z, t: z, num_steps=4).endpoint
    """
    if num_steps < 0:
        raise ValueError(f'num_steps must be 0 or more, but got {num_steps}')
    flow = get_schedule(schedule)
    times = torch.arange(num_steps, 0, -1, dtype=x.dtype, device=x.device) / max(num_steps, 1)
    if num_steps == 0:
        none = x.new_zeros((0, *x.shape))
        return Transport(x, none, none, times)
    z, estimates, velocities = x, [], []
    for time in times:
        t = time.expand(len(x))
        v = velocity(z, t)
        z = z - v / num_steps
        velocities.append(v)
        # the original student feature, never the current state
        estimates.append(flow.teacher_estimate(x, v, t))
    estimates = torch.stack(estimates)
    return Transport(estimates.mean(dim=0), estimates, torch.stack(velocities), times)
