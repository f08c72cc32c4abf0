"""Metric losses between a student's and a teacher's feature maps.

They compute in the type that they are given; half precision is too coarse for them, so that the
registered losses give them float32.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _check_same_shape(student: Tensor, teacher: Tensor, name: str) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f'{name} compares maps of equal shape, but got student {tuple(student.shape)} and '
            f'teacher {tuple(teacher.shape)}; project the channels and resize the map first'
        )


def check_temperature(temperature: float) -> None:
    """Refuse temperatures by which no logits can be divided.

    Raises:
        ValueError: If it is not above 0, or infinite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f'temperature must be above 0 and finite, but got {temperature}')


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Zero mean and unit (unbiased) deviation for each channel, over batch and space.

    A channel that is constant up to rounding becomes 0, without a gradient.
    """
    x = x.reshape(*x.shape[:2], -1)
    mean = x.mean(dim=(0, 2), keepdim=True)
    x = x - mean
    # thrice as fast as torch.std on CPUs; rounds less when taken over space first, then the batch
    norm = torch.linalg.vector_norm(x, dim=2, keepdim=True)
    norm = torch.linalg.vector_norm(norm, dim=0, keepdim=True)
    deviation = norm / math.sqrt(x.shape[0] * x.shape[2] - 1)
    # noise of any direction, by whose size the gradient would be divided
    constant = deviation <= 16 * torch.finfo(x.dtype).eps * mean.abs()
    return x * (deviation + eps).reciprocal().masked_fill(constant, 0)


def pkd_loss(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    """PKD: half the mean squared error of channel-wise standardised maps (arXiv 2207.02039).

    Up to normalisation this is 1 - Pearson's correlation of each channel over batch and space, so
    it ignores each channel's scale and shift. Where the sizes differ, the student is resized
    bilinearly to the teacher's. With a single element per channel there is no correlation: the
    result is a zero connected to the graph. A constant channel of the student's correlates with
    nothing and has no gradient.

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
        ValueError: If the shapes differ or the temperature is not above 0 and finite.

    Example:
        >>> cwd_loss(torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6), temperature=4)
    """
    _check_same_shape(student, teacher, 'cwd_loss')
    check_temperature(temperature)
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


def cosine_loss(student: Tensor, teacher: Tensor, eps: float = 1e-8) -> Tensor:
    """1 - cosine similarity over the channels at each location, mean over the locations.

    It ignores the length of the vectors. A vector shorter than `eps` has no direction: its
    similarity and its gradient are 0.

    Args:
        student: Shape (N, C, H, W).
        teacher: Shape (N, C, H, W).
        eps: Shortest length that counts.

    Returns:
        A scalar in [0, 2].

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> cosine_loss(torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6))
    """
    _check_same_shape(student, teacher, 'cosine_loss')
    similarity = (_direction(student, eps) * _direction(teacher, eps)).sum(dim=1)
    return (1 - similarity).sum() / max(similarity.numel(), 1)


def _direction(x: Tensor, eps: float) -> Tensor:
    """Unit vectors over the channels; zero vectors where they are shorter than `eps`."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length.masked_fill(length < eps, torch.inf)
