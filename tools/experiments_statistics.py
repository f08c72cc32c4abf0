"""What seeds can tell: paired differences, their intervals, and how many seeds would be needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import nct
from scipy.stats import t as student_t


@dataclass(frozen=True)
class Difference:
    """Mean difference of runs with equal seeds.

    Attributes:
        mean: Of the differences.
        half: Half of the 95 % interval (Student's t); None with one seed.
        seeds: Seeds that both have.
    """

    mean: float
    half: float | None
    seeds: list[int]


def paired_difference(
    values: Mapping[int, float], base: Mapping[int, float], folds: int | None = None
) -> Difference | None:
    """Compare runs by seed.

    Args:
        values: Seed -> value.
        base: Seed -> value of the baseline.
        folds: Number of folds, seed N having fold N mod folds. The interval is that of the folds'
            means then: a fold's seeds share its images and its teacher.

    Returns:
        The difference; None if they have no seed in common.
    """
    seeds = [seed for seed in values if seed in base]
    if not seeds:
        return None
    gains = [values[seed] - base[seed] for seed in seeds]
    if folds is not None:
        gains = [statistics.mean(fold) for fold in by_fold(dict(zip(seeds, gains)), folds)]
    half = None
    if len(gains) > 1:
        quantile = student_t.ppf(0.975, len(gains) - 1)
        half = float(quantile * statistics.stdev(gains) / math.sqrt(len(gains)))
    return Difference(statistics.mean(gains), half, seeds)


def by_fold(values: Mapping[int, float], folds: int) -> list[list[float]]:
    """The values of each fold, seed N having fold N mod folds; without the folds that have none.

    Example:
        >>> by_fold({0: 1.0, 1: 2.0, 3: 4.0}, 3)
        [[1.0, 4.0], [2.0]]
    """
    groups = [[v for seed, v in values.items() if seed % folds == fold] for fold in range(folds)]
    return [group for group in groups if group]


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """Standard deviation within groups, and its degrees of freedom.

    Args:
        groups: Values of each row.

    Returns:
        None if no row has two values.
    """
    freedom = sum(len(group) - 1 for group in groups if group)
    if not freedom:
        return None
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups if group[1:])
    return math.sqrt(squares / freedom), freedom


def seeds_needed(deviation: float, difference: float = 1.0, power: float = 0.8) -> int:
    """Seeds for each of two rows to see a difference: two-sided t test at 5 %, unpaired.

    Args:
        deviation: Standard deviation between seeds.
        difference: True difference, in the same unit.
        power: Probability to see it.
    """
    count = 2
    while deviation and _power(count, difference / deviation) < power:
        count += 1
    return count


def _power(count: int, effect: float) -> float:
    """Power of the two-sample t test with `count` values each; effect in standard deviations."""
    freedom, shift = 2 * (count - 1), effect * math.sqrt(count / 2)
    limit = student_t.ppf(0.975, freedom)
    return float(nct.sf(limit, freedom, shift) + nct.cdf(-limit, freedom, shift))
