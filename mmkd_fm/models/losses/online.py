"""OFM-KT: the mean of a flow's steps teaches the single steps, without a teacher."""

from functools import partial
from typing import Union

from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.functional import Transport
from mmkd_fm.functional.forms import precise
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.flow import check_kept
from mmkd_fm.models.flow_neck import FlowedPyramid, FlowNeck
from mmkd_fm.models.losses.fmkt import compare_steps
from mmkd_fm.models.losses.fmkt_logit import (
    Samples,
    compare_logits,
    mean_logits,
    read_labels,
    supervised_head,
)
from mmkd_fm.models.losses.metric import build_metric
from mmkd_fm.registry import MODELS


@MODELS.register_module()
class OnlineFMKTLogitLoss(nn.Module):
    """OFM-KT for a classifier with a `FlowClsHead` (arXiv 2402.02012).

    The mean over the steps of ``metric(e_i, stopgrad(mean of e_i)) + label_weight KL(q || e_i)``,
    where e_i are the logits of each step's estimate and q the smoothed labels: up to the constant
    entropy of q the divergence is the cross-entropy with them. The head's own
    loss is then one more than in the authors' form, whose total needs ``task_loss_weight=0`` of
    the OnlineDistiller; with ``label_weight=0`` the head's own loss is the only one with labels.

    Args:
        metric: Config of the metric: any registered loss of (student, teacher) logits.
        label_weight: Weight of the cross-entropy with the labels in each step; with 0 no labels
            are needed.
        label_smoothing: Share of the label that is spread over the other classes, in [0, 1].
        loss_weight: Weight of the term.

    Raises:
        ValueError: If the metric is unknown or the smoothing out of range.

    Example:
        >>> ofmkt=dict(
        ...     type='mmkd_fm.OnlineFMKTLogitLoss',
        ...     tap=dict(transport='head.flow', logits='head'))
    """

    def __init__(
        self,
        metric: dict = dict(type='mmkd_fm.DISTLoss'),  # noqa: B006 (read only)
        label_weight: float = 1.0,
        label_smoothing: float = 0.1,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f'label_smoothing must be in [0, 1], but got {label_smoothing}')
        self.metric = build_metric(metric)
        self.label_weight = label_weight
        self.label_smoothing = label_smoothing
        self.loss_weight = loss_weight

    def connect(self, student: dict[str, Tapped]) -> None:
        """Find the FlowClsHead.

        Raises:
            ValueError: If the taps are not those of a FlowClsHead.
        """
        # it is the student's: kept beside this module, not in it
        object.__setattr__(self, 'head', supervised_head(student, 'OnlineFMKTLogitLoss'))

    def forward(
        self, student: dict[str, Union[Tensor, Transport]], data_samples: Samples = None
    ) -> dict[str, Tensor]:
        """The loss.

        Args:
            student: `transport`, with its steps kept, and `logits`, which are not used.
            data_samples: The batch's samples, with `gt_label` or `gt_score`.

        Returns:
            `loss` and the monitor `steps`.

        Raises:
            ValueError: If labels are needed but absent.
            RuntimeError: If the FlowClsHead kept no steps, as in eval mode.
        """
        check_kept('FlowClsHead', student['transport'].estimates is not None)
        logits = [self.head.classify(estimate) for estimate in student['transport'].estimates]
        mean = mean_logits(logits)
        loss = sum(compare_logits(self.metric, one, mean, data_samples) for one in logits)
        loss = loss / len(logits)
        if self.label_weight:
            labels = read_labels(data_samples, mean.shape[1])
            for one in logits:
                divergence = smoothed_divergence(one, labels, self.label_smoothing)
                loss = loss + self.label_weight / len(logits) * divergence
        return {'loss': self.loss_weight * loss, 'steps': loss.new_tensor(float(len(logits)))}


def smoothed_divergence(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """KL of the prediction from smoothed labels, ``1 - s`` there and ``s / (C - 1)`` elsewhere.

    Args:
        logits: Shape (N, C).
        labels: Classes, int64 of shape (N,), or soft labels, shape (N, C).
        smoothing: Share s of the label that is spread over the other classes, in [0, 1].

    Returns:
        Mean over the batch, a scalar.
    """
    logits = precise(logits)
    classes = logits.shape[1]
    labels = F.one_hot(labels, classes) if labels.ndim == 1 else labels
    labels = labels.to(logits.dtype)
    q = (1 - smoothing) * labels + smoothing / max(classes - 1, 1) * (1 - labels)
    return F.kl_div(F.log_softmax(logits, dim=1), q, reduction='batchmean')


@MODELS.register_module()
class OnlineFMKTLoss(nn.Module):
    """OFM-KT for feature pyramids: a detector with a `FlowNeck`, without a teacher.

    The mean over the steps of ``metric(estimate_i, stopgrad(mean of the estimates))``, summed over
    the levels. The mean is what the heads read: their losses are what the labels say, in the place
    of the cross-entropy of `OnlineFMKTLogitLoss`. A draw of a single step gives 0.

    Args:
        metric: Config of the metric: any registered loss of (student, teacher) maps.
        loss_weight: Weight of each level.

    Raises:
        ValueError: If the metric is unknown.

    Example:
        >>> ofmkt=dict(type='mmkd_fm.OnlineFMKTLoss', tap='neck')
    """

    def __init__(
        self,
        metric: dict = dict(type='mmkd_fm.PKDLoss'),  # noqa: B006 (read only)
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.metric = build_metric(metric)
        self.loss_weight = loss_weight

    def connect(self, student: Tapped) -> None:
        """Find the FlowNeck; from now on it keeps its steps.

        Raises:
            ValueError: If there is none, or it never takes more than one step.
        """
        neck = student.module
        if not isinstance(neck, FlowNeck):
            raise ValueError(
                f'OnlineFMKTLoss reads the flows of a FlowNeck, but {student} is '
                f'{type(neck).__name__}; wrap it in the student: '
                f"neck=dict(type='mmkd_fm.FlowNeck', neck=...)"
            )
        for flow in neck.flows.values():
            if max(flow.num_steps) < 2:
                raise ValueError(
                    f'num_steps={list(flow.num_steps)}: a single step is its own mean, which '
                    f'teaches nothing; let the FlowNeck take 2 or more'
                )
        neck.supervised = True

    def forward(self, student: FlowedPyramid) -> dict[str, Tensor]:
        """The loss.

        Args:
            student: What the FlowNeck gave.

        Returns:
            `loss` and the monitor `steps`.

        Raises:
            RuntimeError: If the FlowNeck kept no steps, as in eval mode.
        """
        check_kept('FlowNeck', isinstance(student, FlowedPyramid))
        losses = []
        for level, transported in student.transports.items():
            compare = partial(self._compare, mean=transported.endpoint.detach())
            losses.append(compare_steps(transported, compare, student.flows[level].checkpoint))
        steps = losses[0].new_tensor(float(len(transported.times)))
        return {'loss': self.loss_weight * sum(losses), 'steps': steps}

    def _compare(self, estimate: Tensor, velocity: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Loss of one step, a scalar."""
        del velocity, t
        return self.metric(estimate, mean)
