"""WTTM on class logits and, adapted to detection, on those of dense heads (arXiv 2402.11148)."""

from collections.abc import Sequence
from typing import Optional, Union

import torch
from torch import Tensor, nn

from mmkd_fm.functional import background_softmax_wttm, bernoulli_wttm, wttm_loss
from mmkd_fm.functional.logit_divergences import precise
from mmkd_fm.models.alignment import Tapped, as_levels
from mmkd_fm.models.losses.logit import check_gamma
from mmkd_fm.registry import MODELS


def _bernoulli(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """One Bernoulli for each class: shapes (M, C) to (M,)."""
    return bernoulli_wttm(student, teacher, gamma).sum(dim=-1)


FORMS = {'bernoulli': _bernoulli, 'background_softmax': background_softmax_wttm}


@MODELS.register_module()
class WTTMLoss(nn.Module):
    """WTTM between class logits, or the scores of two dense heads whose locations correspond.

    Softmax logits (N, C) of a classifier are compared as in the paper, see
    `mmkd_fm.functional.wttm_loss`; without `connect` this is a plain metric.

    Of dense heads each location (and anchor) is a sample: its divergence ``U KL(p_hat || q)`` is
    weighted by the confidence ``w = max_c p_c`` that the teacher sees an object there, and the sum
    is divided by the sum of ``w``. So the loss doesn't grow with the number of locations, and the
    background, by far the most of them, does not outweigh the objects.

    Args:
        gamma: Power in (0, 1]; 1 is plain KD without a temperature.
        form: How the sigmoid logits of dense heads are read: 'bernoulli', one two-class
            distribution for each class, or 'background_softmax', one distribution over the classes
            and the background.
        loss_weight: Weight of the term.

    Raises:
        ValueError: If gamma is outside (0, 1] or the form unknown.

    Example:
        >>> wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0, gamma=0.7)
    """

    def __init__(
        self, gamma: float = 0.7, form: str = 'bernoulli', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_gamma(gamma)
        if form not in FORMS:
            raise ValueError(f'unknown form {form!r}; valid forms: {", ".join(sorted(FORMS))}')
        self.gamma = gamma
        self.form = form
        self.loss_weight = loss_weight
        self.channels: Optional[int] = None  # of each anchor of a dense head, set by `connect`

    def connect(self, student: Tapped, teacher: Tapped) -> None:
        """Check that two dense heads give corresponding sigmoid logits of the same classes.

        Raises:
            ValueError: If they don't.
        """
        if _is_classifier(student) and _is_classifier(teacher):
            return
        self.channels, theirs = _sigmoid_channels(student), _sigmoid_channels(teacher)
        if student.levels != teacher.levels or self.channels != theirs:
            raise ValueError(
                f'WTTM compares logits location by location, so the levels, anchors and classes of '
                f'both heads must be equal, but got {student} with {self.channels} classes and '
                f'{teacher} with {theirs}. Distil features instead (FMKTLoss, PKDLoss)'
            )

    def forward(
        self, student: Union[Tensor, Sequence[Tensor]], teacher: Union[Tensor, Sequence[Tensor]]
    ) -> Union[Tensor, dict[str, Tensor]]:
        """Weighted divergence of the batch.

        Args:
            student: Softmax logits, shape (N, C), or sigmoid logits of each level, shape
                (N, A * C, H, W).
            teacher: Likewise.

        Returns:
            Of softmax logits the loss, a scalar; of dense heads `loss`, and the monitor
            `confidence`, the mean teacher confidence.

        Raises:
            ValueError: If the shapes differ, or levels are given without `connect`.
        """
        if isinstance(student, Tensor) and isinstance(teacher, Tensor) and student.ndim == 2:
            with torch.autocast(student.device.type, enabled=False):
                return self.loss_weight * wttm_loss(student, teacher, self.gamma)
        if self.channels is None:
            raise ValueError(
                'WTTMLoss compares logits of shape (N, C), or those of two dense heads that it was '
                'connected to, but got neither; tap the classification scores, as in '
                "tap='head' of a classifier or tap='bbox_head', index=0 of a dense head"
            )
        q, p = (_rows(logits, self.channels) for logits in (student, teacher))
        with torch.autocast(q.device.type, enabled=False):
            confidence = precise(p).sigmoid().amax(dim=-1)
            divergence = FORMS[self.form](q, p, self.gamma)
            # at least 1, so that a teacher that sees nothing does not divide by nothing
            loss = (confidence * divergence).sum() / confidence.sum().clamp(min=1)
        return {'loss': self.loss_weight * loss, 'confidence': confidence.mean()}


def _is_classifier(tapped: Tapped) -> bool:
    """Whether the output is no feature maps and the module no dense head."""
    return not tapped.levels and not hasattr(tapped.module, 'cls_out_channels')


def _sigmoid_channels(tapped: Tapped) -> int:
    """Number of classes of a head that gives sigmoid logits, read from the head."""
    head = tapped.module
    loss = getattr(head, 'loss_cls', None)
    channels = getattr(head, 'cls_out_channels', None)
    if channels is None or loss is None or not tapped.levels:
        raise ValueError(
            f'WTTMLoss needs the classification scores of a dense head: tap the head and choose '
            f"its scores, as in tap='bbox_head', index=0; but got {tapped}"
        )
    if not getattr(loss, 'use_sigmoid', False):
        raise ValueError(
            f'WTTMLoss on dense heads reads sigmoid logits, but the head of the {tapped.owner} '
            f'({type(head).__name__} with {type(loss).__name__}) is trained with a softmax'
        )
    return channels


def _rows(logits: Sequence[Tensor], channels: int) -> Tensor:
    """All locations and anchors of all levels as rows, shape (M, C)."""
    rows: list[Tensor] = [
        level.permute(0, 2, 3, 1).reshape(-1, channels) for level in as_levels(logits)
    ]
    return torch.cat(rows)
