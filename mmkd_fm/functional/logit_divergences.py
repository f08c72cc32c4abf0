"""Divergences between a student's and a teacher's class logits, in log space.

All functions compute in float32 at least.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_fm.functional.divergences import check_temperature


def precise(x: Tensor) -> Tensor:
    """``x`` in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def batch_mean(values: Tensor) -> Tensor:
    """Mean that is 0, connected to the graph, for an empty batch."""
    return values.sum() / max(values.numel(), 1)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(p || q) of the softmaxes over the last dimension: shapes (..., C) to (...)."""
    log_q = F.log_softmax(student_logits, dim=-1)
    log_p = F.log_softmax(teacher_logits, dim=-1)
    return F.kl_div(log_q, log_p, reduction='none', log_target=True).sum(dim=-1)


def check_logits(student: Tensor, teacher: Tensor, name: str) -> None:
    """Refuse what is not logits (N, C) of the same samples and classes.

    Raises:
        ValueError: If the shapes differ or have not two dimensions.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f'{name} compares logits of shape (N, C) of the same samples and classes, but got '
            f'student {tuple(student.shape)} and teacher {tuple(teacher.shape)}; where the '
            f'classes differ, distil features instead'
        )


def _tempered(
    student: Tensor, teacher: Tensor, temperature: float, name: str
) -> tuple[Tensor, Tensor]:
    """The logits, checked and divided by the temperature."""
    check_logits(student, teacher, name)
    check_temperature(temperature)
    return precise(student) / temperature, precise(teacher) / temperature


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """KD: ``T^2 KL(p_T || q_T)`` of tempered softmaxes, mean over the batch (arXiv 1503.02531).

    Args:
        student: Logits, shape (N, C).
        teacher: Logits, shape (N, C).
        temperature: T > 0, of both.

    Raises:
        ValueError: If the shapes differ or the temperature is not above 0.

    Example:
        >>> kd_loss(torch.randn(8, 10), torch.randn(8, 10), temperature=4)
    """
    z_s, z_t = _tempered(student, teacher, temperature, 'kd_loss')
    return temperature**2 * batch_mean(kl_divergence(z_s, z_t))


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 4.0,
) -> Tensor:
    """DKD: ``T^2 (alpha TCKD + beta NCKD)``, mean over the batch (arXiv 2203.08679).

    TCKD is the divergence of the two classes "target" and "not the target", NCKD that of the
    softmaxes over the other classes. KD of a sample is ``TCKD + (1 - p_target) NCKD``.

    Args:
        student: Logits, shape (N, C), of at least two classes.
        teacher: Logits, shape (N, C).
        target: Class of each sample, int64, shape (N,), in [0, C).
        alpha: Weight of TCKD.
        beta: Weight of NCKD.
        temperature: T > 0, of both.

    Raises:
        ValueError: If the shapes differ, the targets are not class indices of the logits or the
            temperature is not above 0.

    Example:
        >>> dkd_loss(torch.randn(8, 10), torch.randn(8, 10), torch.randint(10, (8,)))
    """
    z_s, z_t = _tempered(student, teacher, temperature, 'dkd_loss')
    _check_target(target, *student.shape)
    (binary_s, others_s), (binary_t, others_t) = _decouple(z_s, target), _decouple(z_t, target)
    tckd, nckd = kl_divergence(binary_s, binary_t), kl_divergence(others_s, others_t)
    return temperature**2 * batch_mean(alpha * tckd + beta * nckd)


def _check_target(target: Tensor, samples: int, classes: int) -> None:
    if target.dtype != torch.int64 or target.shape != (samples,):
        raise ValueError(
            f'dkd_loss needs class indices, int64 of shape ({samples},), but got {target.dtype} '
            f'of shape {tuple(target.shape)}; soft labels have no target class, use kd_loss or '
            f'dist_loss with them'
        )
    if classes < 2:
        raise ValueError(f'dkd_loss needs logits of two classes or more, but got {classes}')
    if samples and not 0 <= target.min() <= target.max() < classes:
        raise ValueError(
            f'dkd_loss needs targets from 0 to {classes - 1}, the classes of the logits, but got '
            f'{target.min().item()} to {target.max().item()}; check num_classes and the labels'
        )


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of "target" and "not the target", shape (N, 2), and of the others, (N, C - 1)."""
    target = target.unsqueeze(1)
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, others + (others >= target))
    return torch.cat([logits.gather(1, target), others.logsumexp(1, keepdim=True)], dim=1), others


def dist_loss(
    student: Tensor,
    teacher: Tensor,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float = 1.0,
    eps: float = 1e-8,
) -> Tensor:
    """DIST: ``T^2 (beta inter + gamma intra)`` of tempered softmaxes (arXiv 2205.10536).

    Both terms are 1 - Pearson's correlation of probabilities: `inter` over the classes, mean over
    the samples; `intra` over the samples, mean over the classes. What is constant has the
    correlation 0 with everything, so that for a single sample `intra` is 1, without a gradient.

    Args:
        student: Logits, shape (N, C).
        teacher: Logits, shape (N, C).
        beta: Weight of the relation between classes.
        gamma: Weight of the relation within each class.
        temperature: T > 0, of both.
        eps: Added to the product of the norms; 1 / eps bounds the gradient where samples are alike.

    Raises:
        ValueError: If the shapes differ or the temperature is not above 0.

    Example:
        >>> dist_loss(torch.randn(8, 10), torch.randn(8, 10))
    """
    z_s, z_t = _tempered(student, teacher, temperature, 'dist_loss')
    if len(student) == 0:
        return z_s.sum() * 0
    q, p = z_s.softmax(dim=1), z_t.softmax(dim=1)
    inter, intra = 1 - _correlation(q, p, eps).mean(), 1 - _correlation(q.T, p.T, eps).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _correlation(x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Pearson's correlation of each row: shapes (M, K) to (M,)."""
    x, y = (z - z.mean(dim=1, keepdim=True) for z in (x, y))
    norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    return (x * y).sum(dim=1) / (norms + eps)
