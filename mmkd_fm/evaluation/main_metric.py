"""Which of the metrics of an evaluation is judged by."""

import re

_MAIN = re.compile(r'(^|[/_])(m?AP([_@]?\d+)?|top1)$')
_IN_PERCENT = re.compile(r'top1$|^(multi-label|lvis_fixed_ap)/')


def main_metric(metrics: dict[str, float]) -> tuple[str, float]:
    """The first AP or top-1, else the first metric, and its unit.

    Args:
        metrics: Numbers by name, as evaluators of mmdet and mmpretrain give them; one at least.

    Returns:
        Its name, and what it is multiplied with to be in percent: the AP of mmdet's metrics are
        fractions, but for one; mmpretrain's metrics are in percent.

    Example:
        >>> main_metric({'coco/bbox_mAP': 0.412, 'coco/bbox_mAP_50': 0.6})
        ('coco/bbox_mAP', 100.0)
    """
    name = next(filter(_MAIN.search, metrics), next(iter(metrics)))
    fraction = _MAIN.search(name) and not _IN_PERCENT.search(name)
    return name, 100.0 if fraction else 1.0
