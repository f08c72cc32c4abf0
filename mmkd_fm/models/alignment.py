"""Alignment of what a tap gives in the student with what it gives in the teacher."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.models.roi import RoIStage
from mmkd_fm.models.taps import Tap


@dataclass(frozen=True)
class Level:
    """One feature map of a pyramid.

    Attributes:
        channels: Number of channels.
        stride: Pixels of the student's input per element, measured.
    """

    channels: int
    stride: float

    def __str__(self) -> str:
        return f'{self.channels}@{self.stride:g}'


@dataclass(frozen=True)
class Tapped:
    """A tap as measured on a built model.

    Attributes:
        owner: 'student' or 'teacher'.
        tap: Where it is read.
        module: The tapped module; its attributes tell what kind of logits a head gives.
        levels: Its feature maps, in the order of the output.
        stage: Of a box head that scores RoIs, what it needs.
    """

    owner: str
    tap: Tap
    module: nn.Module
    levels: tuple[Level, ...]
    stage: Optional[RoIStage] = None

    def __str__(self) -> str:
        levels = ', '.join(map(str, self.levels)) or 'no feature maps'
        return f'{self.owner} {str(self.tap)!r} ({levels if self.stage is None else "RoIs"})'


def as_levels(output: Any) -> list[Tensor]:
    """A pyramid as a list, also where it has a single level and is a bare tensor."""
    return [output] if isinstance(output, Tensor) else list(output)


def measure(output: Any, input_size: int, scale: float = 1) -> tuple[Level, ...]:
    """Channels and strides of the (N, C, H, W) maps in ``output``, computed from a square image.

    Args:
        output: A tensor or a sequence of tensors; anything else has no levels.
        input_size: Side of the image in pixels.
        scale: Pixels of the image per pixel of the student's.
    """
    if not isinstance(output, (Tensor, list, tuple)):
        return ()
    maps = as_levels(output)
    if not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
        return ()
    strides = [round(input_size / m.shape[-1]) for m in maps]
    if scale != 1:
        strides = [stride / scale for stride in strides]
    return tuple(Level(m.shape[1], stride) for m, stride in zip(maps, strides))


def pair_levels(
    student: Tapped, teacher: Tapped, levels: Optional[Sequence[int]] = None
) -> list[tuple[int, int]]:
    """Indices (student, teacher) of the levels that have the same stride.

    Where there is none of exactly the same, as with a teacher of another resolution, it is the
    nearest that is less than half an octave away. Of several levels of one stride, as the last
    stages of some backbones are, the first is paired with the first, the second with the second;
    what is beyond the teacher's last goes with that.

    Args:
        student: The student's tap.
        teacher: The teacher's tap.
        levels: Indices of the student's levels to use, each of which needs a partner; None takes
            those that have one.

    Raises:
        ValueError: If ``levels`` is no list of indices, a level of it has no partner, is out of
            range or named twice, or none has a partner.
    """
    if not student.levels or not teacher.levels:
        raise ValueError(
            f'feature maps of shape (N, C, H, W) are expected, but got {student} and {teacher}; '
            f'tap the neck, or choose an output with index='
        )
    strides = [level.stride for level in student.levels]
    partners = [
        _partner(stride, strides[:i].count(stride), teacher) for i, stride in enumerate(strides)
    ]
    common = [i for i, partner in enumerate(partners) if partner is not None]
    if not common:
        raise ValueError(
            f'the pyramids do not fit: {student} and {teacher} (channels@stride) have no stride in '
            f"common. Tap other modules of the two, with tap= and teacher_tap=, such as 'neck'"
        )
    if levels is not None:
        check_levels(
            levels, len(student.levels), str(student), f'that have a partner, here {common}'
        )
    for i in [] if levels is None else levels:
        if partners[i] is None:
            raise ValueError(
                f'the pyramids do not fit: level {i} of {student} has stride '
                f'{student.levels[i].stride:g}, {teacher} has no such level. Choose levels= among '
                f'{common}'
            )
    return [(i, partners[i]) for i in (common if levels is None else levels)]


def check_levels(levels: Sequence[int], count: int, owner: str, default: str) -> None:
    """Check which levels of a pyramid are to be used.

    Args:
        levels: Their indices.
        count: Number of levels of the pyramid.
        owner: What has them, in words.
        default: All which are taken where ``levels`` is None, in words.

    Raises:
        ValueError: If ``levels`` is no list of indices, one is out of range or named twice.
    """
    listed = isinstance(levels, (list, tuple)) and all(type(i) is int for i in levels)
    if not (listed and levels):
        raise ValueError(
            f'levels={levels!r}: expected a list of indices, such as [0, 1]; None takes all '
            f'{default}'
        )
    if len(set(levels)) < len(levels):
        raise ValueError(f'levels={list(levels)}: a level is named twice; name each once')
    if not all(0 <= i < count for i in levels):
        raise ValueError(f'levels={list(levels)}: {owner} has the levels 0 to {count - 1}')


def _partner(stride: float, place: int, teacher: Tapped) -> Optional[int]:
    """Index of the teacher's level of that stride, of several that at ``place`` among them."""
    octaves = [abs(math.log2(level.stride / stride)) for level in teacher.levels]
    nearest = teacher.levels[min(range(len(octaves)), key=octaves.__getitem__)].stride
    equal = [j for j, level in enumerate(teacher.levels) if level.stride == nearest]
    return equal[min(place, len(equal) - 1)] if min(octaves) < 0.5 else None


def left_out(student: Tapped, teacher: Tapped, pairs: Sequence[tuple[int, int]]) -> str:
    """The levels that are in no pair, in words; empty if there are none."""
    rest = []
    for tapped, used in zip((student, teacher), zip(*pairs)):
        levels = [str(level) for n, level in enumerate(tapped.levels) if n not in used]
        rest += [f"the {tapped.owner}'s {', '.join(levels)}"] if levels else []
    return ' and '.join(rest)


def match_size(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map, resized bilinearly if the teacher's has another size.

    Args:
        student: Shape (N, C, H, W).
        teacher: Shape (N, C', H', W').

    Returns:
        Shape (N, C, H', W').
    """
    if student.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student
    return F.interpolate(student, teacher.shape[2:], mode='bilinear', align_corners=False)


def projection(in_channels: int, out_channels: int, always: bool = False) -> nn.Module:
    """A 1x1 convolution where the numbers of channels differ, nothing where they do not.

    Args:
        in_channels: Channels of the student's map.
        out_channels: Channels of the teacher's.
        always: Also where they are equal; the convolution then begins as the identity.
    """
    if in_channels != out_channels:
        return nn.Conv2d(in_channels, out_channels, 1)
    if not always:
        return nn.Identity()
    convolution = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.dirac_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution
