"""The metric of FM-KT: a registered loss as a plain function of two tensors."""

from torch import nn

from mmkd_fm.registry import build_part

NEEDS_TAPS = {
    *('levels', 'project'),  # of feature losses
    *('form', 'weighting', 'threshold', 'normaliser', 'ignore_padding', 'class_map', 'anchors'),
}
"""Options of our losses that only a term of its own uses, whose taps were measured."""


def build_metric(cfg: dict) -> nn.Module:
    """Build a metric from its config.

    Args:
        cfg: Of any registered loss of (student, teacher).

    Raises:
        ValueError: If the type is unknown, or an option would be ignored.
    """
    metric = build_part(cfg, 'Loss')
    ignored = sorted(NEEDS_TAPS & set(cfg))
    if ignored and type(metric).__module__.startswith('mmkd_fm.'):
        raise ValueError(
            f'metric: {", ".join(ignored)} of {type(metric).__name__} would be ignored, since a '
            f'metric compares two tensors that it is given; levels belong to the FM-KT loss, '
            f'project to its objective, the rest to a term of its own'
        )
    return metric
