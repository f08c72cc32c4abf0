"""FM-KT on class logits: the flow of a classifier's last feature (arXiv 2402.02012)."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Optional, Union

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.functional import Transport, decouple_pairs
from mmkd_fm.functional.forms import precise
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.flow import check_kept, flow_in_training
from mmkd_fm.models.flow_cls_head import FLOW, FlowClsHead, as_map
from mmkd_fm.models.head_logits import check_single_label
from mmkd_fm.models.losses.metric import build_metric
from mmkd_fm.registry import MODELS

Samples = Optional[Sequence[BaseDataElement]]


@MODELS.register_module()
class FMKTLogitLoss(nn.Module):
    """Draws a flow from a classifier's last feature to the teacher's logits.

    At each step i the estimate of the teacher is classified, ``e_i = classifier(X^S - v_i)``, and
    the loss is the mean over the steps of ``metric(e_i, teacher) + label_weight CE(e_i, y)``.

    With ``flow=dict(...)`` flow and classifier (global average pooling and a linear layer) belong
    to this loss and exist in training only: the exported student is the plain student. The Theta
    term draws the student's own logits to the detached result of the flow,
    ``metric(student, stopgrad(mean of e_i))``; the authors add a cross-entropy with the labels
    there, which the student's head already has as its own loss.

    With ``flow='head'`` the flow and the classifier are those of the student's `FlowClsHead`, which
    run at inference too. The head's own cross-entropy is then one more than in the authors' loss;
    ``task_loss_weight=0`` of the Distiller takes it out. The student's logits are then the mean of
    the e_i already, so that there is a Theta term only with 0 among the numbers of steps: where 0
    are drawn it draws the plain head's logits to the flow's.

    Labels are hard (`gt_label`) or soft (`gt_score`, as mixup makes them).

    Args:
        flow: Arguments of `Flow` (meta_encoder, time_embedding, schedule, num_steps, seed,
            warmup_epochs, checkpoint), here `ConvMetaEncoder`, `MLPTimeEmbedding` and 8 steps
            unless given; or 'head'.
        metric: Config of the metric: any registered loss of (student, teacher) logits.
        label_weight: Weight of the cross-entropy with the labels in each step; with 0 no labels
            are needed.
        theta_weight: Weight of the Theta term, 0 switches it off. None is 1.
        pair_ratio: Share of the batch that is compared with its own teacher; the other teachers
            are permuted among themselves (pair decoupling), labels are not. 1 permutes none.
        loss_weight: Weight of the flow loss; the Distiller leaves the whole term out where it is 0.

    Raises:
        ValueError: If a name is unknown or a number out of range.

    Example:
        >>> fmkt=dict(
        ...     type='mmkd_fm.FMKTLogitLoss',
        ...     tap=dict(features='backbone', logits='head'), teacher_tap='head')
        >>> fmkt=dict(
        ...     type='mmkd_fm.FMKTLogitLoss', flow='head',
        ...     tap=dict(transport='head.flow', logits='head'), teacher_tap='head')
    """

    def __init__(
        self,
        flow: Union[dict, str, None] = None,
        metric: dict = dict(type='mmkd_fm.DISTLoss'),  # noqa: B006 (read only)
        label_weight: float = 1.0,
        theta_weight: Optional[float] = None,
        pair_ratio: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if flow != 'head' and not isinstance(flow, (dict, type(None))):
            raise ValueError(f"flow is a dict with the arguments of Flow, or 'head'; got {flow!r}")
        decouple_pairs(1, pair_ratio, 0, 0)  # checks the ratio
        self.flow_cfg = flow or {}
        self.metric = build_metric(metric)
        self.label_weight = label_weight
        self.theta_weight = 1.0 if theta_weight is None else theta_weight
        self.pair_ratio = pair_ratio
        self.loss_weight = loss_weight

    def connect(self, student: dict[str, Tapped], teacher: Tapped) -> None:
        """Make the flow and the classifier of its estimates, or find those of a FlowClsHead.

        Raises:
            ValueError: If the taps are not as in the example of the class, the classes of student
                and teacher differ, one is a classifier of several labels, or 0 is among the numbers
                of steps of a flow of its own.
        """
        if isinstance(teacher, dict):
            raise ValueError("of the teacher the logits are read alone: add teacher_tap='head'")
        if self.flow_cfg == 'head':
            # it is the student's: kept beside this module, not in it
            object.__setattr__(self, 'head', supervised_head(student, 'FMKTLogitLoss'))
        else:
            check_taps(student, dict(features='backbone', logits='head'), 'FMKTLogitLoss')
        for tapped in (student['logits'], teacher):
            check_single_label(tapped, 'FMKTLogitLoss')
        classes, of_teacher = _classes(student['logits']), _classes(teacher)
        if classes != of_teacher:
            raise ValueError(
                f'the student has {classes} classes, the teacher {of_teacher}: their logits can '
                f'not be compared. Take a teacher of the same classes, or distil features'
            )
        if self.flow_cfg != 'head':
            channels = _channels(student)
            config = dict(FLOW, **self.flow_cfg)
            self.flow = flow_in_training(config, channels, 'FlowClsHead', 'head')
            self.classifier = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
            )

    def forward(
        self,
        student: dict[str, Union[Tensor, Sequence[Tensor], Transport]],
        teacher: Tensor,
        data_samples: Samples = None,
    ) -> dict[str, Tensor]:
        """Flow loss and Theta term.

        Args:
            student: `logits`, shape (N, classes), and with a flow of its own `features`, the last
                of which is a map (N, C, H, W) or a vector (N, C); otherwise `transport`, with its
                steps kept.
            teacher: Logits, shape (N, classes).
            data_samples: The batch's samples, with `gt_label` or `gt_score`.

        Returns:
            `loss`, `loss_theta` (if there is one), and the monitor `steps`.

        Raises:
            ValueError: If labels are needed but absent.
            RuntimeError: If the FlowClsHead kept no steps, as in eval mode.
        """
        own = self.flow_cfg != 'head'
        flow = self.flow if own else self.head.flow
        pairing = slice(None)
        if self.pair_ratio < 1:
            pairing = flow.pair_teachers(len(teacher), self.pair_ratio).to(teacher.device)
        compare = partial(
            self._compare,
            teacher=teacher[pairing],
            labels=(
                read_labels(data_samples, student['logits'].shape[1]) if self.label_weight else None
            ),
            data_samples=data_samples,
        )
        if own:
            transported = flow(
                as_map(student['features']),
                step_loss=lambda estimate, v, t: compare(self.classifier(estimate)),
            )
            loss = transported.loss
            with torch.no_grad():  # the mean of the logits: the classifier is affine
                mean = self.classifier(transported.endpoint)
        else:
            transported = student['transport']
            check_kept('FlowClsHead', transported.estimates is not None)
            logits = [self.head.classify(estimate) for estimate in transported.estimates]
            loss = sum(map(compare, logits)) / len(logits)
            mean = mean_logits(logits)
        result = {'loss': self.loss_weight * loss}
        if self.theta_weight and (own or 0 in flow.num_steps):
            theta = compare_logits(self.metric, student['logits'], mean, data_samples)
            result['loss_theta'] = self.theta_weight * theta
        result['steps'] = loss.new_tensor(float(len(transported.times)))
        return result

    def _compare(
        self, logits: Tensor, teacher: Tensor, labels: Optional[Tensor], data_samples: Samples
    ) -> Tensor:
        """Loss of one step, a scalar."""
        loss = compare_logits(self.metric, logits, teacher, data_samples)
        if labels is not None:
            loss = loss + self.label_weight * cross_entropy(logits, labels)
        return loss


def compare_logits(
    metric: nn.Module, student: Tensor, teacher: Tensor, data_samples: Samples
) -> Tensor:
    """The metric of two logits; one that asks for them, such as DKDLoss, is given the samples."""
    asks = 'data_samples' in inspect.signature(metric.forward).parameters
    more = dict(data_samples=data_samples) if asks else {}
    return metric(student, teacher, **more)


def check_taps(
    student: Union[Tapped, dict[str, Tapped]], wanted: dict[str, str], loss: str
) -> None:
    """Refuse taps of the student other than ``wanted``.

    Raises:
        ValueError: If they have other names.
    """
    got = sorted(student) if isinstance(student, dict) else [str(student.tap)]
    if got != sorted(wanted) or not isinstance(student, dict):
        taps = ', '.join(f'{name}={path!r}' for name, path in wanted.items())
        raise ValueError(
            f'{loss} reads {len(wanted)} outputs of the student, tap=dict({taps}), but got '
            f'{", ".join(got)}'
        )


def supervised_head(student: dict[str, Tapped], loss: str) -> FlowClsHead:
    """The FlowClsHead that the taps belong to; from now on it keeps its steps.

    Raises:
        ValueError: If the taps are not those of a FlowClsHead.
    """
    check_taps(student, dict(transport='head.flow', logits='head'), loss)
    head, flow = student['logits'].module, student['transport'].module
    if not isinstance(head, FlowClsHead) or flow is not head.flow:
        raise ValueError(
            f'{loss} reads the flow of a FlowClsHead, but logits is {type(head).__name__} and '
            f'transport {type(flow).__name__}; wrap the head in the student: '
            f"head=dict(type='mmkd_fm.FlowClsHead', head=...), and tap "
            f"dict(transport='head.flow', logits='head')"
        )
    head.supervised = True
    return head


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Mean over the steps, detached: shapes (N, classes) to (N, classes)."""
    return torch.stack([one.detach() for one in logits]).mean(dim=0)


def read_labels(data_samples: Samples, classes: int) -> Tensor:
    """Classes, int64 of shape (N,), or soft labels, shape (N, classes).

    Raises:
        ValueError: If a sample has neither, more than one class, or one out of range.
    """
    for sample in data_samples or [BaseDataElement()]:
        if 'gt_score' not in sample and ('gt_label' not in sample or sample.gt_label.numel() != 1):
            raise ValueError(
                f'the cross-entropy of each step needs one gt_label or a gt_score of each sample, '
                f'but got {", ".join(sorted(sample.keys())) or "no labels"}; without labels set '
                f'label_weight=0'
            )
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score for sample in data_samples])
    labels = torch.cat([sample.gt_label for sample in data_samples])
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f'labels must be from 0 to {classes - 1}, the classes of the head, but got '
            f'{labels.min().item()} to {labels.max().item()}; check num_classes and the annotations'
        )
    return labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in float32 at least, mean over the batch.

    Args:
        logits: Shape (N, classes).
        labels: As `read_labels` gives them.
    """
    logits = precise(logits)
    return F.cross_entropy(logits, labels.to(logits.dtype) if labels.ndim == 2 else labels)


def _classes(tapped: Tapped) -> int:
    classes = getattr(tapped.module, 'num_classes', None)
    if not isinstance(classes, int):
        raise ValueError(
            f"{tapped.owner} '{tapped.tap}' is {type(tapped.module).__name__}, which does not say "
            f"its num_classes; tap a classification head, as in logits='head'"
        )
    return classes


def _channels(student: dict[str, Tapped]) -> int:
    """Channels of the last feature; vectors, which are not measured, are what the head takes."""
    if student['features'].levels:
        return student['features'].levels[-1].channels
    channels = getattr(student['logits'].module, 'in_channels', None)
    if not isinstance(channels, int):
        raise ValueError(
            f'the channels of {student["features"]} are not known: it has no feature maps '
            f'(N, C, H, W), and the head does not say its in_channels. Tap a map'
        )
    return channels
