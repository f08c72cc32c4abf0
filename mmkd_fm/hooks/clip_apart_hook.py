"""Clip the gradients of the student and of the extras apart."""

from mmengine.hooks import Hook

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
        """Replace the clipping function, if there is one."""
        clip = getattr(runner.optim_wrapper, 'clip_func', None)
        if clip is None:
            return
        model = unwrapped_model(runner)
        extras = {id(p) for p in getattr(model, EXTRAS).parameters()}

        def clip_apart(params, **kwargs):
            of_extras = [p for p in params if id(p) in extras]
            of_student = [p for p in params if id(p) not in extras]
            if of_extras:  # torch can't clip nothing by value
                clip(of_extras, **kwargs)
            return clip(of_student, **kwargs) if of_student else None

        runner.optim_wrapper.clip_func = clip_apart
