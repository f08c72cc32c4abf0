"""TTM and WTTM, on class logits and box distributions (arXiv 2402.11148)."""

import math
from typing import Any

from torch import Tensor

from mmkd_fm.functional import get_form, ttm_loss, wttm_loss
from mmkd_fm.models.losses.logit import LogitLoss
from mmkd_fm.registry import MODELS


@MODELS.register_module()
class TTMLoss(LogitLoss):
    """TTM: see `mmkd_fm.functional.ttm_loss`.

    Args:
        gamma: Power in (0, 1], 1 / temperature of the teacher; 1 is KD without a temperature.
        loss_weight: Weight of the term, the paper's beta.
        sharpen: Allow gamma above 1, a teacher that is sharpened.
        **options: Of all logit losses, see `LogitLoss`.

    Raises:
        ValueError: If gamma is outside (0, 1], and above 1 was not asked for.

    Example:
        >>> ttm=dict(type='mmkd_fm.TTMLoss', tap='head', gamma=0.5)
    """

    def __init__(
        self, gamma: float = 0.7, loss_weight: float = 1.0, sharpen: bool = False, **options: Any
    ) -> None:
        super().__init__(loss_weight, **options)
        if not (0 < gamma <= 1 or (sharpen and 1 < gamma < math.inf)):
            raise ValueError(
                f'gamma must be in (0, 1] (1 / temperature of the teacher), but got {gamma}: at 0 '
                f'and below the teacher says nothing, above 1 it is sharpened and its power sum '
                f'weighs the certain samples most. If you want that, set sharpen=True'
            )
        self.gamma = gamma

    @property
    def powers(self) -> tuple[float, float]:
        """The teacher alone is transformed."""
        return 1.0, self.gamma

    def metric(self, student, teacher, form='softmax', weight=None, reduction='mean', target=None):
        """Divergence from the power transformed teacher."""
        return ttm_loss(student, teacher, self.gamma, form, weight, reduction)


@MODELS.register_module()
class WTTMLoss(TTMLoss):
    """WTTM: TTM with the weight U of each distribution, see `mmkd_fm.functional.wttm_loss`.

    Its further monitor is `power_sum`, the mean of U.

    Args:
        gamma: Power in (0, 1]; at 1 all weights are 1.
        loss_weight: Weight of the term, the paper's beta.
        sharpen: Allow gamma above 1.
        **options: Of all logit losses, see `LogitLoss`.

    Raises:
        ValueError: If gamma is outside (0, 1], and above 1 was not asked for.

    Example:
        >>> wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0, gamma=0.7)
    """

    def metric(self, student, teacher, form='softmax', weight=None, reduction='mean', target=None):
        """Weighted divergence from the power transformed teacher."""
        return wttm_loss(student, teacher, self.gamma, form, weight, reduction)

    def diagnose(self, student: Tensor, teacher: Tensor, form: str) -> dict[str, Tensor]:
        """Those of `LogitLoss`, and the power sum."""
        values = super().diagnose(student, teacher, form)
        return dict(values, power_sum=get_form(form).power_sum(teacher, self.gamma))
