"""OnlineDistiller: distillation without a teacher (OFM-KT, arXiv 2402.02012)."""

from typing import Any

from mmkd_fm.models.distiller import Distiller
from mmkd_fm.registry import MODELS


@MODELS.register_module()
class OnlineDistiller(Distiller):
    """The Distiller without a teacher: what a flow gives on average teaches its single steps.

    Its losses are those that take the student alone, `OnlineFMKTLoss` and `OnlineFMKTLogitLoss`;
    they read the flow of a `FlowNeck` or `FlowClsHead` in the student.

    Args:
        student: As for the Distiller.
        losses: As for the Distiller; a loss is called with what its tap gave.
        **kwargs: As for the Distiller: terms, task_loss_weight, seed, data_preprocessor.

    Raises:
        ValueError: As for the Distiller, and if a loss compares with a teacher.

    Example:
        >>> model = dict(
        ...     type='mmkd_fm.OnlineDistiller',
        ...     student=student_config,
        ...     losses=dict(ofmkt=dict(type='mmkd_fm.OnlineFMKTLoss', tap='neck')))
    """

    def __init__(self, student: dict, losses: dict[str, dict], **kwargs: Any) -> None:
        super().__init__(student=student, teacher=None, losses=losses, **kwargs)
