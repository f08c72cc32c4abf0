"""The images that diagnose.py looks at: training batches, and test images with their boxes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from data_problems import file_problems, folder_problems
from diagnose_models import LeftOut, Subject
from mmkd_fm.models.class_names import classes_of

SEED = 0  # of the order of the training images


@dataclass
class Truth:
    """What is to be found in an image, in its original pixels.

    Attributes:
        boxes: Corners, shape (G, 4).
        labels: Classes, int64, shape (G,).
        crowd: Which are neither to be found nor wrong, bool, shape (G,).
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor


@dataclass
class View:
    """A batch of test images.

    Attributes:
        raw: As the data loader gives it.
        inputs: The student's view, shape (N, 3, H, W).
        teacher_inputs: The teacher's, shape (N, 3, H', W'); None without a teacher.
        samples: The images' samples; of a detector with boxes in pixels of `inputs`.
        truths: The boxes of each image; empty for a classifier.
    """

    raw: dict
    inputs: Tensor
    teacher_inputs: Tensor | None
    samples: list
    truths: list[Truth]


def train_batches(cfg: Config, count: int) -> Iterator[dict]:
    """The first batches of a training, as its data loader gives them.

    Args:
        cfg: The whole config.
        count: How many, at most.

    Raises:
        LeftOut: If the config trains nothing.
        ValueError: If the data can't be read.
    """
    return islice(_loader(cfg, 'train_dataloader'), count)


class TestImages:
    """Images of the test set, evenly spread.

    Args:
        cfg: The whole config.
        count: How many, at most; None takes all.

    Raises:
        LeftOut: If the config tests nothing.
        ValueError: If the data can't be read.
    """

    def __init__(self, cfg: Config, count: int | None = None) -> None:
        loader = _loader(cfg, 'test_dataloader')
        self.dataset = loader.dataset
        size = len(self.dataset)
        wanted = min(size, count or size)
        self.chosen = [i * size // wanted for i in range(wanted)]
        share = Subset(self.dataset, self.chosen)
        self.loader = DataLoader(share, loader.batch_size or 1, collate_fn=loader.collate_fn)
        self.classes = list(classes_of(self.dataset.metainfo) or ())
        self.has_boxes = bool(wanted) and 'instances' in self.dataset.get_data_info(0)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def views(self, subject: Subject) -> Iterator[View]:
        """The batches as both models see them, without batch augmentations."""
        preprocessor = subject.model.data_preprocessor
        augments = getattr(preprocessor, 'batch_augments', None)
        if augments is not None:
            preprocessor.batch_augments = None
        try:
            seen = 0
            for raw in self.loader:
                views = subject.teacher is not None  # both, as in training
                data = preprocessor(copy.deepcopy(raw), views)
                truths = []
                for sample in data['data_samples'] if self.has_boxes else ():
                    truths.append(self.truth(self.chosen[seen]))
                    _set_boxes(sample, truths[-1], data['inputs'].device)
                    seen += 1
                yield View(
                    raw, data['inputs'], data.get('teacher_inputs'), data['data_samples'], truths
                )
        finally:
            if augments is not None:
                preprocessor.batch_augments = augments

    def truth(self, index: int) -> Truth:
        """The boxes of an image, whatever the pipeline did to it."""
        instances = self.dataset.get_data_info(index)['instances']
        boxes = torch.tensor([one['bbox'] for one in instances], dtype=torch.float32)
        return Truth(
            boxes.view(-1, 4),
            torch.tensor([one['bbox_label'] for one in instances], dtype=torch.int64),
            torch.tensor([bool(one.get('ignore_flag')) for one in instances], dtype=torch.bool),
        )


def _set_boxes(sample: Any, truth: Truth, device: torch.device) -> None:
    """Boxes in pixels of the network's input: pipelines may load them before or after a resize."""
    scale = truth.boxes.new_tensor(sample.metainfo.get('scale_factor', (1.0, 1.0))).repeat(2)
    for name, chosen in (('gt_instances', ~truth.crowd), ('ignored_instances', truth.crowd)):
        boxes, labels = truth.boxes[chosen] * scale, truth.labels[chosen]
        setattr(sample, name, InstanceData(bboxes=boxes.to(device), labels=labels.to(device)))


def _loader(cfg: Config, name: str) -> DataLoader:
    """A data loader in this process."""
    if not cfg.get(name):
        raise LeftOut(f'the config has no {name}')
    settings = copy.deepcopy(cfg[name])
    for of_workers in ('prefetch_factor', 'timeout'):
        settings.pop(of_workers, None)
    settings.update(num_workers=0, persistent_workers=False)
    problems = list(folder_problems(cfg, [name]))
    try:
        if not problems:
            return Runner.build_dataloader(settings, seed=SEED)
    except Exception as error:  # data sets fail in many ways
        cause = f'{type(error).__name__}: {error}'
        problems = [f'{text} (what failed: {cause})' for text in file_problems(cfg, [name])]
        if not problems:
            raise ValueError(f'{name} can not be built: {cause}') from error
    raise ValueError(problems[0])
