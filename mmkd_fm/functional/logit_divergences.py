"""Divergences between a student's and a teacher's class logits, in log space.

All functions compute in float32 at least.
"""

from typing import Optional

import torch
from torch import Tensor

from mmkd_fm.functional.divergences import check_temperature
from mmkd_fm.functional.forms import kl_divergence, precise, row_divergence

REDUCTIONS = ('mean', 'sum', 'none')


def reduce(values: Tensor, weight: Optional[Tensor] = None, reduction: str = 'mean') -> Tensor:
    """Reduce the values of the samples.

    Args:
        values: Shape (N,).
        weight: Of each sample, at least 0, shape (N,); None is 1 for all.
        reduction: 'mean', weighted by `weight` (0, connected to the graph, if there is no weight);
            'sum' of the weighted values; 'none', the weighted values.

    Raises:
        ValueError: If the reduction is unknown.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f'unknown reduction {reduction!r}; valid: {", ".join(REDUCTIONS)}')
    if weight is None:
        total = values.numel()
    else:
        weight = weight.to(values.dtype)
        values = weight * values
        total = weight.sum()
    if reduction == 'none':
        return values
    if reduction == 'sum':
        return values.sum()
    if weight is None:
        return values.sum() / max(total, 1)
    return values.sum() / torch.where(total > 0, total, torch.ones_like(total))


def check_logits(
    student: Tensor, teacher: Tensor, weight: Optional[Tensor], name: str
) -> tuple[Tensor, Tensor]:
    """Refuse what is not logits (N, C) of the same samples and classes.

    Returns:
        Both, with zeros where the weight is 0: what is ignored may be infinite or NaN.

    Raises:
        ValueError: If the shapes differ or are not of two dimensions, or the weight's is another.
    """
    if student.ndim == teacher.ndim == 2 and len(student) != len(teacher):
        raise ValueError(
            f'{name} compares logits of the same samples, but got {len(student)} of the student '
            f'and {len(teacher)} of the teacher. A head that is given a part of the batch, as one '
            f"of mmpretrain's MultiTaskHead where samples lack its label, can only be distilled "
            f'where all have one'
        )
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f'{name} compares logits of shape (N, C) of the same samples and classes, but got '
            f'student {tuple(student.shape)} and teacher {tuple(teacher.shape)}; where the '
            f'classes differ, name the pairs with class_map= of the loss, or distil features'
        )
    if weight is None:
        return student, teacher
    if weight.shape != student.shape[:1]:
        raise ValueError(
            f'{name}: weight has one value for each sample, shape ({len(student)},), but got '
            f'{tuple(weight.shape)}'
        )
    ignored = (weight == 0).unsqueeze(1)
    return student.masked_fill(ignored, 0), teacher.masked_fill(ignored, 0)


def _tempered(
    student: Tensor, teacher: Tensor, weight: Optional[Tensor], temperature: float, name: str
) -> tuple[Tensor, Tensor]:
    """The logits, checked and divided by the temperature."""
    student, teacher = check_logits(student, teacher, weight, name)
    check_temperature(temperature)
    return precise(student) / temperature, precise(teacher) / temperature


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    form: str = 'softmax',
    weight: Optional[Tensor] = None,
    reduction: str = 'mean',
) -> Tensor:
    """KD: ``T^2 KL(p_T || q_T)`` of tempered distributions (arXiv 1503.02531).

    Args:
        student: Logits, shape (N, C).
        teacher: Logits, shape (N, C).
        temperature: T > 0, of both.
        form: How the logits are read: 'softmax', 'background_softmax' or 'bernoulli'.
        weight: Of each sample, shape (N,); what has 0 is ignored, whatever its logits.
        reduction: 'mean', 'sum' or 'none', see `reduce`.

    Raises:
        ValueError: If the shapes differ or the temperature is not above 0 and finite.

    Example:
        >>> kd_loss(torch.randn(8, 10), torch.randn(8, 10), temperature=4)
    """
    z_s, z_t = _tempered(student, teacher, weight, temperature, 'kd_loss')
    return temperature**2 * reduce(row_divergence(form, z_s, z_t), weight, reduction)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 4.0,
    weight: Optional[Tensor] = None,
    reduction: str = 'mean',
) -> Tensor:
    """DKD: ``T^2 (alpha TCKD + beta NCKD)`` (arXiv 2203.08679).

    TCKD is the divergence of the two classes "target" and "not the target", NCKD that of the
    softmaxes over the other classes. KD of a sample is ``TCKD + (1 - p_target) NCKD``.

    Args:
        student: Logits, shape (N, C), of at least two classes.
        teacher: Logits, shape (N, C).
        target: Class of each sample, int64, shape (N,), in [0, C).
        alpha: Weight of TCKD.
        beta: Weight of NCKD.
        temperature: T > 0, of both.
        weight: Of each sample, shape (N,); what has 0 is ignored, whatever its logits.
        reduction: 'mean', 'sum' or 'none', see `reduce`.

    Raises:
        ValueError: If the shapes differ, the targets are not class indices of the logits or the
            temperature is not above 0 and finite.

    Example:
        >>> dkd_loss(torch.randn(8, 10), torch.randn(8, 10), torch.randint(10, (8,)))
    """
    z_s, z_t = _tempered(student, teacher, weight, temperature, 'dkd_loss')
    _check_target(target, *student.shape)
    (binary_s, others_s), (binary_t, others_t) = _decouple(z_s, target), _decouple(z_t, target)
    tckd, nckd = kl_divergence(binary_s, binary_t), kl_divergence(others_s, others_t)
    return temperature**2 * reduce(alpha * tckd + beta * nckd, weight, reduction)


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
    weight: Optional[Tensor] = None,
) -> Tensor:
    """DIST: ``T^2 (beta inter + gamma intra)`` of tempered softmaxes (arXiv 2205.10536).

    Both terms are 1 - Pearson's correlation of probabilities: `inter` over the classes, mean over
    the samples; `intra` over the samples, mean over the classes. What is constant up to rounding
    has the correlation 0 with everything, without a gradient: for a single sample `intra` is 1, and
    a head that starts at zero, which many do, learns nothing from DIST until another loss moves it.

    Args:
        student: Logits, shape (N, C).
        teacher: Logits, shape (N, C).
        beta: Weight of the relation between classes.
        gamma: Weight of the relation within each class.
        temperature: T > 0, of both.
        eps: Added to the product of the norms.
        weight: Of each sample, at least 0, shape (N,): in the mean over the samples, and in the
            correlation over the samples as if the sample were there so many times.

    Raises:
        ValueError: If the shapes differ or the temperature is not above 0 and finite.

    Example:
        >>> dist_loss(torch.randn(8, 10), torch.randn(8, 10))
    """
    z_s, z_t = _tempered(student, teacher, weight, temperature, 'dist_loss')
    if weight is not None:
        kept = weight != 0
        z_s, z_t, weight = z_s[kept], z_t[kept], weight[kept].to(z_s.dtype)
    if len(z_s) == 0:
        return z_s.sum() * 0
    q, p = z_s.softmax(dim=1), z_t.softmax(dim=1)
    inter = 1 - reduce(_correlation(q, p, eps), weight)
    intra = 1 - _correlation(q.T, p.T, eps, weight).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _correlation(x: Tensor, y: Tensor, eps: float, weight: Optional[Tensor] = None) -> Tensor:
    """Pearson's correlation of each row, its elements weighted: shapes (M, K) to (M,).

    Where either row is constant up to rounding it is 0, without a gradient: what is left of such a
    row is noise of any direction, by whose size the gradient would be divided.
    """
    scale = 1
    if weight is not None:
        weight = weight / weight.mean()
        scale = weight.sqrt()
    flat = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    centred = []
    for z in (x, y):
        mean = (z if weight is None else weight * z).mean(dim=1, keepdim=True)
        centred.append((z - mean) * scale)
        flat |= _is_rounding(centred[-1].detach(), (z * scale).detach())
    x, y = (z.masked_fill(flat[:, None], 0) for z in centred)
    norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    return (x * y).sum(dim=1) / (norms + eps).masked_fill(flat, 1)


def _is_rounding(rest: Tensor, of: Tensor) -> Tensor:
    """Whether what is left of a row is no more than its rounding: shapes (M, K) to (M,), bool."""
    rest, of = (torch.linalg.vector_norm(z, dim=1) for z in (rest, of))
    return rest <= 16 * torch.finfo(of.dtype).eps * of  # equal logits leave 4 eps at most
