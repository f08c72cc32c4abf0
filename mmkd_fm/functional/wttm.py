"""Transformed teacher matching and its weighted form (arXiv 2402.11148), in log space.

The teacher's probabilities are power transformed, ``p_hat = p^gamma / sum p^gamma``, which equals a
temperature of 1 / gamma on the teacher alone; WTTM weighs each sample by the power sum
``U = sum p^gamma`` of the untransformed teacher. All functions compute in float32 at least.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def _precise(x: Tensor) -> Tensor:
    """``x`` in float32 if it came in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def power_sum(teacher_logits: Tensor, gamma: float) -> Tensor:
    """``U_gamma(p) = sum_j p_j^gamma`` over the last dimension.

    Args:
        teacher_logits: Softmax logits, shape (..., C).
        gamma: Exponent in (0, 1].

    Returns:
        Shape (...), between 1 (one-hot) and C^(1 - gamma) (uniform).
    """
    log_p = F.log_softmax(_precise(teacher_logits), dim=-1)
    return torch.logsumexp(gamma * log_p, dim=-1).exp()


def _divergence(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """KL(p_hat || q) per sample, shape (...)."""
    log_q = F.log_softmax(_precise(student_logits), dim=-1)
    log_p_hat = F.log_softmax(gamma * _precise(teacher_logits), dim=-1)
    return F.kl_div(log_q, log_p_hat, reduction='none', log_target=True).sum(dim=-1)


def _batch_mean(values: Tensor) -> Tensor:
    """Mean that is 0, connected to the graph, for an empty batch."""
    return values.sum() / max(values.numel(), 1)


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """TTM: mean over the batch of ``KL(p_hat || q)``; no temperature on the student.

    Args:
        student_logits: Shape (N, C).
        teacher_logits: Shape (N, C).
        gamma: Power in (0, 1]; 1 / temperature of the teacher.

    Example:
        >>> ttm_loss(torch.randn(8, 10), torch.randn(8, 10), gamma=0.5)
    """
    return _batch_mean(_divergence(student_logits, teacher_logits, gamma))


def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """WTTM: mean over the batch of ``U_gamma(p) KL(p_hat || q)``.

    Args:
        student_logits: Shape (N, C).
        teacher_logits: Shape (N, C).
        gamma: Power in (0, 1].

    Example:
        >>> wttm_loss(torch.randn(8, 10), torch.randn(8, 10), gamma=0.5)
    """
    weight = power_sum(teacher_logits, gamma)
    return _batch_mean(weight * _divergence(student_logits, teacher_logits, gamma))


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
    s, t = _precise(student_logits), _precise(teacher_logits)
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
    s, t = (F.pad(_precise(logits), (0, 1)) for logits in (student_logits, teacher_logits))
    return power_sum(t, gamma) * _divergence(s, t, gamma)
