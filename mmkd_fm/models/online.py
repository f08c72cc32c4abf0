"""OnlineDistiller: distillation without a teacher (OFM-KT, arXiv 2402.02012)."""

import inspect
from typing import Any

from torch import nn

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
        **kwargs: As for the Distiller: task_loss_weight, seed, data_preprocessor.

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

    def _build_losses(self, configs: dict[str, dict]) -> dict[str, nn.Module]:
        for name, cfg in configs.items():
            loss = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
            if loss is not None and 'teacher' in inspect.signature(loss.forward).parameters:
                raise ValueError(
                    f'losses.{name}: {loss.__name__} compares with a teacher, and an '
                    f'OnlineDistiller has none. Use OnlineFMKTLoss or OnlineFMKTLogitLoss, or a '
                    f'Distiller'
                )
        return super()._build_losses(configs)
