"""Serial transport of student features towards the teacher's (FM-KT, arXiv 2402.02012).

Time convention, here and everywhere in this package: t = 1 is the student, t = 0 the teacher. With
N steps, t runs through 1, (N-1)/N, ..., 1/N and the state is updated by ``Z <- Z - v / N``.
"Serial" means that every state comes from the student and earlier predictions: the teacher is never
an input.
"""

from typing import Callable, NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from mmkd_fm.functional.schedules import Schedule, get_schedule

Velocity = Callable[[Tensor, Tensor], Tensor]
States = Callable[[Tensor], Tensor]


class Transport(NamedTuple):
    """What a transport returns; K is the number of steps.

    Attributes:
        endpoint: What is passed on: the mean of the estimates (x itself with 0 steps), like x. For
            the rectified flow this equals the state that the steps end in.
        estimates: The teacher as estimated at each step, shape (K, *x.shape); None if not kept.
        velocities: The velocity followed at each step, shape (K, *x.shape); None if not kept.
        times: The time that each step starts from, falling, shape (K,).
        loss: Mean of the step losses, a scalar; None without a step loss.
    """

    endpoint: Tensor
    estimates: Optional[Tensor]
    velocities: Optional[Tensor]
    times: Tensor
    loss: Optional[Tensor] = None


def transport(
    x: Tensor,
    velocity: Velocity,
    num_steps: int,
    schedule: Union[str, Schedule] = 'rectified',
    solver: str = 'euler',
    step_loss: Optional[Callable[[Tensor, Tensor, Tensor], Tensor]] = None,
    checkpoint: bool = False,
    keep_steps: bool = True,
    states: Optional[States] = None,
) -> Transport:
    """Carry ``x`` towards the teacher along ``velocity``, in training and at inference.

    Args:
        x: Student features X^S, shape (N, ...). Not modified.
        velocity: Called as ``velocity(z, t)`` with the state ``z`` like ``x`` and the time ``t`` of
            shape (N,); returns dZ/dt like ``x``.
        num_steps: Number of steps K, 0 or more.
        schedule: The noise schedule or its name. One that is singular at t = 1 starts half a step
            later (`Schedule.start`).
        solver: 'euler' (order 1, as in training), 'midpoint' or 'heun' (order 2). The latter two
            evaluate the velocity twice a step.
        step_loss: Called as ``step_loss(estimate, velocity, t)`` at each step; returns a scalar.
        checkpoint: Recompute each step, its loss included, in the backward pass: memory then grows
            by one copy of ``x`` a step. The velocity must be deterministic and keep no statistics.
        keep_steps: Return all estimates and velocities. Without, they are freed step by step.
        states: Called as ``states(t)`` with t of shape (N,); what it returns, like ``x``, is the
            state that a step starts from, in the place of the one that the step before ended in.
            The transport is then no longer serial.

    Raises:
        ValueError: If ``num_steps`` is negative or not whole, the schedule or the solver unknown,
            or the velocity has another shape than the state.

    Example:
        >>> transport(x, lambda z, t: z, num_steps=4).endpoint
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f'num_steps must be a whole number, 0 or more, but got {num_steps!r}')
    if solver not in SOLVERS:
        raise ValueError(f'unknown solver {solver!r}; valid names: {", ".join(sorted(SOLVERS))}')
    flow, follow = get_schedule(schedule), SOLVERS[solver]
    if num_steps == 0:
        none = x.new_zeros((0, *x.shape)) if keep_steps else None
        return Transport(x, none, none, times=x.new_zeros(0))
    start = flow.start(num_steps)
    step_size = start / num_steps
    times = torch.arange(num_steps, 0, -1, dtype=x.dtype, device=x.device) / num_steps * start

    def checked_velocity(z: Tensor, t: Tensor) -> Tensor:
        v = velocity(z, t)
        if v.shape != z.shape:
            raise ValueError(
                f'a velocity has the shape of its state, {tuple(z.shape)}, but got {tuple(v.shape)}'
            )
        return v

    def step(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
        stages = follow(checked_velocity, z, t, step_size)
        v = _mean([v for _, v in stages])
        # of the original student feature, never of the current state
        estimate = _mean([flow.teacher_estimate(x, v, t) for t, v in stages])
        loss = None if step_loss is None else step_loss(estimate, v, t)
        return z - step_size * v, estimate, v, loss

    z, losses, estimates, velocities = x, [], [], []
    total = None
    for time in times:
        t = time.expand(x.shape[0])  # not len(x), which a trace would keep
        if states is not None:
            z = states(t)
        if checkpoint and torch.is_grad_enabled():
            z, estimate, v, loss = recompute_in_backward(step, z, t, use_reentrant=False)
        else:
            z, estimate, v, loss = step(z, t)
        total = estimate if total is None else total + estimate
        losses.append(loss)
        if keep_steps:
            estimates.append(estimate)
            velocities.append(v)
        del estimate, v
    return Transport(
        endpoint=total / num_steps,
        estimates=torch.stack(estimates) if keep_steps else None,
        velocities=torch.stack(velocities) if keep_steps else None,
        times=times,
        loss=None if step_loss is None else _mean(losses),
    )


# Each solver returns the times and velocities whose mean a step follows.


def _euler(velocity: Velocity, z: Tensor, t: Tensor, h: float) -> list[tuple[Tensor, Tensor]]:
    return [(t, velocity(z, t))]


def _midpoint(velocity: Velocity, z: Tensor, t: Tensor, h: float) -> list[tuple[Tensor, Tensor]]:
    middle = t - h / 2
    return [(middle, velocity(z - h / 2 * velocity(z, t), middle))]


def _heun(velocity: Velocity, z: Tensor, t: Tensor, h: float) -> list[tuple[Tensor, Tensor]]:
    v, end = velocity(z, t), (t - h).clamp(min=0)
    return [(t, v), (end, velocity(z - h * v, end))]


SOLVERS = {'euler': _euler, 'midpoint': _midpoint, 'heun': _heun}


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else sum(values[1:], values[0]) / len(values)
