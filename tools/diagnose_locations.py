"""Which rows of a dense head are foreground, and of which class.

A row is a location and anchor. Where the head's loss is given all rows as they are, its labels are
those of the student's own assigner; else a row is foreground if its location's centre lies in a
box, on any level, of the smallest such box's class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diagnose_data import View
from diagnose_models import SCORES, LeftOut, ScoreHead
from mmkd_fm.functional.chunks import Chunk
from mmkd_fm.models.losses.dense import padding
from mmkd_fm.models.taps import Records

BACKGROUND, LEFT_OUT = -1, -2
"""Labels besides those of classes; what is left out is neither foreground nor background."""

LOSS = f'{SCORES.path}.loss_cls'
"""The head's loss, whose arguments tell what the assigner decided."""


def rows_of(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Class scores as rows, level by level, as mmdet's heads order them.

    Args:
        maps: Of each level, shape (N, A * channels, H, W).
        channels: Width of a row.

    Returns:
        Shape (rows, channels).
    """
    whole = slice(None)
    levels = range(len(maps))
    return torch.cat([Chunk(level, whole, whole).rows(maps, channels) for level in levels])


def assigned_labels(records: Records, rows: Tensor, head: ScoreHead) -> Tensor:
    """Labels by the student's assigner.

    Args:
        records: What LOSS was given.
        rows: All rows of the head in the same forward, shape (rows, channels).
        head: Whose they are.

    Returns:
        Classes, BACKGROUND or LEFT_OUT, int64, shape (rows,).

    Raises:
        LeftOut: If the loss was not given these rows.
    """
    calls = [arguments for arguments, _ in records[LOSS]]
    scores = [a[0].reshape(-1, head.logits.channels) for a in calls if len(a) > 1]
    if not scores or not torch.equal(torch.cat(scores), rows):
        raise LeftOut('the loss of the head is not given all rows in their order')
    first = [a[1][0] if isinstance(a[1], (list, tuple)) else a[1] for a in calls]
    labels = torch.cat([x.flatten() for x in first]).long()
    if len(labels) != len(rows):
        raise LeftOut('the loss of the head is given no class for each row')
    classes = head.logits.channels - (0 if head.logits.sigmoid else 1)
    labels = labels.masked_fill((labels < 0) | (labels >= classes), BACKGROUND)
    weights = [a[2].flatten() for a in calls if len(a) > 2 and isinstance(a[2], Tensor)]
    if sum(map(len, weights)) == len(rows):
        labels = labels.masked_fill(torch.cat(weights) == 0, LEFT_OUT)
    return labels


def centre_labels(maps: Sequence[Tensor], head: ScoreHead, view: View) -> Tensor:
    """Labels by where the centres of the locations lie.

    Args:
        maps: Of each level, shape (N, A * channels, H, W).
        head: Whose they are.
        view: The batch.

    Returns:
        As `assigned_labels`; in a crowd and in no box is LEFT_OUT.
    """
    labels = []
    for level, (anchors, stride) in zip(maps, head.logits.grid):
        y, x = ((torch.arange(n, device=level.device) + 0.5) * stride for n in level.shape[2:])
        centres = torch.stack(torch.meshgrid(x, y, indexing='xy'), -1).flatten(0, 1)
        of_images = [_label(centres, sample) for sample in view.samples]
        labels.append(torch.cat(of_images).repeat_interleave(anchors))
    return torch.cat(labels)


def _label(centres: Tensor, sample) -> Tensor:
    """Label of each centre, shapes (M, 2) to (M,)."""
    result = torch.full((len(centres),), BACKGROUND, device=centres.device)
    result[_inside(centres, sample.ignored_instances.bboxes).any(1)] = LEFT_OUT
    boxes, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for n in areas.argsort(descending=True).tolist():  # the smallest last
        result[_inside(centres, boxes[n : n + 1])[:, 0]] = labels[n]
    return result


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points (M, 2) lie in which boxes (G, 4), bool, shape (M, G)."""
    points = points[:, None]
    return ((points >= boxes[:, :2]) & (points <= boxes[:, 2:])).all(-1)


def without_padding(labels: Tensor, maps: Sequence[Tensor], head: ScoreHead, view: View) -> Tensor:
    """The labels, with LEFT_OUT where a location lies outside its image."""
    outside = padding(maps, head.logits.strides, view.samples)
    if outside is None:
        return labels
    of_rows = [
        level.flatten().repeat_interleave(anchors)
        for level, (anchors, _) in zip(outside, head.logits.grid)
    ]
    return labels.masked_fill(torch.cat(of_rows), LEFT_OUT)
