"""KD, DKD and DIST: logit losses with a temperature on student and teacher alike."""

from typing import Any, Optional, Union

import torch
from torch import Tensor

from mmkd_fm.functional import dist_loss, dkd_loss, kd_loss, with_background
from mmkd_fm.functional.divergences import check_temperature
from mmkd_fm.models.losses.logit import Ignore, LogitLoss, Output, Samples
from mmkd_fm.registry import MODELS


class TemperedLoss(LogitLoss):
    """Base of the losses that temper both distributions.

    Args:
        temperature: Of both, above 0.
        loss_weight: Weight of the term.
        **options: Of all logit losses, see `LogitLoss`.

    Raises:
        ValueError: If the temperature is not above 0 and finite.
    """

    def __init__(self, temperature: float, loss_weight: float, **options: Any) -> None:
        super().__init__(loss_weight, **options)
        check_temperature(temperature)
        self.temperature = temperature

    @property
    def powers(self) -> tuple[float, float]:
        """1 / temperature, of both."""
        return 1 / self.temperature, 1 / self.temperature


def _hard_labels(data_samples: Samples) -> Tensor:
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
class KDLoss(TemperedLoss):
    """KD, arXiv 1503.02531: see `mmkd_fm.functional.kd_loss`.

    Args:
        temperature: Temperature of both distributions, above 0.
        loss_weight: Weight of the term.
        **options: Of all logit losses, see `LogitLoss`.

    Raises:
        ValueError: If the temperature is not above 0 and finite.

    Example:
        >>> kd=dict(type='mmkd_fm.KDLoss', tap='head', temperature=4)
    """

    def __init__(self, temperature: float = 4.0, loss_weight: float = 1.0, **options: Any) -> None:
        super().__init__(temperature, loss_weight, **options)

    def metric(self, student, teacher, form='softmax', weight=None, reduction='mean', target=None):
        """Divergence of tempered distributions."""
        return kd_loss(student, teacher, self.temperature, form, weight, reduction)


@MODELS.register_module()
class DKDLoss(TemperedLoss):
    """DKD, arXiv 2203.08679: see `mmkd_fm.functional.dkd_loss`.

    The target class of a classifier's sample is its label. Of dense heads, whose assigner keeps the
    targets to itself, it is the teacher's most probable class, the background included.

    Args:
        alpha: Weight of the target class.
        beta: Weight of the other classes.
        temperature: Temperature of all distributions, above 0.
        loss_weight: Weight of the term.
        **options: Of all logit losses, see `LogitLoss`.

    Raises:
        ValueError: If the temperature is not above 0 and finite.

    Example:
        >>> dkd=dict(type='mmkd_fm.DKDLoss', tap='head', alpha=1, beta=2, temperature=4)
    """

    forms = ('background_softmax',)

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 2.0,
        temperature: float = 4.0,
        loss_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(temperature, loss_weight, **options)
        self.alpha = alpha
        self.beta = beta

    def metric(self, student, teacher, form='softmax', weight=None, reduction='mean', target=None):
        """Divergence of the target class and of the others."""
        if form == 'background_softmax':
            student, teacher = with_background(student), with_background(teacher)
        target = teacher.argmax(dim=-1) if target is None else target.to(student.device)
        return dkd_loss(
            student, teacher, target, self.alpha, self.beta, self.temperature, weight, reduction
        )

    def forward(
        self,
        student: Output,
        teacher: Output,
        data_samples: Samples = None,
        ignore: Ignore = None,
        target: Optional[Tensor] = None,
    ) -> Union[Tensor, dict[str, Tensor]]:
        """Weighted divergence of the batch, see `LogitLoss.forward`.

        Args:
            student: Logits, shape (N, C), or those of a dense head.
            teacher: Likewise.
            data_samples: The batch's samples, of a classifier with `gt_label` of shape (1,), int64.
            ignore: What to leave out.
            target: Class of each of a classifier's samples, int64, shape (N,); goes before
                `data_samples`.

        Raises:
            ValueError: If the samples' classes are not given or the labels are soft.
        """
        if target is None and self.dense is None:
            target = _hard_labels(data_samples)
        return self._compare(student, teacher, data_samples, ignore, target)


@MODELS.register_module()
class DISTLoss(TemperedLoss):
    """DIST, arXiv 2205.10536: see `mmkd_fm.functional.dist_loss`.

    It is no sum over the samples, so that `normaliser` does not apply. Of dense heads it takes only
    the locations that the teacher calls foreground, unless `weighting` says otherwise: all at once
    need much memory.

    Args:
        beta: Weight of the relation between classes.
        gamma: Weight of the relation within each class.
        temperature: Temperature of both softmaxes, above 0.
        loss_weight: Weight of the term.
        weighting: See `LogitLoss`.
        **options: Of all logit losses, see `LogitLoss`.

    Raises:
        ValueError: If the temperature is not above 0 and finite.

    Example:
        >>> dist=dict(type='mmkd_fm.DISTLoss', tap='head', beta=2, gamma=2)
    """

    forms = ('background_softmax',)
    rowwise = False

    def __init__(
        self,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        weighting: str = 'foreground',
        **options: Any,
    ) -> None:
        super().__init__(temperature, loss_weight, weighting=weighting, **options)
        self.beta = beta
        self.gamma = gamma

    def metric(self, student, teacher, form='softmax', weight=None, reduction='mean', target=None):
        """1 - correlation of probabilities, between and within classes."""
        if form == 'background_softmax':
            student, teacher = with_background(student), with_background(teacher)
        return dist_loss(student, teacher, self.beta, self.gamma, self.temperature, weight=weight)
