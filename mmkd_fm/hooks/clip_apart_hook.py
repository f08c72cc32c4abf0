"""Clip the gradients of the student and of the extras apart."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch import Tensor

from mmkd_fm.hooks.unwrapped_model import unwrapped_model
from mmkd_fm.models.distiller import EXTRAS
from mmkd_fm.registry import HOOKS


@HOOKS.register_module()
class ClipApartHook(Hook):
    """Makes `clip_grad` of the optim wrapper clip the student's gradients as in plain training.

    Clipped together, large gradients of the meta-encoders would shrink the student's. The logged
    `grad_norm` is the student's.

    Example:
        >>> default_hooks = dict(distill_clip=dict(type='mmkd_fm.ClipApartHook'))
    """

    def before_train(self, runner) -> None:
        """Replace the clipping functions, if there are any."""
        extras = {id(p) for p in getattr(unwrapped_model(runner), EXTRAS).parameters()}
        wrapper = runner.optim_wrapper
        for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            if hasattr(each, 'clip_func'):
                each.clip_func = partial(_clip_apart, each.clip_func, extras)


def _clip_apart(clip: Callable, extras: set[int], params: list[Tensor], **kwargs: Any) -> Any:
    """Clip those of ``params`` whose `id` is in ``extras``, then the others, whose norm counts."""
    of_extras = [p for p in params if id(p) in extras]
    of_student = [p for p in params if id(p) not in extras]
    if of_extras:  # torch can't clip nothing by value
        clip(of_extras, **kwargs)
    return clip(of_student, **kwargs) if of_student else None
