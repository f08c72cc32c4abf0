"""Transformed teacher matching and its weighted form (arXiv 2402.11148), in log space.

The teacher's probabilities are power transformed, ``p_hat = p^gamma / sum p^gamma``, which equals a
temperature of 1 / gamma on the teacher alone; WTTM weighs each sample by the power sum
``U = sum p^gamma`` of the untransformed teacher. All functions compute in float32 at least.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_fm.functional.logit_divergences import (
    batch_mean,
    check_logits,
    kl_divergence,
    precise,
)


def power_sum(teacher_logits: Tensor, gamma: float) -> Tensor:
    """``U_gamma(p) = sum_j p_j^gamma`` over the last dimension.

    Args:
        teacher_logits: Softmax logits, shape (..., C).
        gamma: Exponent in (0, 1].

    Returns:
        Shape (...), between 1 (one-hot) and C^(1 - gamma) (uniform).
    """
    log_p = F.log_softmax(precise(teacher_logits), dim=-1)
    return torch.logsumexp(gamma * log_p, dim=-1).exp()


def _divergence(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """KL(p_hat || q) per sample, shape (...)."""
    return kl_divergence(precise(student_logits), gamma * precise(teacher_logits))


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """TTM: mean over the batch of ``KL(p_hat || q)``; no temperature on the student.

    Args:
        student_logits: Shape (N, C).
        teacher_logits: Shape (N, C).
        gamma: Power in (0, 1]; 1 / temperature of the teacher.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> ttm_loss(torch.randn(8, 10), torch.randn(8, 10), gamma=0.5)
    """
    check_logits(student_logits, teacher_logits, 'ttm_loss')
    return batch_mean(_divergence(student_logits, teacher_logits, gamma))


def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """WTTM: mean over the batch of ``U_gamma(p) KL(p_hat || q)``.

    Args:
        student_logits: Shape (N, C).
        teacher_logits: Shape (N, C).
        gamma: Power in (0, 1].

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> wttm_loss(torch.randn(8, 10), torch.randn(8, 10), gamma=0.5)
    """
    check_logits(student_logits, teacher_logits, 'wttm_loss')
    weight = power_sum(teacher_logits, gamma)
    return batch_mean(weight * _divergence(student_logits, teacher_logits, gamma))


def bernoulli_wttm(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """WTTM of sigmoid logits: a two-class softmax for each element.

    With ``p = sigmoid(teacher)`` this is ``p_hat = sigmoid(gamma * teacher)`` and
    ``U = p^gamma + (1 - p)^gamma``.

    Args:
        student_logits: Any shape.
        teacher_logits: The same shape.
        gamma: Power in (0, 1].

    Returns:
        ``U KL(p_hat || q)`` of each element, the same shape; its gradient is ``U (q - p_hat)``.
    """
    s, t = precise(student_logits), precise(teacher_logits)
    log_p, log_not_p = F.logsigmoid(t), F.logsigmoid(-t)
    weight = (gamma * log_p).exp() + (gamma * log_not_p).exp()
    log_p_hat, log_not_p_hat = F.logsigmoid(gamma * t), F.logsigmoid(-gamma * t)
    positive = log_p_hat.exp() * (log_p_hat - F.logsigmoid(s))
    negative = log_not_p_hat.exp() * (log_not_p_hat - F.logsigmoid(-s))
    return weight * (positive + negative)


def background_softmax_wttm(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """WTTM of sigmoid logits read as a softmax with one background logit fixed at 0.

    ``p_k = exp(z_k) / (1 + sum_j exp(z_j))``: one distribution over C + 1 classes for each
    location, to which the paper's weight applies as it is.

    Args:
        student_logits: Shape (..., C).
        teacher_logits: Shape (..., C).
        gamma: Power in (0, 1].

    Returns:
        ``U KL(p_hat || q)`` of each location, shape (...).
    """
    s, t = (F.pad(precise(logits), (0, 1)) for logits in (student_logits, teacher_logits))
    return power_sum(t, gamma) * _divergence(s, t, gamma)
