"""Where the flows of a term start, for what looks at them from outside of a training step."""

from __future__ import annotations

from mmkd_fm.models.distiller import Distiller
from mmkd_fm.models.flow import Flow
from mmkd_fm.models.losses import FMKTLoss
from mmkd_fm.models.taps import Tap, find_module


def flow_source(model: Distiller, name: str, loss: FMKTLoss) -> tuple[Tap, dict[str, Flow]]:
    """The tap that X^S is read from, and the flows that start there.

    Args:
        model: A Distiller.
        name: Name of the loss among its terms.
        loss: The loss.

    Returns:
        The tap, and each level's flow by its index as text.
    """
    tap = model.student_taps[name]
    if loss.flow_cfg != 'neck':
        return tap, dict(loss.flows.items())
    # the flows of the FlowNeck start behind the neck that it wraps
    return Tap(f'{tap.path}.neck'), dict(find_module(model.student, tap.path).flows.items())
