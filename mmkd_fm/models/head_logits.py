"""What the logits of a head mean, read from the head: its loss, `cls_out_channels`, `reg_max`."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional, Union

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd_fm.functional.forms import precise
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.classes import NamedMap

TAPS = "tap='bbox_head', index=0"


@dataclass(frozen=True)
class HeadLogits:
    """Rows of a dense head: one for each location and anchor; or one for each RoI.

    Attributes:
        channels: Logits in a row, the background's included.
        sigmoid: Whether they are those of sigmoids, one for each class; else they are a softmax's,
            whose last class is the background.
        activated: Whether the head gives the probabilities instead, as that of TOOD does.
        grid: Anchors and stride of each level; empty for RoIs.
        boxes: Of each level the anchors around a location, (x1, y1, x2, y2) in strides, in the
            order of the rows; empty where the head has no such boxes.
    """

    channels: int
    sigmoid: bool
    activated: bool
    grid: tuple[tuple[int, float], ...]
    boxes: tuple[tuple[tuple[float, ...], ...], ...] = ()

    def __str__(self) -> str:
        kind = 'sigmoids' if self.sigmoid else 'a softmax with the background as its last class'
        grid = ', '.join(f'{anchors}@{stride:g}' for anchors, stride in self.grid)
        rows = f'anchors@stride {grid}' if grid else 'a row for each RoI'
        return f'{self.channels} channels ({kind}), {rows}'

    @property
    def strides(self) -> list[float]:
        """Stride of each level."""
        return [stride for _, stride in self.grid]

    def at(self, levels: Sequence[int]) -> 'HeadLogits':
        """These levels alone."""
        boxes = tuple(self.boxes[i] for i in levels) if self.boxes else ()
        return replace(self, grid=tuple(self.grid[i] for i in levels), boxes=boxes)

    def logits(self, rows: Tensor, given: Optional[torch.dtype] = None) -> Tensor:
        """Logits of what the head gives, in float32 at least.

        Args:
            rows: Shape (M, channels).
            given: The type in which the head gave them; None is that of ``rows``.
        """
        given, rows = given or rows.dtype, precise(rows)
        if not self.activated:
            return rows
        if given.itemsize < rows.dtype.itemsize:
            # half precision rounds to 1 from a quarter of its eps below it: no gradient would pass
            rows = rows * (1 - torch.finfo(given).eps / 4)
        # beyond one rounding from 0 and 1 nothing is known of a probability
        return torch.logit(rows, eps=torch.finfo(rows.dtype).eps)

    def confidence(self, rows: Tensor) -> Tensor:
        """Probability that there is an object, shapes (M, channels) to (M,)."""
        if not self.sigmoid:
            return 1 - precise(rows).softmax(dim=-1)[:, -1]
        best = precise(rows).amax(dim=-1)
        return best if self.activated else best.sigmoid()


def is_classifier(tapped: Tapped) -> bool:
    """Whether the output is no feature maps and the module no dense head."""
    dense = tapped.levels or hasattr(tapped.module, 'cls_out_channels')
    return not dense and tapped.stage is None


def check_single_label(tapped: Tapped, loss: str) -> None:
    """Refuse classifiers of several labels an image, whose logits are no softmax.

    A head of one label that was trained with sigmoids (as ResNet's "rsb") predicts the class of
    the largest logit, and its logits are read as any others.

    Raises:
        ValueError: If the module is such a head.
    """
    pretrain = sys.modules.get('mmpretrain.models')  # which is imported where its heads are built
    if pretrain is not None and isinstance(tapped.module, pretrain.MultiLabelClsHead):
        raise ValueError(
            f'{loss} reads the logits of a classifier as one softmax over the classes, but those '
            f'of {tapped.owner} {str(tapped.tap)!r}, {type(tapped.module).__name__}, are sigmoids '
            f"of several labels an image. Distil features instead: tap='backbone' with FMKTLoss or "
            f'PKDLoss'
        )


def read_head(tapped: Tapped, loss: str) -> HeadLogits:
    """What the class scores of a dense head, or of a box head that scores RoIs, are.

    Raises:
        ValueError: If they are no class scores of such a head, it does not say what kind of scores,
            or a teacher leaves locations out.
    """
    if tapped.stage is not None:
        return _read_box_head(tapped, loss)
    head = tapped.module
    _check_scored_everywhere(tapped, loss)
    channels = getattr(head, 'cls_out_channels', None)
    objective = getattr(head, 'loss_cls', None)
    sigmoid = getattr(objective, 'use_sigmoid', getattr(head, 'use_sigmoid_cls', None))
    maps = channels and all(level.channels % channels == 0 for level in tapped.levels)
    priors = getattr(getattr(head, 'prior_generator', None), 'num_base_priors', ())
    if channels and len(priors) == len(tapped.levels):  # a box's sides may be so many too
        maps = [level.channels for level in tapped.levels] == [n * channels for n in priors]
    if not tapped.levels or not maps or sigmoid is None:
        raise ValueError(
            f'{loss} needs the classification scores of a dense head, maps of A x classes channels '
            f'and a head with cls_out_channels and loss_cls: tap the head and choose its scores, '
            f'as in {TAPS}; but got {tapped} of {type(head).__name__}'
        )
    return HeadLogits(
        channels,
        bool(sigmoid),
        bool(getattr(objective, 'activated', False)),
        tuple((level.channels // channels, level.stride) for level in tapped.levels),
        _anchor_boxes(head, len(tapped.levels)),
    )


def _check_scored_everywhere(tapped: Tapped, loss: str) -> None:
    """Refuse guided anchors as teachers: where they expect no object, their logits are 0."""
    masked = any(type(module).__name__ == 'MaskedConv2d' for module in tapped.module.modules())
    if masked and tapped.owner == 'teacher':  # in training they are computed everywhere
        raise ValueError(
            f'{loss}: outside of training {type(tapped.module).__name__} computes no scores where '
            f'it expects no object (guided anchoring), and gives logits of 0 there, so that it can '
            f"not teach by them; distil features instead: tap='neck' with FMKTLoss or PKDLoss"
        )


def _anchor_boxes(head: nn.Module, levels: int) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """See `HeadLogits.boxes`; in strides they are the same for a teacher of another resolution."""
    generator = getattr(head, 'prior_generator', None)
    anchors = getattr(generator, 'base_anchors', ())
    if len(anchors) != levels:
        return ()
    return tuple(
        tuple(map(tuple, (boxes / boxes.new_tensor([*stride, *stride])).tolist()))
        for boxes, stride in zip(anchors, generator.strides)
    )


def warn_of_objectness(*heads: Tapped) -> None:
    """Say so where a branch of its own tells objects from the background, not the class scores.

    Args:
        *heads: What is compared; their modules.
    """
    # of YOLOX a loss of its own; of AutoAssign a factor of the class scores in theirs
    marks = ('loss_obj', 'center_prior')
    owners = [h.owner for h in heads if any(hasattr(h.module, mark) for mark in marks)]
    if owners:
        print_log(
            f'{heads[0].tap.path}: the class scores of the {" and the ".join(owners)} are trained '
            f'for where there is an object, which a branch of its own decides (objectness); '
            f'elsewhere, at most locations, they mean nothing, but are compared too. Rather distil '
            f'features (FMKTLoss, PKDLoss)',
            'current',
            logging.WARNING,
        )


def _read_box_head(tapped: Tapped, loss: str) -> HeadLogits:
    head = tapped.module
    objective = getattr(head, 'loss_cls', None)
    softmax = getattr(objective, 'use_sigmoid', None) is False
    if tapped.tap.index != 0 or not softmax or getattr(head, 'custom_cls_channels', False):
        raise ValueError(
            f'{loss} needs the class scores of a box head, a softmax with the background as its '
            f'last class: index=0 of a head with CrossEntropyLoss(use_sigmoid=False); but got '
            f'{tapped} of {type(head).__name__} with {type(objective).__name__}. Distil features '
            f"(tap='neck') where the head has another loss"
        )
    return HeadLogits(head.num_classes + 1, sigmoid=False, activated=False, grid=())


def check_no_queries(model: nn.Module, path: str) -> None:
    """Refuse the heads of detection transformers.

    Raises:
        ValueError: If the head at ``path`` scores queries.
    """
    head = path.partition('.')[0]
    owners = (model, getattr(model, head, None))
    if head.endswith('head') and any(hasattr(o, 'num_queries') for o in owners):
        raise ValueError(
            f'tap {path!r}: the head of {type(model).__name__} scores queries. Queries have no '
            f"order: the student's and the teacher's look for different objects and do not "
            f'correspond, so their outputs can not be compared one by one. Distil features '
            f"instead: tap='neck' with FMKTLoss or PKDLoss"
        )


def read_bins(tapped: Tapped, scores: HeadLogits, loss: str) -> int:
    """Bins of the distributions that a GFL-type head predicts for each side of a box.

    Raises:
        ValueError: If the head has none.
    """
    bins = getattr(tapped.module, 'reg_max', -1) + 1
    expected = tuple((4 * bins * anchors, stride) for anchors, stride in scores.grid)
    if not bins or expected != tuple((level.channels, level.stride) for level in tapped.levels):
        raise ValueError(
            f'{loss} compares the box distributions of GFL-type heads, maps of 4 (reg_max + 1) '
            f'channels for each anchor: boxes must be such an output and scores the class scores, '
            f"as in tap=dict(scores='bbox_head', boxes='bbox_head'), index=dict(scores=0, boxes=1);"
            f' but got {tapped} of {type(tapped.module).__name__}'
        )
    return bins


def check_same_rows(
    student: HeadLogits,
    teacher: HeadLogits,
    class_map: Optional[list[int]],
    anchors: str,
    loss: str,
) -> None:
    """Refuse two heads whose rows do not correspond.

    Args:
        student: Of the student.
        teacher: Of the teacher.
        class_map: See `LogitLoss`.
        anchors: See `LogitLoss`.
        loss: Name of the loss.

    Raises:
        ValueError: If kinds, classes, strides or, unless they are reduced, number or boxes of the
            anchors differ.
    """
    if bool(student.grid) != bool(teacher.grid):
        raise ValueError(
            f'{loss} can not compare scores of RoIs with scores of locations: no row of one '
            f'belongs to a row of the other. The student has {student}, the teacher {teacher}. '
            f"Distil features instead: tap='neck' with FMKTLoss or PKDLoss"
        )
    if student.sigmoid != teacher.sigmoid:
        raise ValueError(
            f'{loss} can not compare a softmax that has a background class with sigmoids, which '
            f'have none: the student has {student}, the teacher {teacher}. Take a teacher with the '
            f"student's kind of loss, or distil features (FMKTLoss, PKDLoss)"
        )
    if anchors == 'max' and not student.sigmoid:
        raise ValueError(
            f"{loss}: anchors='max' takes the best anchor for each class, which sigmoids of dense "
            f'heads have; the student has {student}. Leave it out'
        )
    equal = student.grid == teacher.grid
    if not equal and not (anchors == 'max' and student.strides == teacher.strides):
        raise ValueError(
            f'{loss} compares logits location by location, so the levels, anchors and classes of '
            f'both heads must be equal, but the student has {student}, the teacher {teacher}. '
            f'{_remedies(student, teacher, anchors)}istil features instead (FMKTLoss, PKDLoss)'
        )
    if anchors != 'max':
        _check_same_boxes(student, teacher, loss)
    background = 0 if student.sigmoid else 1
    check_classes(student.channels - background, teacher.channels - background, class_map, loss)


def _check_same_boxes(student: HeadLogits, teacher: HeadLogits, loss: str) -> None:
    """Refuse anchors of other boxes, or in another order, where a location has several.

    A single one says no more than where it is, whatever box its head assigns objects by.
    """
    for (count, stride), ours, theirs in zip(student.grid, student.boxes, teacher.boxes):
        for i, (one, other) in enumerate(zip(ours, theirs) if count > 1 else ()):
            if any(abs(a - b) > 1e-3 for a, b in zip(one, other)):
                sizes = [f'{x2 - x1:.2f} x {y2 - y1:.2f}' for x1, y1, x2, y2 in (one, other)]
                best = "anchors='max' compares the best anchor of each location. Or d"
                raise ValueError(
                    f'{loss} compares the anchors of a location one by one, but those of both '
                    f'heads are not the same: at stride {stride:g} anchor {i} spans {sizes[0]} '
                    f'strides in the student, {sizes[1]} in the teacher (scales and ratios of the '
                    f'anchor_generator). {best if student.sigmoid else "D"}istil features instead '
                    f'(FMKTLoss, PKDLoss)'
                )


def _remedies(student: HeadLogits, teacher: HeadLogits, anchors: str) -> str:
    """What makes other grids comparable, up to the D of "Distil"."""
    common = [i for i, stride in enumerate(student.strides) if stride in teacher.strides]
    ours = [student.grid[i] for i in common]
    result = ''
    if common and student.strides != teacher.strides:
        result = f'levels={common} takes the levels that both have. '
    if anchors != 'max' and student.sigmoid and not set(ours) <= set(teacher.grid):
        result += "anchors='max' compares the best anchor of each location. "
    return f'{result}Or d' if result else 'D'


def check_classes(student: int, teacher: int, class_map: Optional[list[int]], loss: str) -> None:
    """Refuse other numbers of classes, unless ``class_map`` says which correspond.

    Raises:
        ValueError: If they differ, or the map does not fit them.
    """
    if class_map is None:
        if student != teacher:
            raise ValueError(
                f'{loss}: the student has {student} classes, the teacher {teacher}. Say which '
                f"correspond with class_map=[...]: for each of the student's classes the index of "
                f"the teacher's, or -1 where it has none; or distil features"
            )
        return
    if isinstance(class_map, NamedMap):
        for owner, classes in (('student', student), ('teacher', teacher)):
            names = getattr(class_map, owner)
            if len(names) != classes:
                raise ValueError(
                    f'{loss}: class_map.{owner} names {len(names)} classes, but the {owner} has '
                    f'{classes}; name all of them, in the order of its logits'
                )
    if len(class_map) != student or not all(-1 <= i < teacher for i in class_map):
        raise ValueError(
            f"{loss}: class_map has an index for each of the student's {student} classes, from 0 "
            f"to {teacher - 1} (the teacher's classes) or -1 for none, but got {class_map}"
        )
    if max(class_map) < 0:
        raise ValueError(f'{loss}: class_map maps no class: there is nothing to compare')


class ClassMap:
    """Selects the classes that student and teacher share, from rows of logits.

    Args:
        class_map: For each class of the student the teacher's, or -1; None keeps all.
        background: Whether the last column is the background, which both have.
    """

    def __init__(self, class_map: Optional[list[int]], background: bool) -> None:
        self.student: Union[slice, list[int]] = slice(None)
        self.teacher: Union[slice, list[int]] = slice(None)
        if class_map is not None:
            last = [-1] if background else []
            self.student = [i for i, j in enumerate(class_map) if j >= 0] + last
            self.teacher = [j for j in class_map if j >= 0] + last
        self.class_map = class_map

    def targets(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Classes as columns of what is selected, and where a class is not among them.

        Args:
            target: Classes of the student, int64, shape (N,).

        Raises:
            ValueError: If a class is none of the student's.
        """
        if self.class_map is None:
            return target, torch.zeros_like(target, dtype=torch.bool)
        last = len(self.class_map) - 1
        if len(target) and not 0 <= target.min() <= target.max() <= last:
            raise ValueError(
                f'labels must be from 0 to {last}, the classes of class_map, but got '
                f'{target.min().item()} to {target.max().item()}; check num_classes and the labels'
            )
        mapped = torch.tensor(self.class_map, device=target.device) >= 0
        columns = mapped.cumsum(dim=0) - 1
        return columns[target].clamp(min=0), ~mapped[target]
