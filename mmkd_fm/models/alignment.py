"""Alignment of what a tap gives in the student with what it gives in the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor, nn

from mmkd_fm.models.taps import Tap


@dataclass(frozen=True)
class Level:
    """One feature map of a pyramid.

    Attributes:
        channels: Number of channels.
        stride: Pixels of the input per element, measured.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class Tapped:
    """A tap as measured on a built model.

    Attributes:
        owner: 'student' or 'teacher'.
        tap: Where it is read.
        module: The tapped module; its attributes tell what kind of logits a head gives.
        levels: Its feature maps, in the order of the output.
    """

    owner: str
    tap: Tap
    module: nn.Module
    levels: tuple[Level, ...]

    def __str__(self) -> str:
        levels = ', '.join(f'{level.channels}@{level.stride}' for level in self.levels)
        return f'{self.owner} {str(self.tap)!r} ({levels or "no feature maps"})'


def as_levels(output: Any) -> list[Tensor]:
    """A pyramid as a list, also where it has a single level and is a bare tensor."""
    return [output] if isinstance(output, Tensor) else list(output)


def measure(output: Any, input_size: int) -> tuple[Level, ...]:
    """Channels and strides of the (N, C, H, W) maps in ``output``, computed from a square image.

    Args:
        output: A tensor or a sequence of tensors; anything else has no levels.
        input_size: Side of the image in pixels.
    """
    if not isinstance(output, (Tensor, list, tuple)):
        return ()
    maps = as_levels(output)
    if not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
        return ()
    return tuple(Level(m.shape[1], round(input_size / m.shape[-1])) for m in maps)


def pair_levels(
    student: Tapped, teacher: Tapped, levels: Optional[Sequence[int]] = None
) -> list[tuple[int, int]]:
    """Indices (student, teacher) of the levels that have the same stride.

    Args:
        student: The student's tap.
        teacher: The teacher's tap.
        levels: Indices of the student's levels to use; None takes all.

    Raises:
        ValueError: If a level that is used has no partner, or ``levels`` is out of range.
    """
    if not student.levels or not teacher.levels:
        raise ValueError(
            f'feature maps of shape (N, C, H, W) are expected, but got {student} and {teacher}; '
            f'tap the neck, or choose an output with index='
        )
    wanted = range(len(student.levels)) if levels is None else levels
    strides = [level.stride for level in teacher.levels]
    pairs = []
    for i in wanted:
        if not 0 <= i < len(student.levels):
            raise ValueError(
                f'levels={list(wanted)}: {student} has the levels 0 to {len(student.levels) - 1}'
            )
        stride = student.levels[i].stride
        if stride not in strides:
            raise ValueError(
                f'the pyramids do not fit: level {i} of {student} has stride {stride}, '
                f'{teacher} has no such level. Choose levels= among '
                f'{[n for n, level in enumerate(student.levels) if level.stride in strides]}'
            )
        pairs.append((i, strides.index(stride)))
    return pairs


def projection(in_channels: int, out_channels: int) -> nn.Module:
    """A 1x1 convolution where the channels differ, nothing where they do not."""
    if in_channels == out_channels:
        return nn.Identity()
    return nn.Conv2d(in_channels, out_channels, 1)
