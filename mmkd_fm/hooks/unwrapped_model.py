"""The model that hooks steer: the runner's, without what distributed training wraps around it."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped_model(runner) -> nn.Module:
    """The runner's model itself, never a `DistributedDataParallel` around it.

    Example:
        >>> teacher = unwrapped_model(runner).teacher
    """
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
