"""Keeps the result of a pipeline's first steps, so that an image is read and decoded once."""

import copy
import random

import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose

from mmkd_fm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class InMemory(BaseTransform):
    """Runs ``transforms`` once for each sample of a data set and keeps what they give.

    For data sets that fit into memory, where decoding takes longer than a small model. What is
    random comes after it in the pipeline. Each worker of a data loader keeps samples of its own, as
    long as it lives: set ``persistent_workers=True``, or ``num_workers=0``. It is for training and
    validation: in test pipelines mmdet's inference looks for the loading step itself.

    Args:
        transforms: Configs of the steps, such as loading and resizing; without randomness.

    Raises:
        ValueError: If a step drops a sample or draws from Python's, NumPy's or torch's generator.

    Example:
        >>> dict(type='mmkd_fm.InMemory', transforms=[
        ...     dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)])
    """

    def __init__(self, transforms: list) -> None:
        self.transforms = Compose(transforms)
        self.kept: dict[tuple, dict] = {}

    def transform(self, results: dict) -> dict:
        """The sample, free to be changed.

        Args:
            results: A sample as the data set gives it. Nothing is kept of one without `sample_idx`,
                such as a single image to predict on.
        """
        if 'sample_idx' not in results:
            return self._run(results)
        key = results['sample_idx'], results.get('img_path')
        if key not in self.kept:
            self.kept[key] = self._run(copy.deepcopy(results))
        return copy.deepcopy(self.kept[key])

    def _run(self, results: dict) -> dict:
        which = results.get('img_path', f'sample {results.get("sample_idx")}')
        for step in self.transforms.transforms:
            before = _generators()
            results = step(results)
            if before != _generators():
                raise ValueError(
                    f'InMemory: {type(step).__name__} draws random numbers, and what it gave for '
                    f'{which} would be kept for ever; put what is random behind InMemory'
                )
            if results is None:
                raise ValueError(
                    f'InMemory: {type(step).__name__} dropped {which}, so that there is nothing to '
                    f'keep; mend the sample, or put the step behind InMemory'
                )
        return results

    def __getstate__(self) -> dict:
        """Copies, for a worker or a part of the data set, begin empty."""
        return dict(self.__dict__, kept={})

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'


def _generators() -> tuple:
    """What changes with each number that is drawn from a global generator."""
    _, keys, *position = np.random.get_state()
    return random.getstate(), keys.tobytes(), position, torch.get_rng_state().numpy().tobytes()
