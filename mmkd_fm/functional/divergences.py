"""Metric losses between a student's and a teacher's feature maps."""

import torch
from torch import Tensor
from torch.nn import functional as F


def _check_same_shape(student: Tensor, teacher: Tensor, name: str) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f'{name} compares maps of equal shape, but got student {tuple(student.shape)} and '
            f'teacher {tuple(teacher.shape)}; project the channels and resize the map first'
        )


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Zero mean and unit (unbiased) deviation for each channel, over batch and space."""
    x = x.transpose(0, 1).flatten(1)
    return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + eps)


def pkd_loss(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    """PKD: half the mean squared error of channel-wise standardised maps (arXiv 2207.02039).

    Up to normalisation this is 1 - Pearson's correlation of each channel over batch and space, so
    it ignores each channel's scale and shift. Where the sizes differ, the student is resized
    bilinearly to the teacher's. With a single element per channel there is no correlation: the
    result is a zero connected to the graph.

    Args:
        student: Shape (N, C, H, W).
        teacher: Shape (N, C, H', W').
        eps: Added to the deviations.

    Raises:
        ValueError: If the batch or the channels differ.

    Example:
        >>> pkd_loss(torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6))
    """
    if student.shape[2:] != teacher.shape[2:]:
        student = F.interpolate(student, teacher.shape[2:], mode='bilinear', align_corners=False)
    _check_same_shape(student, teacher, 'pkd_loss')
    if teacher.numel() <= teacher.shape[1]:
        return student.sum() * 0
    return F.mse_loss(_standardise(student, eps), _standardise(teacher, eps)) / 2


def cwd_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """CWD: KL(teacher || student) of spatial softmaxes, channel by channel (arXiv 2011.13256).

    Args:
        student: Shape (N, C, H, W).
        teacher: Shape (N, C, H, W).
        temperature: T > 0; the result is multiplied by T^2.

    Returns:
        ``T^2 / (N C)`` times the summed divergence, a scalar.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> cwd_loss(torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6), temperature=4)
    """
    _check_same_shape(student, teacher, 'cwd_loss')
    log_q = F.log_softmax(student.flatten(2) / temperature, dim=-1)
    log_p = F.log_softmax(teacher.flatten(2) / temperature, dim=-1)
    divergence = F.kl_div(log_q, log_p, reduction='sum', log_target=True)
    return temperature**2 * divergence / max(student.shape[0] * student.shape[1], 1)


def mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over all elements.

    Args:
        student: Any shape.
        teacher: The same shape.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape(student, teacher, 'mse_loss')
    difference = student - teacher
    return torch.square(difference).sum() / max(difference.numel(), 1)
