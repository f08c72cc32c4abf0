"""One raw batch, two views: the student's and the teacher's."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.teacher import FrozenTeacher, rescale


class TwoViewPreprocessor(nn.Module):
    """The student's data preprocessor, with the teacher's view added in training.

    The teacher's view is made from the raw images, with its own resolution, mean, std, channel
    order and padding, not by undoing the student's. It is padded further where the student's view
    goes on beyond it, so that it shows all that the student sees; where it goes on beyond the
    student's, `common_part` cuts the teacher's maps. Batch augmentations run once, on both views
    together, at the student's resolution: the teacher sees what they give, resized and padded its
    own way. Where both views are the same they share one tensor. Everything else is the student's
    preprocessor.

    Args:
        student: The student's own preprocessor.
        teacher: The teacher.
        wanted: Whether the teacher will be run on the next batch: without, no view of it is made.
    """

    def __init__(
        self,
        student: BaseDataPreprocessor,
        teacher: FrozenTeacher,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self.student = student
        self.wanted = wanted
        self._teacher = teacher
        own = teacher.model.data_preprocessor
        self.same_view = teacher.input_scale == 1 and _view(student) == _view(own)
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
            (N, 3, H', W'); where the teacher is not wanted these are the student's.
        """
        if not training:
            return self.student(data, False)
        data = self.student.cast_data(data)
        views: list[Tensor] = []
        if not self.same_view and self.wanted():
            self._teacher.model.data_preprocessor._device = self.student.device
            # else after the batch augmentations, which need the student's resolution
            resize_now = self.batch_augments is None
            views = [self._teacher.view(data['inputs'], resize=resize_now)]
        result = self.student(data, True)
        views = [result['inputs'], *views]
        if self.batch_augments is not None:
            views = self._augment(views, result)
        if len(views) > 1:
            views[1] = self._cover(views[1], views[0])
        return dict(result, inputs=views[0], teacher_inputs=views[-1])

    def _augment(self, views: list[Tensor], result: dict) -> list[Tensor]:
        """Apply the batch augmentations once, to all views stacked along the channels."""
        size = views[0].shape[-2:]
        views = [views[0], *(_resize_canvas(view, size, self._pad_value) for view in views[1:])]
        channels = [view.shape[1] for view in views]
        inputs = torch.cat(views, dim=1) if len(views) > 1 else views[0]
        samples = result['data_samples']
        if isinstance(self.batch_augments, nn.ModuleList):
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        elif all('gt_score' in sample for sample in samples):
            # mmpretrain's mixup and the like, which mix the labels
            scores = torch.stack([sample.gt_score for sample in samples])
            inputs, scores = self.batch_augments(inputs, scores)
            samples = [s.set_gt_score(score) for s, score in zip(samples, scores)]
        else:
            warnings.warn(
                'batch augmentations are left out, as mmpretrain does too, since the samples have '
                'no scores that they could mix; set data_preprocessor.to_onehot=True',
                stacklevel=2,
            )
        result['data_samples'] = samples
        student, *others = inputs.split(channels, dim=1)
        return [student, *(rescale(view, self._teacher.input_scale) for view in others)]

    def _cover(self, view: Tensor, student: Tensor) -> Tensor:
        """Pad the teacher's view to all that the student's shows, and to its own divisor."""
        divisor = getattr(self._teacher.model.data_preprocessor, 'pad_size_divisor', 1)
        size = [
            divisor * _cells(max(own, _pixels(other, self._teacher.input_scale)), divisor)
            for own, other in zip(view.shape[-2:], student.shape[-2:])
        ]
        return _resize_canvas(view, size, self._pad_value)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        """Load the student's own state: it is saved without `student.` in its keys."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f'{prefix}student.{key[len(prefix) :]}'] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def _pad_value(self) -> float:
        return getattr(self._teacher.model.data_preprocessor, 'pad_value', 0)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('student'), name)


def _view(preprocessor: nn.Module) -> tuple:
    """What decides about the pixels that a model sees."""
    normalise = getattr(preprocessor, '_enable_normalize', False)
    return (
        type(preprocessor).forward,  # one of a user, or one that holds others, does as it likes
        preprocessor.mean.flatten().tolist() if normalise else None,
        preprocessor.std.flatten().tolist() if normalise else None,
        getattr(preprocessor, '_channel_conversion', False),
        getattr(preprocessor, 'to_rgb', False),  # mmpretrain's
        getattr(preprocessor, 'pad_size_divisor', 1),
        getattr(preprocessor, 'pad_value', 0),
    )


def common_part(
    output: Any,
    tapped: Union[Tapped, dict[str, Tapped]],
    student: Sequence[int],
    teacher: Sequence[int],
    scale: float = 1.0,
) -> Any:
    """Cut the teacher's maps to what the student sees, where its view goes on beyond that.

    Both views begin at the same corner of the images. So what is left of a map has its locations
    where the student's has them (at equal strides), while a resize would stretch one view onto the
    other.

    Args:
        output: What a tap gave in the teacher: maps of shape (N, C, H, W), or a dict of such.
        tapped: The tap as measured, with its strides in pixels of the student.
        student: Height and width of the student's view.
        teacher: Height and width of the teacher's view, in its own pixels.
        scale: `FrozenTeacher.input_scale`.

    Returns:
        ``output`` itself where it has no maps or the views end together.
    """
    if isinstance(output, dict) and isinstance(tapped, dict):
        return {
            name: common_part(part, tapped[name], student, teacher, scale)
            for name, part in output.items()
        }
    beyond = [own > _pixels(other, scale) for own, other in zip(teacher, student)]
    if not any(beyond) or not isinstance(tapped, Tapped) or not tapped.levels:
        return output
    maps = [output] if isinstance(output, Tensor) else output
    cut = []
    for level, of_level in zip(maps, tapped.levels):
        rows, columns = (
            _cells(other, of_level.stride) if cuts else None for other, cuts in zip(student, beyond)
        )
        cut.append(level[..., :rows, :columns])
    return cut[0] if isinstance(output, Tensor) else tuple(cut)


def _pixels(length: int, scale: float) -> int:
    """Pixels of a length that is resized, as `rescale` gives them."""
    return math.floor(length * scale)


def _cells(length: int, size: float) -> int:
    """Cells that cover a length."""
    return math.ceil(round(length / size, 6))


def _resize_canvas(view: Tensor, size: Sequence[int], value: float) -> Tensor:
    """Pad or cut below and on the right; what is cut is padding."""
    more = [new - old for new, old in zip(size, view.shape[-2:])]
    if not any(more):
        return view
    return F.pad(view, (0, more[1], 0, more[0]), value=value)
