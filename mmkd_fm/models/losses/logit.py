"""Logit losses: compare the softmax logits of two classifiers of the same classes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd_fm.functional import dist_loss, dkd_loss, kd_loss, ttm_loss
from mmkd_fm.functional.divergences import check_temperature
from mmkd_fm.registry import MODELS


def check_gamma(gamma: float) -> None:
    """Refuse powers of the teacher outside (0, 1].

    Raises:
        ValueError: If it is outside.
    """
    if not 0 < gamma <= 1:
        raise ValueError(
            f'gamma must be in (0, 1] (1 / temperature of the teacher), but got {gamma}: at 0 '
            f'and below the teacher says nothing, above 1 it is sharpened'
        )


class LogitLoss(nn.Module, ABC):
    """Base of the logit losses; each is a plain metric of two tensors.

    Args:
        loss_weight: Weight of the term.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    @abstractmethod
    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Divergence of logits, shapes (N, C), a scalar, in float32 at least."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Weighted divergence, a scalar.

        Args:
            student: Logits, shape (N, C).
            teacher: Likewise.
        """
        return self._compare(student, teacher)

    def _compare(self, student: Tensor, teacher: Tensor, *target: Tensor) -> Tensor:
        """The weighted metric, outside autocast."""
        if not isinstance(student, Tensor) or not isinstance(teacher, Tensor):
            raise TypeError(
                f'{type(self).__name__} compares logits of shape (N, C), but got a '
                f'{type(student).__name__} of the student and a {type(teacher).__name__} of the '
                f"teacher; tap what gives logits, as in tap='head', or choose one with index="
            )
        with torch.autocast(student.device.type, enabled=False):
            return self.loss_weight * self.metric(student, teacher, *target)


@MODELS.register_module()
class KDLoss(LogitLoss):
    """KD, arXiv 1503.02531: see `mmkd_fm.functional.kd_loss`.

    Args:
        temperature: Temperature of both softmaxes, above 0.
        loss_weight: Weight of the term.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> kd=dict(type='mmkd_fm.KDLoss', tap='head', temperature=4)
    """

    def __init__(self, temperature: float = 4.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        check_temperature(temperature)
        self.temperature = temperature

    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Divergence of tempered softmaxes."""
        return kd_loss(student, teacher, self.temperature)


@MODELS.register_module()
class DKDLoss(LogitLoss):
    """DKD, arXiv 2203.08679: see `mmkd_fm.functional.dkd_loss`.

    Args:
        alpha: Weight of the target class.
        beta: Weight of the other classes.
        temperature: Temperature of all softmaxes, above 0.
        loss_weight: Weight of the term.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> dkd=dict(type='mmkd_fm.DKDLoss', tap='head', alpha=1, beta=2, temperature=4)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 2.0,
        temperature: float = 4.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        check_temperature(temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def metric(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Divergence of the target class and of the others."""
        target = target.to(student.device)
        return dkd_loss(student, teacher, target, self.alpha, self.beta, self.temperature)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        data_samples: Optional[Sequence[BaseDataElement]] = None,
        target: Optional[Tensor] = None,
    ) -> Tensor:
        """Weighted divergence, a scalar.

        Args:
            student: Logits, shape (N, C).
            teacher: Likewise.
            data_samples: The batch's samples, with `gt_label` of shape (1,), int64.
            target: Class of each sample, int64, shape (N,); goes before `data_samples`.

        Raises:
            ValueError: If the samples' classes are not given or the labels are soft.
        """
        if target is None:
            target = _hard_labels(data_samples)
        return self._compare(student, teacher, target)


def _hard_labels(data_samples: Optional[Sequence[BaseDataElement]]) -> Tensor:
    """Class of each sample, shape (N,)."""
    if not data_samples:
        raise ValueError(
            'DKDLoss needs the class of each sample, but got neither target= nor data_samples=; '
            'where there are only logits, use KDLoss or DISTLoss'
        )
    for sample in data_samples:
        if 'gt_score' in sample or 'gt_label' not in sample:
            raise ValueError(
                f'DKDLoss needs hard labels, gt_label without gt_score, but got samples with '
                f'{", ".join(sorted(sample.keys())) or "no labels"}. Soft labels (mixup, cutmix, '
                f'to_onehot of the data_preprocessor) have no target class: switch them off, or '
                f'use KDLoss, DISTLoss or TTMLoss'
            )
    return torch.cat([sample.gt_label for sample in data_samples])


@MODELS.register_module()
class DISTLoss(LogitLoss):
    """DIST, arXiv 2205.10536: see `mmkd_fm.functional.dist_loss`.

    Args:
        beta: Weight of the relation between classes.
        gamma: Weight of the relation within each class.
        temperature: Temperature of both softmaxes, above 0.
        loss_weight: Weight of the term.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> dist=dict(type='mmkd_fm.DISTLoss', tap='head', beta=2, gamma=2)
    """

    def __init__(
        self,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        check_temperature(temperature)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """1 - correlation of probabilities, between and within classes."""
        return dist_loss(student, teacher, self.beta, self.gamma, self.temperature)


@MODELS.register_module()
class TTMLoss(LogitLoss):
    """TTM, arXiv 2402.11148: see `mmkd_fm.functional.ttm_loss`.

    Args:
        gamma: Power in (0, 1], 1 / temperature of the teacher.
        loss_weight: Weight of the term.

    Raises:
        ValueError: If gamma is outside (0, 1].

    Example:
        >>> ttm=dict(type='mmkd_fm.TTMLoss', tap='head', gamma=0.5)
    """

    def __init__(self, gamma: float = 0.7, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        check_gamma(gamma)
        self.gamma = gamma

    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Divergence from the power transformed teacher."""
        return ttm_loss(student, teacher, self.gamma)
