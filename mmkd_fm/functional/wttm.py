"""Transformed teacher matching and its weighted form (arXiv 2402.11148), in log space.

The teacher's probabilities are power transformed, ``p_hat = p^gamma / sum p^gamma``, which equals a
temperature of 1 / gamma on the teacher alone; WTTM weighs each distribution by the power sum
``U = sum p^gamma`` of the untransformed teacher. All functions compute in float32 at least.
"""

import math
from typing import Optional

from torch import Tensor

from mmkd_fm.functional.forms import Softmax, get_form, precise, row_divergence
from mmkd_fm.functional.logit_divergences import check_logits, reduce


def power_sum(teacher_logits: Tensor, gamma: float) -> Tensor:
    """``U_gamma(p) = sum_j p_j^gamma`` of the softmax over the last dimension.

    Args:
        teacher_logits: Softmax logits, shape (..., C).
        gamma: Exponent in (0, 1]; one above 1 sharpens.

    Returns:
        Shape (...), between 1 (one-hot) and C^(1 - gamma) (uniform).

    Raises:
        ValueError: If gamma is not positive and finite.
    """
    _check_gamma(gamma, 'power_sum')
    return Softmax.power_sum(teacher_logits, gamma)


def ttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    gamma: float,
    form: str = 'softmax',
    weight: Optional[Tensor] = None,
    reduction: str = 'mean',
) -> Tensor:
    """TTM: ``KL(p_hat || q)``; no temperature on the student.

    Args:
        student_logits: Shape (N, C).
        teacher_logits: Shape (N, C).
        gamma: Power in (0, 1]; 1 / temperature of the teacher. One above 1 sharpens.
        form: How the logits are read: 'softmax'; 'background_softmax', sigmoid logits as one
            distribution over the classes and the background; 'bernoulli', sigmoid logits as one
            two-class distribution for each class, whose losses are summed.
        weight: Of each sample, shape (N,); what has 0 is ignored, whatever its logits.
        reduction: 'mean', 'sum' or 'none', see `reduce`.

    Raises:
        ValueError: If the shapes differ, a name is unknown or gamma not positive and finite.

    Example:
        >>> ttm_loss(torch.randn(8, 10), torch.randn(8, 10), gamma=0.5)
    """
    _check_gamma(gamma, 'ttm_loss')
    student, teacher = check_logits(student_logits, teacher_logits, weight, 'ttm_loss')
    return reduce(row_divergence(form, student, gamma * precise(teacher)), weight, reduction)


def wttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    gamma: float,
    form: str = 'softmax',
    weight: Optional[Tensor] = None,
    reduction: str = 'mean',
) -> Tensor:
    """WTTM: ``U_gamma(p) KL(p_hat || q)``; its gradient is ``U (q - p_hat)``.

    Args:
        student_logits: Shape (N, C).
        teacher_logits: Shape (N, C).
        gamma: As in `ttm_loss`.
        form: How the logits are read, see `ttm_loss`; 'bernoulli' has a U for each class.
        weight: Of each sample, shape (N,); what has 0 is ignored, whatever its logits.
        reduction: 'mean', 'sum' or 'none', see `reduce`.

    Raises:
        ValueError: If the shapes differ, a name is unknown or gamma not positive and finite.

    Example:
        >>> wttm_loss(torch.randn(8, 10), torch.randn(8, 10), gamma=0.5)
    """
    _check_gamma(gamma, 'wttm_loss')
    student, teacher = check_logits(student_logits, teacher_logits, weight, 'wttm_loss')
    chosen = get_form(form)
    values = chosen.power_sum(teacher, gamma) * chosen.kl(student, gamma * precise(teacher))
    return reduce(values if values.ndim == 1 else values.sum(dim=-1), weight, reduction)


def _check_gamma(gamma: float, name: str) -> None:
    """Refuse what is no power: at 0 or below, the teacher's order is lost or turned round."""
    if not 0 < gamma < math.inf:
        raise ValueError(
            f'{name}: gamma must be positive and finite (1 / temperature of the teacher, in '
            f'(0, 1]; above 1 it sharpens), but got {gamma}'
        )
