"""Look at the training data before the first step."""

import os
import os.path as osp
from collections.abc import Sequence
from typing import Any, Optional

from mmengine.hooks import Hook

from mmkd_fm.hooks.unwrapped_model import unwrapped_model
from mmkd_fm.models.class_names import class_names, classes_of
from mmkd_fm.models.classes import check_names
from mmkd_fm.registry import HOOKS


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Stops before training if the data set is empty or its images are not where it says.

    Also if logits are compared whose classes don't correspond: those of the data, of a `class_map`
    and of the teacher's checkpoint are compared by name. Of classifiers also if there are classes
    that the head has no logit for. Images that aren't read from the disk (`backend_args`) are not
    looked for.

    Args:
        num_images: How many images to look for, spread evenly over the data set.

    Raises:
        ValueError: If the number of images is not positive.

    Example:
        >>> default_hooks = dict(distill_data=dict(type='mmkd_fm.DataCheckHook'))
    """

    def __init__(self, num_images: int = 8) -> None:
        if num_images < 1:
            raise ValueError(f'num_images must be at least 1, but got {num_images}')
        self.num_images = num_images

    def before_train(self, runner) -> None:
        """Check the training data set.

        Raises:
            ValueError: If it has no images that can be trained on, too many classes, or other
                classes than the distillation.
            FileNotFoundError: If image files are missing.
        """
        dataset = runner.train_dataloader.dataset
        name = getattr(dataset, 'ann_file', None) or type(dataset).__name__
        classes = classes_of(getattr(dataset, 'metainfo', None))
        model = unwrapped_model(runner)
        num_classes = getattr(getattr(model, 'head', None), 'num_classes', None)
        if len(dataset) == 0:
            filtered = (
                f'Either the file lists none, or all are without boxes of the classes '
                f'{classes} and filter_cfg.filter_empty_gt leaves them '
                f'out; check ann_file and metainfo.classes'
            )
            remedy = filtered if num_classes is None else 'The file lists none; check ann_file'
            raise ValueError(f'{name}: no image to train on. {remedy}')
        if num_classes is not None:
            _check_classes(runner, classes, num_classes, name)
        _check_names(runner, model, classes, name)
        loader = runner.cfg.get('train_dataloader')
        if not hasattr(dataset, 'get_data_info') or _is_read_elsewhere(loader):
            return
        prefix = 'data_prefix.img' if num_classes is None else 'data_prefix'
        count = min(self.num_images, len(dataset))
        for i in range(count):
            path = dataset.get_data_info(i * len(dataset) // count).get('img_path')
            if not isinstance(path, (str, os.PathLike)):
                continue
            if '://' not in str(path) and not osp.isfile(path):
                raise FileNotFoundError(
                    f'{name} lists {path}, but there is no such file; check data_root and '
                    f'{prefix} of the training data set'
                )


def _is_read_elsewhere(config: Any) -> bool:
    """Whether a part of a config, a transform say, reads files from elsewhere than the disk."""
    if isinstance(config, (list, tuple)):
        return any(map(_is_read_elsewhere, config))
    if not isinstance(config, dict):
        return False
    given = [config.get(key) or {} for key in ('backend_args', 'file_client_args')]
    # mmengine's two names of the disk, which paths without a prefix are read from
    elsewhere = any(args.get('backend', 'local') not in ('local', 'disk') for args in given)
    return elsewhere or any(map(_is_read_elsewhere, config.values()))


def _check_classes(runner, classes: Optional[Sequence[str]], num_classes: int, name: str) -> None:
    """Compare the classes of the data with the logits of a classifier."""
    if classes is None or len(classes) == num_classes:
        return
    differ = f'{name} has {len(classes)} classes, the head of the classifier {num_classes}'
    if len(classes) > num_classes:
        raise ValueError(
            f'{differ}; set num_classes of the head and of data_preprocessor, and take a teacher '
            f'of these classes'
        )
    runner.logger.warning(f'{differ}: the teacher means its own classes by the logits 0, 1, ...')


def _check_names(runner, model, classes: Optional[Sequence[str]], name: str) -> None:
    """Compare the names of the classes of the data with those that the teacher's logits mean."""
    losses = [module for module in model.modules() if hasattr(module, 'class_map')]
    losses = [x for x in losses if x.class_map is not None or not (x.dense and x.dense.boxes)]
    if not losses or not classes or getattr(model, 'teacher', None) is None:
        return
    checkpoint = model.teacher.checkpoint
    teacher = class_names(checkpoint)
    if teacher is None:
        runner.logger.info(f'{checkpoint} does not say which classes the teacher has')
    doubts = [check_names(x.class_map, classes, teacher, (name, checkpoint)) for x in losses]
    for doubt in dict.fromkeys(filter(None, doubts)):
        runner.logger.warning(doubt)
