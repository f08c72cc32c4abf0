"""One raw batch, two views: the student's and the teacher's."""

from collections.abc import Callable
from typing import Optional

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from mmkd_fm.models.teacher import FrozenTeacher


class TwoViewPreprocessor(nn.Module):
    """The student's data preprocessor, with the teacher's view added in training.

    The teacher's view is made from the raw images, with its own mean, std, channel order and
    padding, not by undoing the student's. Batch augmentations run once, on both views together.
    Where both views are the same they share one tensor. Everything else is the student's
    preprocessor.

    Args:
        student: The student's own preprocessor.
        teacher: The teacher.
    """

    def __init__(self, student: BaseDataPreprocessor, teacher: FrozenTeacher) -> None:
        super().__init__()
        self.student = student
        self._teacher = teacher
        self.same_view = _view(student) == _view(teacher.model.data_preprocessor)
        self.batch_augments: Optional[Callable] = getattr(student, 'batch_augments', None)
        if self.batch_augments is not None:
            student.batch_augments = None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess a batch.

        Args:
            data: Raw batch of the data loader.
            training: Whether to augment and to add the teacher's view.

        Returns:
            The student's `inputs` and `data_samples`, in training `teacher_inputs` too, of shape
            (N, 3, H, W).
        """
        if not training:
            return self.student(data, False)
        data = self.student.cast_data(data)
        views: list[Tensor] = []
        if not self.same_view:
            teacher = self._teacher.model.data_preprocessor
            teacher._device = self.student.device
            views = [teacher(dict(inputs=data['inputs']), False)['inputs']]
        result = self.student(data, True)
        views = [result['inputs'], *views]
        if self.batch_augments is not None:
            views = self._augment(views, result)
        return dict(result, inputs=views[0], teacher_inputs=views[-1])

    def _augment(self, views: list[Tensor], result: dict) -> list[Tensor]:
        """Apply the batch augmentations once, to all views stacked along the channels."""
        sizes = {tuple(view.shape[-2:]) for view in views}
        if len(sizes) > 1:
            raise ValueError(
                f'batch augmentations need both views of one size, but padding gives {sizes}; set '
                f'pad_size_divisor of the student and of the teacher to the same value'
            )
        channels = [view.shape[1] for view in views]
        inputs = torch.cat(views, dim=1) if len(views) > 1 else views[0]
        samples = result['data_samples']
        if isinstance(self.batch_augments, nn.ModuleList):
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        else:  # mmpretrain's mixup and the like, which mix the labels
            scores = torch.stack([sample.gt_score for sample in samples])
            inputs, scores = self.batch_augments(inputs, scores)
            samples = [s.set_gt_score(score) for s, score in zip(samples, scores)]
        result['data_samples'] = samples
        return list(inputs.split(channels, dim=1))

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('student'), name)


def _view(preprocessor: nn.Module) -> tuple:
    """What decides about the pixels that a model sees."""
    normalise = getattr(preprocessor, '_enable_normalize', False)
    return (
        preprocessor.mean.flatten().tolist() if normalise else None,
        preprocessor.std.flatten().tolist() if normalise else None,
        getattr(preprocessor, '_channel_conversion', False),
        getattr(preprocessor, 'to_rgb', False),  # mmpretrain's
        getattr(preprocessor, 'pad_size_divisor', 1),
        getattr(preprocessor, 'pad_value', 0),
    )
