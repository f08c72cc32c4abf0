"""Noise schedules: how the student's X^S and the teacher's X^T are mixed along the flow.

The interpolant is ``Z_t = alpha_t X^S + sigma_t X^T``. Time runs from t = 1 at the student DOWN to
t = 0 at the teacher, the reverse of most of the flow-matching literature.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Union

import torch
from torch import Tensor


class Schedule(ABC):
    """One way of mixing; subclasses say what ``alpha_t``, ``sigma_t`` and their derivatives are.

    A velocity and an estimate of the teacher carry the same information:
    ``v = alpha'_t X^S + sigma'_t X^T`` can be solved for X^T. Networks predict the *residual*
    ``r = X^S - X^T``, from which `residual_velocity` makes the velocity: for the rectified flow
    both are the same, while for the others solving a predicted velocity for X^T divides by a
    ``sigma'_t`` that comes close to 0.

    Example:
        >>> schedule = RectifiedFlow()
        >>> v = schedule.velocity(x_student, x_teacher, t)
        >>> schedule.teacher_estimate(x_student, v, t)  # x_teacher again
    """

    singular = False
    """Whether ``sigma'_t`` is infinite at t = 1, where therefore nothing may be evaluated."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the student at times ``t`` in [0, 1], any shape."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Share of the teacher at times ``t`` in [0, 1], any shape."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """Derivative of `alpha`."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """Derivative of `sigma`; negative."""

    def start(self, num_steps: int) -> float:
        """Time of the first of ``num_steps`` steps; all steps are of size ``start / num_steps``.

        1, where the student is; with a singularity there, half a step later.
        """
        return 1 - 0.5 / num_steps if self.singular else 1.0

    def interpolate(self, x_student: Tensor, x_teacher: Tensor, t: Tensor) -> Tensor:
        """``Z_t = alpha_t X^S + sigma_t X^T``; shapes as for `velocity`."""
        alpha, sigma = (_expand(share(t), x_student) for share in (self.alpha, self.sigma))
        return alpha * x_student + sigma * x_teacher

    def velocity(self, x_student: Tensor, x_teacher: Tensor, t: Tensor) -> Tensor:
        """``dZ_t/dt = alpha'_t X^S + sigma'_t X^T``.

        Args:
            x_student: X^S, shape (N, ...).
            x_teacher: X^T, like ``x_student``.
            t: Times, shape (N,).

        Returns:
            Like ``x_student``.
        """
        d_alpha, d_sigma = (_expand(d(t), x_student) for d in (self.d_alpha, self.d_sigma))
        return d_alpha * x_student + d_sigma * x_teacher

    def residual_velocity(self, x_student: Tensor, residual: Tensor, t: Tensor) -> Tensor:
        """Velocity towards the teacher ``X^S - residual``; shapes as for `velocity`."""
        return self.velocity(x_student, x_student - residual, t)

    def teacher_estimate(self, x_student: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """``(alpha'_t X^S - v) / -sigma'_t``, the inverse of `velocity`; shapes as there."""
        d_alpha, d_sigma = (_expand(d(t), x_student) for d in (self.d_alpha, self.d_sigma))
        return (velocity - d_alpha * x_student) / d_sigma


class RectifiedFlow(Schedule):
    """Straight lines: ``alpha_t = t``, ``sigma_t = 1 - t`` (FM-KT, arXiv 2402.02012)."""

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102 (documented in Schedule, as below)
        return t

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return -torch.ones_like(t)

    # what the formulae of Schedule come to here, without their rounding and their passes

    def velocity(self, x_student: Tensor, x_teacher: Tensor, t: Tensor) -> Tensor:  # noqa: D102
        del t
        return x_student - x_teacher

    def residual_velocity(  # noqa: D102
        self, x_student: Tensor, residual: Tensor, t: Tensor
    ) -> Tensor:
        del x_student, t
        return residual

    def teacher_estimate(  # noqa: D102
        self, x_student: Tensor, velocity: Tensor, t: Tensor
    ) -> Tensor:
        del t
        return x_student - velocity


class VPSchedule(Schedule):
    """Variance preserving: ``log alpha_t = -a s^2 / 4 - b s / 2``, ``alpha^2 + sigma^2 = 1``.

    Here ``s = 1 - t`` runs from the student to the teacher. alpha falls from 1 to 0.0066.

    Args:
        a: Growth of the noise rate, above 0.
        b: Noise rate at the student, above 0.

    Raises:
        ValueError: If one is out of range.
    """

    singular = True

    def __init__(self, a: float = 19.9, b: float = 0.1) -> None:
        if not (a > 0 and b > 0):
            raise ValueError(f'VPSchedule: a and b must be above 0, but got a={a}, b={b}')
        self.a, self.b = a, b

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -self.a * (1 - t) ** 2 / 4 - self.b * (1 - t) / 2

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return self.alpha(t) * (self.a * (1 - t) + self.b) / 2

    def d_sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)


class VESchedule(Schedule):
    """Variance exploding: ``alpha_t = 1``, ``sigma_t = a sqrt(b^(2 (1 - t)) - 1)``.

    The state ends in ``X^S + sigma_0 X^T``, which is not the teacher; the estimates are. The form
    that others give for FM-KT, ``alpha_t = a (b / a)^t`` and ``sigma_t = 1``, has a velocity
    without a teacher in it; docs/fmkt.md derives this one.

    Args:
        a: Scale, above 0.
        b: Growth, above 1.

    Raises:
        ValueError: If one is out of range.
    """

    singular = True

    def __init__(self, a: float = 0.02, b: float = 100.0) -> None:
        if not (a > 0 and b > 1):
            raise ValueError(f'VESchedule: a must be above 0 and b above 1, but got a={a}, b={b}')
        self.a, self.b = a, b

    def _growth(self, t: Tensor) -> Tensor:
        """``b^(2 (1 - t)) - 1``."""
        return torch.expm1(2 * math.log(self.b) * (1 - t))

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return self.a * self._growth(t).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        growth = self._growth(t)
        return -self.a * math.log(self.b) * (growth + 1) / growth.sqrt()


SCHEDULES: dict[str, Schedule] = {}


def register_schedule(name: str) -> Callable[[type[Schedule]], type[Schedule]]:
    """Class decorator that makes a schedule of yours known under ``name``.

    Raises:
        ValueError: If the name is taken.

    Example:
        >>> @register_schedule('cosine')
        ... class CosineSchedule(Schedule):
        ...     ...
    """

    def register(schedule: type[Schedule]) -> type[Schedule]:
        if name in SCHEDULES:
            raise ValueError(f'the schedule {name!r} exists already: {type(SCHEDULES[name])}')
        SCHEDULES[name] = schedule()
        return schedule

    return register


register_schedule('rectified')(RectifiedFlow)
register_schedule('vp')(VPSchedule)
register_schedule('ve')(VESchedule)


def get_schedule(schedule: Union[str, Schedule]) -> Schedule:
    """The schedule of that name; a schedule is returned as it is.

    Raises:
        ValueError: If there is none; the message lists the valid names.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(
            f'unknown schedule {schedule!r}; valid names: {", ".join(sorted(SCHEDULES))}, or a '
            f'class of yours decorated with mmkd_fm.functional.register_schedule'
        )
    return SCHEDULES[schedule]


def _expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """Shape (N,) to (N, 1, ...), in the dtype of ``like``."""
    return coefficient.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
