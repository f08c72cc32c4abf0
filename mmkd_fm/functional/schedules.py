"""Noise schedules: how the student's X^S and the teacher's X^T are mixed along the flow.

The interpolant is ``Z_t = alpha_t X^S + sigma_t X^T``. Time runs from t = 1 at the student DOWN to
t = 0 at the teacher, the reverse of most of the flow-matching literature.
"""

from torch import Tensor


class RectifiedFlow:
    """Straight lines: ``alpha_t = t``, ``sigma_t = 1 - t`` (FM-KT, arXiv 2402.02012).

    Example:
        >>> schedule = RectifiedFlow()
        >>> v = schedule.velocity(x_student, x_teacher, t)
        >>> schedule.teacher_estimate(x_student, v, t)  # x_teacher again
    """

    def alpha(self, t: Tensor) -> Tensor:
        """Share of the student at time ``t``, shape (N,), in [0, 1]."""
        return t

    def sigma(self, t: Tensor) -> Tensor:
        """Share of the teacher at time ``t``, shape (N,), in [0, 1]."""
        return 1 - t

    def velocity(self, x_student: Tensor, x_teacher: Tensor, t: Tensor) -> Tensor:
        """``dZ_t/dt = alpha'_t X^S + sigma'_t X^T``, here ``X^S - X^T``, shape (N, ...)."""
        del t
        return x_student - x_teacher

    def teacher_estimate(self, x_student: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """``(alpha'_t X^S - v) / -sigma'_t``, here ``X^S - v``, shape (N, ...)."""
        del t
        return x_student - velocity


SCHEDULES = {'rectified': RectifiedFlow()}


def get_schedule(name: str) -> RectifiedFlow:
    """The schedule of that name.

    Raises:
        ValueError: If there is none; the message lists the valid names.
    """
    if name not in SCHEDULES:
        raise ValueError(f'unknown schedule {name!r}; valid names: {", ".join(sorted(SCHEDULES))}')
    return SCHEDULES[name]
