"""Logit losses: compare the class logits of two classifiers or dense heads, row by row."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd_fm.functional import get_form
from mmkd_fm.functional.forms import precise
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.classes import ClassNames, describe_class_map, resolve_class_map
from mmkd_fm.models.head_logits import (
    ClassMap,
    check_classes,
    check_single_label,
    is_classifier,
)
from mmkd_fm.models.losses.dense import ANCHORS, NORMALISERS, WEIGHTINGS, DenseRows

Output = Union[Tensor, Sequence[Tensor], dict[str, Sequence[Tensor]]]
Samples = Optional[Sequence[BaseDataElement]]
Ignore = Union[Tensor, Sequence[Tensor], None]


DENSE_OPTIONS = (
    *('form', 'weighting', 'threshold', 'normaliser', 'ignore_padding', 'anchors', 'levels'),
)
"""Options that say how the locations of dense heads are chosen, read and weighed."""


class LogitLoss(nn.Module, ABC):
    """Base of the logit losses.

    Softmax logits (N, C) of classifiers are compared sample by sample; without `connect` such a
    loss is a plain metric of two tensors. Of dense heads whose locations correspond, each location
    and anchor is a sample, weighted by what `weighting` says, and the sum is divided by what
    `normaliser` says: by default the loss doesn't grow with the number of locations, and the
    background, by far the most of them, does not outweigh the objects.

    GFL-type heads predict a softmax over bins for each side of a box. It is compared with
    ``tap=dict(scores='bbox_head', boxes='bbox_head'), index=dict(scores=0, boxes=1)``, where the
    scores only weigh the locations.

    The class scores of two-stage detectors are those of the RoIs that the student sampled, which
    the teacher scores too; each RoI is a sample: ``tap='roi_head.bbox_head', index=0``, and of a
    cascade ``'roi_head.bbox_head.0'`` and so on, each a term.

    Args:
        loss_weight: Weight of the term.
        form: How sigmoid logits of dense heads are read: 'bernoulli', one two-class distribution
            for each class, or 'background_softmax', one distribution over the classes and the
            background. None takes the default of the loss. Softmax logits, of classifiers and of
            heads with a background class, are always read as they are.
        weighting: Weight of each location: 'confidence', the teacher's probability that there is
            an object; 'foreground', 1 where that is at least `threshold`, else 0; 'none', 1.
        threshold: Of 'foreground', in [0, 1].
        normaliser: What the weighted sum over the locations is divided by: 'weight', the sum of
            the weights, at least 1; 'rows', the number of locations and anchors; 'images'.
        ignore_padding: Leave out locations outside an image that was padded to the batch's size.
        class_map: For each class of the student the index of the teacher's, or -1 where the
            teacher has none; or the names of both, ``dict(student=[...], teacher=[...])``, see
            `resolve_class_map`. Classes without a partner are left out, and a softmax is taken
            over the others. None: both have the same classes.
        anchors: Which anchors of dense heads correspond: 'same', each with the teacher's of the
            same place in the order, so that both have equally many and, where a location has
            several, the same boxes; 'max', the best for each class at a location, of sigmoid
            logits, so that heads with and without anchors can be compared; a location is one
            sample then.
        levels: Indices of the student's levels to compare, each with the teacher's of the same
            stride; None: both heads have the same levels.
        diagnostics: Whether to log monitors: `divergence` from student to teacher, the teacher's
            entropy, the student's Renyi entropy of order 1 / temperature (all in nats).

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    forms = ('bernoulli', 'background_softmax')
    """Of sigmoid logits; the first is the default."""
    rowwise = True
    """Whether the loss is a sum over rows."""

    def __init__(
        self,
        loss_weight: float = 1.0,
        form: Optional[str] = None,
        weighting: str = 'confidence',
        threshold: float = 0.1,
        normaliser: str = 'weight',
        ignore_padding: bool = True,
        class_map: Union[Sequence[int], dict[str, ClassNames], None] = None,
        anchors: str = 'same',
        levels: Optional[Sequence[int]] = None,
        diagnostics: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _check_choice('form', form or self.forms[0], self.forms, name)
        _check_choice('weighting', weighting, WEIGHTINGS, name)
        _check_choice('normaliser', normaliser, NORMALISERS, name)
        _check_choice('anchors', anchors, ANCHORS, name)
        if not 0 <= threshold <= 1:
            raise ValueError(f'{name}: threshold must be in [0, 1], but got {threshold}')
        self.loss_weight = loss_weight
        self.form = form or self.forms[0]
        self.weighting = weighting
        self.threshold = threshold
        self.normaliser = normaliser
        self.ignore_padding = ignore_padding
        self.class_map = resolve_class_map(class_map)
        self.anchors = anchors
        self.levels = levels
        self.diagnostics = diagnostics
        self.connected = False
        self.dense: Optional[DenseRows] = None  # how two dense heads correspond, set by `connect`
        self.keep_values = False  # set by LogitHistogramHook
        self.values: dict[str, Tensor] = {}

    @abstractmethod
    def metric(
        self,
        student: Tensor,
        teacher: Tensor,
        form: str = 'softmax',
        weight: Optional[Tensor] = None,
        reduction: str = 'mean',
        target: Optional[Tensor] = None,
    ) -> Tensor:
        """Divergence of logits, shapes (N, C), in float32 at least."""

    @property
    @abstractmethod
    def powers(self) -> tuple[float, float]:
        """1 / temperature of the student and of the teacher in the divergence."""

    def connect(
        self, student: Union[Tapped, dict[str, Tapped]], teacher: Union[Tapped, dict[str, Tapped]]
    ) -> None:
        """Check that the rows of both correspond, and find out what their logits are.

        Raises:
            ValueError: If they don't correspond, are those of a classifier of several labels, or
                of classifiers with options of dense heads.
        """
        self.connected = True
        name = type(self).__name__
        if self.class_map is not None:
            print_log(f'{name}: {describe_class_map(self.class_map)}', 'current')
        tapped = (student, teacher)
        if any(isinstance(t, dict) for t in tapped) or not all(map(is_classifier, tapped)):
            self.dense = DenseRows(student, teacher, self)
            return
        for one in tapped:
            check_single_label(one, name)
        self._refuse_dense_options()
        classes = [getattr(t.module, 'num_classes', None) for t in tapped]
        if all(isinstance(c, int) for c in classes):
            check_classes(*classes, self.class_map, name)

    def _refuse_dense_options(self) -> None:
        """Classifiers have no locations to choose or weigh."""
        defaults = {
            name: parameter.default
            for kind in reversed(type(self).__mro__)
            for name, parameter in inspect.signature(kind.__init__).parameters.items()
        }
        defaults['form'] = self.forms[0]
        changed = [key for key in DENSE_OPTIONS if getattr(self, key) != defaults[key]]
        if changed:
            raise ValueError(
                f'{type(self).__name__}: {", ".join(changed)} would be ignored, since the logits '
                f'of classifiers are compared image by image; they are for dense heads'
            )

    def forward(
        self,
        student: Output,
        teacher: Output,
        data_samples: Samples = None,
        ignore: Ignore = None,
    ) -> Union[Tensor, dict[str, Tensor]]:
        """Weighted divergence of the batch.

        Args:
            student: Softmax logits, shape (N, C), of images or RoIs; or of a dense head the maps of
                each level, shape (N, A * C, H, W), or `scores` and `boxes`, each like that.
            teacher: Likewise.
            data_samples: The batch's samples, whose `img_shape` tells the padding.
            ignore: What to leave out: bool, shape (N,), or for each level (N, H, W).

        Returns:
            As a plain metric the loss, a scalar; else `loss` and the monitors.

        Raises:
            TypeError: If logits are expected but something else came.
            ValueError: If the shapes differ.
        """
        return self._compare(student, teacher, data_samples, ignore)

    def _compare(
        self,
        student: Output,
        teacher: Output,
        data_samples: Samples,
        ignore: Ignore,
        target: Optional[Tensor] = None,
    ) -> Union[Tensor, dict[str, Tensor]]:
        """The weighted metric and the monitors, outside autocast."""
        if self.dense is not None:
            return self.dense.compare(self, student, teacher, data_samples, ignore)
        if not isinstance(student, Tensor) or not isinstance(teacher, Tensor):
            raise TypeError(
                f'{type(self).__name__} compares logits of shape (N, C), but got a '
                f'{type(student).__name__} of the student and a {type(teacher).__name__} of the '
                f"teacher; tap what gives logits, as in tap='head' of a classifier or "
                f"tap='bbox_head', index=0 of a dense head"
            )
        if self.class_map is not None:
            check_classes(student.shape[1], teacher.shape[1], self.class_map, type(self).__name__)
            chosen = ClassMap(self.class_map, background=False)
            if target is not None:
                target, unmapped = chosen.targets(target)
                ignore = unmapped if ignore is None else ignore | unmapped
            student, teacher = student[:, chosen.student], teacher[:, chosen.teacher]
        weight = None if ignore is None else (~ignore).float()
        with torch.autocast(student.device.type, enabled=False):
            loss = self.metric(student, teacher, 'softmax', weight, 'mean', target)
            loss = self.loss_weight * loss
            if not self.connected:
                return loss
            return dict(loss=loss, **self.monitors(student, teacher, 'softmax', weight))

    @torch.no_grad()
    def monitors(
        self, student: Tensor, teacher: Tensor, form: str, weight: Optional[Tensor]
    ) -> dict[str, Tensor]:
        """Weighted means of what `diagnose` gives of rows (N, C)."""
        if not self.diagnostics and not self.keep_values:
            return {}
        values = self.diagnose(precise(student), precise(teacher), form)
        values = {k: v if v.ndim == 1 else v.mean(dim=-1) for k, v in values.items()}
        self.values = values if self.keep_values else {}
        if not self.diagnostics:
            return {}
        if weight is None:
            return {k: v.sum() / max(len(v), 1) for k, v in values.items()}
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        ignored = weight == 0  # may be NaN
        return {k: (weight * v).masked_fill(ignored, 0).sum() / total for k, v in values.items()}

    def diagnose(self, student: Tensor, teacher: Tensor, form: str) -> dict[str, Tensor]:
        """Diagnostics of each distribution of rows (N, C), in nats."""
        read, (of_student, of_teacher) = get_form(form), self.powers
        return dict(
            divergence=read.kl(of_student * student, of_teacher * teacher),
            teacher_entropy=read.entropy(teacher),
            renyi_entropy=read.renyi_entropy(student, of_teacher),
        )


def _check_choice(option: str, value: Any, valid: Sequence[str], loss: str) -> None:
    if value in valid:
        return
    choices = f'valid {option.rstrip("s")}s: {", ".join(sorted(valid))}'
    if option == 'form' and value == 'bernoulli':
        raise ValueError(
            f"{loss} compares the classes with one another, so form='bernoulli', which has a "
            f'distribution for each, is refused; {choices}'
        )
    raise ValueError(f'{loss}: unknown {option} {value!r}; {choices}')
