"""Calibration: whether what is predicted with confidence p is right with frequency p."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15
SCORE_BINS = 40


class Calibration:
    """Counts in bins of confidence, of any number of predictions.

    Args:
        bins: Bins of equal width in [0, 1].
    """

    def __init__(self, bins: int = BINS) -> None:
        self.sums = torch.zeros(3, bins, dtype=torch.float64)  # count, confidence, right
        self.scores = torch.zeros(SCORE_BINS, dtype=torch.float64)
        self.score = 0.0

    def add(self, confidence: Tensor, right: Tensor, scores: Tensor | None = None) -> None:
        """Add predictions.

        Args:
            confidence: Of each, in [0, 1], shape (M,).
            right: Whether it is right, bool, shape (M,).
            scores: What the histogram is of, shape (M,); None takes the confidence.
        """
        confidence, right = confidence.double().cpu(), right.double().cpu()
        bins = self.sums.shape[1]
        which = (confidence * bins).long().clamp(0, bins - 1)
        for row, values in enumerate((torch.ones_like(confidence), confidence, right)):
            self.sums[row].index_add_(0, which, values)
        scores = confidence if scores is None else scores.double().cpu()
        self.scores += torch.histc(scores, SCORE_BINS, 0, 1)
        self.score += scores.sum().item()

    @property
    def count(self) -> int:
        """How many predictions there were."""
        return int(self.sums[0].sum())

    @property
    def error(self) -> float:
        """Expected calibration error, ``sum of count |right - confidence| / count`` over bins."""
        return ((self.sums[2] - self.sums[1]).abs().sum() / max(self.count, 1)).item()

    def result(self) -> dict:
        """All numbers; means are None without predictions."""
        count, confidence, right = self.sums
        filled = count > 0
        curve = torch.stack([count, confidence / count, right / count], 1)[filled]
        means = (self.sums.sum(1) / self.count).tolist() if self.count else [None] * 3
        return dict(
            count=self.count,
            confidence=means[1],
            accuracy=means[2],
            ece=self.error if self.count else None,
            score=self.score / self.count if self.count else None,
            curve=[dict(count=int(n), confidence=c, accuracy=a) for n, c, a in curve.tolist()],
            histogram=self.scores.long().tolist(),
        )
