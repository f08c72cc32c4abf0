"""Evaluate the teacher before training: a wrong checkpoint or preprocessing costs days else."""

import copy
from numbers import Real
from typing import Optional

import torch
from mmengine.config.utils import _get_cfg_metainfo
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.utils import get_installed_path
from torch import nn
from torch.utils.data import DataLoader, Subset

from mmkd_fm.evaluation.main_metric import main_metric
from mmkd_fm.generators import preserved_generators
from mmkd_fm.hooks.unwrapped_model import unwrapped_model
from mmkd_fm.models.class_names import classes_of
from mmkd_fm.models.distiller import Distiller
from mmkd_fm.models.teacher import FrozenTeacher
from mmkd_fm.registry import HOOKS


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Logs what the teacher scores on validation images, before the first step of a training.

    It warns where that is far below what the model zoo publishes for the teacher's config, or
    nothing at all. The training itself is bit-equal with and without it.

    Args:
        num_images: Images, spread evenly over the validation set.
        tolerance: Points of the metric, in percent, below the published one that are not far; on
            few images the metric scatters.

    Raises:
        ValueError: If the number of images is not positive.

    Example:
        >>> default_hooks = dict(distill_teacher=dict(type='mmkd_fm.TeacherCheckHook'))
    """

    def __init__(self, num_images: int = 200, tolerance: float = 5.0) -> None:
        if num_images < 1:
            raise ValueError(f'num_images must be at least 1, but got {num_images}')
        self.num_images = num_images
        self.tolerance = tolerance

    def before_train(self, runner) -> None:
        """Evaluate the teacher, log its metrics, and warn where they are suspicious."""
        model = unwrapped_model(runner)
        reason = _why_not(model, runner)
        if reason:
            runner.logger.warning(f'the teacher is not checked: {reason}')
            return
        with preserved_generators():
            count, metrics = _evaluate(model.teacher, runner, self.num_images)
        if metrics is None:
            runner.logger.warning(
                'the teacher is not checked: it predicts no masks, and nothing but masks is scored'
            )
            return
        numbers = {name: value for name, value in metrics.items() if isinstance(value, Real)}
        shown = {**metrics, **{name: f'{value:.4g}' for name, value in numbers.items()}}
        text = ', '.join(f'{name} {value}' for name, value in shown.items())
        runner.logger.info(f'the teacher on {count} validation images: {text}')
        doubt = None
        if numbers or not metrics:  # there are metrics that are a list, of each class
            doubt = _doubt(numbers, model.teacher, _published(runner), self.tolerance)
        if doubt:
            runner.logger.warning(
                f'the teacher {doubt}. Compare its checkpoint with its config, and the images of '
                f'the validation pipeline with those that it was trained on'
            )


def _why_not(model: nn.Module, runner) -> Optional[str]:
    """Why the teacher can't be evaluated; None if it can."""
    teacher = model.teacher if isinstance(model, Distiller) else None
    if teacher is None:
        return f'{type(model).__name__} has none; take the hook out of default_hooks'
    if runner.val_loop is None:
        return 'the config has no validation (val_dataloader, val_evaluator, val_cfg)'
    if hasattr(runner.val_evaluator, 'dataset_prefixes'):  # it takes results by their place in all
        return 'several data sets are validated, each by metrics of its own'
    classes = classes_of(getattr(runner.val_dataloader.dataset, 'metainfo', None))
    if classes is not None and len(classes) != teacher.num_classes:
        return (
            f'it has {teacher.num_classes} classes, the validation set {len(classes)}, so '
            f'that its predictions can not be scored'
        )
    return None


@torch.no_grad()
def _evaluate(
    teacher: FrozenTeacher, runner, num_images: int
) -> tuple[int, Optional[dict[str, float]]]:
    """How many evenly spread images there are, and the teacher's metrics on them.

    Each process predicts its share. Masks are not scored where it predicts none, nor boxes where
    it predicts masks alone; where nothing else is asked for there are no metrics, None.
    """
    loader, evaluator = runner.val_dataloader, copy.deepcopy(runner.val_evaluator)
    dataset = loader.dataset
    count = min(num_images, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    share = Subset(dataset, chosen[get_rank() :: get_world_size()])
    seen, masks, boxes = [], False, False
    for batch in DataLoader(share, loader.batch_size or 1, collate_fn=loader.collate_fn):
        samples = teacher.predict(copy.deepcopy(batch))
        seen += [sample.metainfo.get('img_id') for sample in samples]
        found = [sample.pred_instances for sample in samples if 'pred_instances' in sample]
        masks = masks or any('masks' in one for one in found)
        boxes = boxes or any((one.bboxes[:, 2:] > one.bboxes[:, :2]).any().item() for one in found)
        evaluator.process(data_samples=samples, data_batch=batch)
    images = [image for part in all_gather_object(seen) for image in part]
    masks, boxes = any(all_gather_object(masks)), any(all_gather_object(boxes))
    absent = 'segm' if not masks else None if boxes else 'bbox'  # boxes of SOLO are zeros
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids'):  # COCO and LVIS: else all others would count as missed
            metric.img_ids = images
        if absent in getattr(metric, 'metrics', ()):
            metric.metrics = [name for name in metric.metrics if name != absent]
    evaluator.metrics = [m for m in evaluator.metrics if getattr(m, 'metrics', True)]
    return count, evaluator.evaluate(count) if evaluator.metrics else None


def _doubt(
    metrics: dict[str, float], teacher: FrozenTeacher, published: Optional[float], tolerance: float
) -> Optional[str]:
    """What is suspicious about a teacher's metrics; None if nothing is."""
    if not metrics:  # what mmdet's give without a prediction
        return 'sees nothing: it predicts no object at all'
    name, percent = main_metric(metrics)
    value = percent * metrics[name]
    chance = 100 / teacher.num_classes if 'top1' in name else 0.0
    if value < chance + 1:
        return f'sees next to nothing: {name} {value:.1f}'
    if published is not None and value < published - tolerance:
        return f'has {name} {value:.1f}, published is {published:.1f}'
    return None


def _published(runner) -> Optional[float]:
    """Published box AP or top-1 of the teacher in percent, on this data set; None if unknown."""
    config = runner.cfg.model.teacher.config
    if not isinstance(config, str) or '::' not in config:
        return None
    package, path = config.split('::')
    try:
        results = _get_cfg_metainfo(get_installed_path(package), path)['Results']
    except (KeyError, ValueError):  # not in the zoo
        return None
    dataset = runner.val_dataloader.dataset
    own = getattr(type(dataset), 'METAINFO', {}).get('classes')
    if own is None or tuple(own) != tuple(classes_of(dataset.metainfo) or ()):
        return None  # other classes: other numbers
    for result in results:
        if result['Dataset'].partition('-')[0].lower() in type(dataset).__name__.lower():
            for name in ('box AP', 'Top 1 Accuracy'):
                if name in result['Metrics']:
                    return float(result['Metrics'][name])
    return None
