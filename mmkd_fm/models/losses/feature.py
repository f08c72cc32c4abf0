"""Feature losses: compare pyramids level by level, with a 1x1 projection where channels differ."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Optional, Union

import torch
from torch import Tensor, nn

from mmkd_fm.functional import cosine_loss, cwd_loss, mse_loss, pkd_loss
from mmkd_fm.functional.divergences import check_temperature
from mmkd_fm.models.alignment import Tapped, as_levels, match_size, pair_levels, projection
from mmkd_fm.registry import MODELS

Features = Union[Tensor, Sequence[Tensor]]


class FeatureLoss(nn.Module, ABC):
    """Base of the feature losses; without `connect` such a loss is a plain metric of two tensors.

    Where the sizes of two maps differ, the student's is resized to the teacher's.

    Args:
        loss_weight: Weight of each level.
        levels: Indices of the student's levels to compare; None takes those that have the stride of
            one of the teacher's.
        project: Map the student's channels by a trained 1x1 convolution also where the teacher has
            as many. Those of two detectors mean different things, and without it the student's
            first has to become the teacher's first.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        levels: Optional[Sequence[int]] = None,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.levels = levels
        self.project = project
        self.pairs: Optional[list[tuple[int, int]]] = None  # levels to compare, set by `connect`

    @abstractmethod
    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Distance of two maps, shapes (N, C, H, W), a scalar."""

    def connect(self, student: Tapped, teacher: Tapped) -> None:
        """Pair the levels and make the projections from the student's to the teacher's channels."""
        self.pairs = pair_levels(student, teacher, self.levels)
        self.projections = nn.ModuleList(
            projection(student.levels[i].channels, teacher.levels[j].channels, self.project)
            for i, j in self.pairs
        )

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Weighted sum over the levels, a scalar.

        Args:
            student: One map of shape (N, C, H, W), or, once connected, the levels of a pyramid.
            teacher: Likewise.
        """
        if self.pairs is None:
            losses = [self._compare(student, teacher)]
        else:
            students, teachers = as_levels(student), as_levels(teacher)
            losses: list[Tensor] = [
                self._compare(project(students[i]), teachers[j])
                for (i, j), project in zip(self.pairs, self.projections)
            ]
        return self.loss_weight * sum(losses)

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The metric in float32 at least, also under autocast."""
        dtype = torch.promote_types(student.dtype, torch.float32)
        with torch.autocast(student.device.type, enabled=False):
            return self.metric(match_size(student.to(dtype), teacher), teacher.to(dtype))


@MODELS.register_module()
class PKDLoss(FeatureLoss):
    """PKD, arXiv 2207.02039: see `mmkd_fm.functional.pkd_loss`.

    Example:
        >>> pkd=dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0, 1, 2, 3], loss_weight=10)
    """

    ignores_scale = True

    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Half the squared distance of standardised channels."""
        return pkd_loss(student, teacher)


@MODELS.register_module()
class CWDLoss(FeatureLoss):
    """CWD, arXiv 2011.13256: see `mmkd_fm.functional.cwd_loss`.

    Args:
        temperature: Temperature of the spatial softmax, above 0.
        **kwargs: As for `FeatureLoss`.

    Raises:
        ValueError: If the temperature is not above 0 and finite.

    Example:
        >>> cwd=dict(type='mmkd_fm.CWDLoss', tap='neck', levels=[0, 1, 2, 3], loss_weight=4)
    """

    def __init__(self, temperature: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.temperature = temperature

    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Divergence of spatial softmaxes."""
        return cwd_loss(student, teacher, self.temperature)


@MODELS.register_module()
class MSELoss(FeatureLoss):
    """Mean squared error: see `mmkd_fm.functional.mse_loss`.

    Example:
        >>> mse=dict(type='mmkd_fm.MSELoss', tap='neck', loss_weight=1)
    """

    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared difference."""
        return mse_loss(student, teacher)


@MODELS.register_module()
class CosineLoss(FeatureLoss):
    """1 - cosine similarity at each location: see `mmkd_fm.functional.cosine_loss`.

    Example:
        >>> cosine=dict(type='mmkd_fm.CosineLoss', tap='neck', loss_weight=1)
    """

    ignores_scale = True

    def metric(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean cosine distance of the channels at each location."""
        return cosine_loss(student, teacher)
