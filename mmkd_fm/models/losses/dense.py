"""The rows of two heads: which correspond, how much each counts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional, Union

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmkd_fm.functional.chunks import Chunk, chunked_sum, chunks
from mmkd_fm.functional.forms import precise
from mmkd_fm.models.alignment import Tapped, as_levels, pair_levels
from mmkd_fm.models.head_logits import (
    ClassMap,
    HeadLogits,
    check_same_rows,
    read_bins,
    read_head,
    warn_of_objectness,
)

if TYPE_CHECKING:
    from mmkd_fm.models.losses.logit import LogitLoss

MONITORED_ROWS = 4096
"""Rows, evenly drawn, that the monitors are computed from."""

PIECE = 2**20
"""Elements of the larger of both maps in a piece, about."""

ANCHORS = ('same', 'max')
WEIGHTINGS = ('confidence', 'foreground', 'none')
NORMALISERS = ('weight', 'rows', 'images')

Output = Union[Tensor, Sequence[Tensor], dict[str, Sequence[Tensor]]]


class DenseRows:
    """Which rows of two dense heads, or of two box heads on RoIs, correspond and how they are read.

    Scores of RoIs are maps of a single location, one for each RoI.

    Args:
        student: Class scores, or a dict of `scores` and `boxes`.
        teacher: Likewise.
        loss: What is to compare them.

    Raises:
        ValueError: If the rows don't correspond.
    """

    def __init__(
        self,
        student: Union[Tapped, dict[str, Tapped]],
        teacher: Union[Tapped, dict[str, Tapped]],
        loss: 'LogitLoss',
    ) -> None:
        name = type(loss).__name__
        self.boxes = isinstance(student, dict)
        for tapped in (student, teacher):
            _check_parts(tapped, self.boxes, name)
        scores = [t['scores'] if isinstance(t, dict) else t for t in (student, teacher)]
        heads = [read_head(tapped, name) for tapped in scores]
        self.student, self.teacher = heads
        self.pairs: Optional[list[tuple[int, int]]] = None
        if loss.levels is not None:
            self.pairs = pair_levels(*scores, loss.levels)
            self.student = self.student.at([i for i, _ in self.pairs])
            self.teacher = self.teacher.at([j for _, j in self.pairs])
        check_same_rows(self.student, self.teacher, loss.class_map, loss.anchors, name)
        warn_of_objectness(*scores)
        self.of_rois = not self.student.grid
        self.best_anchor = loss.anchors == 'max'
        ratios = [t / s for (s, _), (t, _) in zip(self.student.grid, self.teacher.grid)]
        self.piece = int(PIECE / max([1, *ratios]))
        self.classes = ClassMap(loss.class_map, background=not self.student.sigmoid)
        self.form = loss.form if self.student.sigmoid else 'softmax'
        self.channels = self.student.channels
        if isinstance(student, dict) and isinstance(teacher, dict):
            if self.best_anchor:
                raise ValueError(
                    f'{name} compares the box distributions of all anchors; leave anchors= out'
                )
            bins = [read_bins(t['boxes'], head, name) for t, head in zip((student, teacher), heads)]
            if bins[0] != bins[1]:
                raise ValueError(
                    f'{name}: the box distributions of the student have {bins[0]} bins, those of '
                    f'the teacher {bins[1]}; take heads of the same reg_max'
                )
            self.form, self.channels = 'softmax', bins[0]

    def compare(
        self,
        loss: 'LogitLoss',
        student: Output,
        teacher: Output,
        data_samples: Optional[Sequence[BaseDataElement]],
        ignore: Optional[Sequence[Tensor]],
    ) -> dict[str, Tensor]:
        """The weighted loss, its monitors, and `confidence`, the mean of the teacher's."""
        part = 'boxes' if self.boxes else 'scores'
        ours, theirs = self._maps(student, 0, part), self._maps(teacher, 1, part)
        scores = self._maps(teacher, 1, 'scores')
        same_channels = self.boxes or (loss.class_map is None and not self.best_anchor)
        _check_maps(ours, theirs, same_channels)
        if ignore is not None and self.of_rois:
            ignore = [ignore[:, None, None]]  # as the scores are looked at, a map of one pixel each
        ignored = None if ignore is None else self._choose(ignore, 0)
        if ignored is None and loss.ignore_padding and data_samples and not self.of_rois:
            ignored = padding(ours, self.student.strides, data_samples)
        images = len(data_samples) if self.of_rois and data_samples else len(ours[0])
        walk = _Walk(self, loss, ours[0].dtype, scores, theirs, ignored)
        with torch.autocast(ours[0].device.type, enabled=False):
            if loss.rowwise:
                total, sums = chunked_sum(walk.sum, ours, self.channels, self.piece)
                value = total / _normaliser(loss.normaliser, sums, images)
            else:
                value, sums = walk.gather(ours)
            result = dict(loss=loss.loss_weight * value)
            if sums.ndim:  # else there are no locations
                result['confidence'] = sums[1] / sums[2].clamp(min=1)
            return {**result, **walk.monitors()}

    def best(self, rows: Tensor, head: HeadLogits, level: int) -> Tensor:
        """Where anchors are reduced, the best score for each class at a location.

        Args:
            rows: Shape (locations * anchors, C).
            head: Whose they are.
            level: Index of the level.

        Returns:
            Shape (locations, C).
        """
        if not self.best_anchor:
            return rows
        return rows.unflatten(0, (-1, head.grid[level][0])).amax(dim=1)

    def num_rows(self, maps: Sequence[Tensor]) -> int:
        """How many rows the maps of the teacher have."""
        if self.best_anchor:
            return sum(x.numel() // max(x.shape[1], 1) for x in maps)
        return sum(x.numel() for x in maps) // self.channels

    def _maps(self, output: Output, side: int, part: str) -> list[Tensor]:
        """The maps that are compared: of the student (side 0) or the teacher (side 1)."""
        output = output[part] if isinstance(output, dict) else output
        if self.of_rois:
            return [output[:, :, None, None]]
        return self._choose(as_levels(output), side)

    def _choose(self, levels: Sequence[Tensor], side: int) -> list[Tensor]:
        if self.pairs is None:
            return list(levels)
        return [levels[pair[side]] for pair in self.pairs]


class _Walk:
    """One walk over the rows of a batch.

    Args:
        rows: What corresponds.
        loss: What compares.
        dtype: In which the student's head gives its scores.
        scores: The teacher's class scores, one map for each level.
        teacher: What is compared of the teacher: the scores or the boxes.
        ignored: Of each level what is left out, bool, (N, H, W).
    """

    def __init__(
        self,
        rows: DenseRows,
        loss: 'LogitLoss',
        dtype: torch.dtype,
        scores: list[Tensor],
        teacher: list[Tensor],
        ignored: Optional[list[Tensor]],
    ) -> None:
        self.rows = rows
        self.loss = loss
        self.dtype = dtype
        self.scores = scores
        self.teacher = teacher
        self.ignored = ignored
        self.stride = max(1, rows.num_rows(teacher) // MONITORED_ROWS)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def sum(self, chunk: Chunk, student: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss of a piece; summed weights, confidences and number of its rows."""
        student, teacher, weight, sums = self._read(chunk, student)
        return self.loss.metric(student, teacher, self.rows.form, weight, 'sum'), sums

    def gather(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of all rows that count, at once, for what is no sum over rows."""
        pieces, sums = [], maps[0].new_zeros(3, dtype=torch.float32)
        for chunk in chunks(maps, self.rows.piece):
            *read, more = self._read(chunk, chunk.rows(maps, self.rows.channels))
            counts = read[-1] != 0  # NaN counts, and is found in the loss
            pieces.append([x[counts] for x in read])
            sums = sums + more
        if not pieces:
            return torch.stack([x.sum() for x in maps]).sum(), sums
        student, teacher, weight = (torch.cat(column) for column in zip(*pieces))
        return self.loss.metric(student, teacher, self.rows.form, weight), sums

    def _read(self, chunk: Chunk, student: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of both, weights, and the sums of a piece."""
        rows, loss = self.rows, self.loss
        scores = chunk.rows(self.scores, rows.teacher.channels)[:, rows.classes.teacher]
        scores = rows.best(scores, rows.teacher, chunk.level)
        confidence = rows.teacher.confidence(scores)
        weight = _weigh(confidence, loss.weighting, loss.threshold)
        count = weight.new_full((), float(len(weight)))  # a copy to the GPU would wait for it
        if self.ignored is not None:
            ignored = self.ignored[chunk.level][chunk.images, chunk.lines].flatten()
            ignored = ignored.repeat_interleave(len(weight) // max(len(ignored), 1))
            count = (~ignored).sum()
            confidence = confidence.masked_fill(ignored, 0)
            weight = weight.masked_fill(ignored, 0)
        sums = torch.stack([weight.sum(), confidence.sum(), count])
        if rows.boxes:
            student, teacher = precise(student), precise(chunk.rows(self.teacher, rows.channels))
            weight = weight.repeat_interleave(4)
        else:
            teacher = rows.teacher.logits(scores)
            student = rows.student.logits(student, self.dtype)[:, rows.classes.student]
            student = rows.best(student, rows.student, chunk.level)
        if loss.diagnostics or loss.keep_values:
            # copies: views would keep the whole piece
            of_rows = (student.detach(), teacher, weight)
            self.seen.append(tuple(x[:: self.stride].clone() for x in of_rows))
        return student, teacher, weight, sums

    def monitors(self) -> dict[str, Tensor]:
        """Monitors of some of the rows that were seen."""
        if not self.seen:
            return {}
        student, teacher, weight = (torch.cat(column) for column in zip(*self.seen))
        return self.loss.monitors(student, teacher, self.rows.form, weight)


def _normaliser(name: str, sums: Tensor, images: int) -> Union[Tensor, int]:
    if name == 'images' or not sums.ndim:
        return max(images, 1)
    # at least 1, so that a teacher that sees nothing does not divide by nothing
    return sums[0 if name == 'weight' else 2].clamp(min=1)


def _weigh(confidence: Tensor, weighting: str, threshold: float) -> Tensor:
    """Weight of each row, shape (M,)."""
    if weighting == 'none':
        return torch.ones_like(confidence)
    if weighting == 'confidence':
        return confidence
    return (~(confidence < threshold)).to(confidence.dtype)  # NaN counts


def padding(
    maps: Sequence[Tensor], strides: Sequence[int], data_samples: Sequence[BaseDataElement]
) -> Optional[list[Tensor]]:
    """Which locations lie outside their image.

    Args:
        maps: Of each level, (N, C, H, W).
        strides: Pixels of the input per location.
        data_samples: The samples, with `img_shape` and `batch_input_shape`, (height, width).

    Returns:
        Bool, (N, H, W) for each level; None if no image is padded.
    """
    images = [sample.metainfo for sample in data_samples]
    if not all('img_shape' in m and 'batch_input_shape' in m for m in images):
        return None
    if all(tuple(m['img_shape'][:2]) == tuple(m['batch_input_shape'][:2]) for m in images):
        return None
    height, width = (torch.tensor([m['img_shape'][i] for m in images]) for i in (0, 1))
    result = []
    for level, stride in zip(maps, strides):
        y = torch.arange(level.shape[2]) * stride >= height[:, None]
        x = torch.arange(level.shape[3]) * stride >= width[:, None]
        result.append((y[:, :, None] | x[:, None, :]).to(level.device))
    return result


def _check_parts(tapped: Union[Tapped, dict[str, Tapped]], boxes: bool, name: str) -> None:
    got = sorted(tapped) if isinstance(tapped, dict) else None
    if got not in ([['boxes', 'scores']] if boxes else [None]):
        raise ValueError(
            f'{name} reads one output of student and teacher, or scores and boxes of both, but got '
            f'{got or str(tapped)}'
        )


def _check_maps(student: list[Tensor], teacher: list[Tensor], same_channels: bool) -> None:
    ours, theirs = ([tuple(x.shape) for x in maps] for maps in (student, teacher))
    cut = slice(None) if same_channels else slice(2, None)
    if [s[cut] for s in ours] != [s[cut] for s in theirs]:
        raise ValueError(
            f'the maps of student and teacher differ in shape: {ours} and {theirs}; logits are '
            f'compared location by location: tap heads of the same strides'
        )
