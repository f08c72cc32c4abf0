"""How near a student's features come to the teacher's, and what a flow adds to that.

Distances are those of PKD, in the space where the term compares: half the squared distance of
standardised channels, 0 for equal maps and 1 for unrelated ones, blind to scale and shift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diagnose_data import View
from diagnose_models import LeftOut, Subject
from flow_source import flow_source
from mmkd_fm.functional import pkd_loss
from mmkd_fm.models.alignment import as_levels
from mmkd_fm.models.flow import Flow
from mmkd_fm.models.losses import FeatureLoss, FMKTLoss, VelocityMatching
from mmkd_fm.models.preprocessor import common_part
from mmkd_fm.models.taps import Tap, read, record, tap_paths

STEPS = (1, 2, 4)
"""Numbers of steps whose mean estimate is compared; of the last the size and spread are taken."""


@dataclass
class Moments:
    """Sums over rows of numbers, from which their covariance follows."""

    count: int = 0
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0

    def add(self, maps: Tensor) -> None:
        """Add the locations of maps, shape (N, C, H, W), as rows."""
        rows = maps.transpose(0, 1).flatten(1).double()
        self.count += rows.shape[1]
        self.total = self.total + rows.sum(1)
        self.products = self.products + rows @ rows.T

    @property
    def covariance(self) -> Tensor:
        """Shape (C, C)."""
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)

    @property
    def norm(self) -> float:
        """Root of the mean square of all numbers."""
        return (self.products.diagonal().mean() / self.count).sqrt().item()


def participation_ratio(covariance: Tensor) -> float:
    """``(sum of eigenvalues)^2 / sum of their squares``, how many directions share the variance.

    Args:
        covariance: Shape (C, C).

    Returns:
        From 1 to C; 0 where nothing varies.
    """
    squares = covariance.square().sum()
    return (covariance.trace().square() / squares).item() if squares else 0.0


@dataclass
class Level:
    """How a term compares one level.

    Attributes:
        pair: Index of the student's and the teacher's level.
        stride: Pixels of the student's input per element.
        decode: From the student's channels to those that are compared.
        target: What the teacher's map is compared as.
        flow: The flow, where there is one.
        mapped: Of the target, where the teacher is mapped and not the student.
        images: How many were seen.
        sums: Of each number, over the images.
    """

    pair: tuple[int, int]
    stride: float
    decode: nn.Module
    target: Callable[[Tensor], Tensor]
    flow: Flow | None = None
    mapped: Moments | None = None
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Compare the maps of a batch, each of shape (N, C, H, W)."""
        x = student.to(torch.promote_types(student.dtype, torch.float32))
        target = self.target(teacher)
        if self.mapped is not None:
            self.mapped.add(target)
        numbers = dict(student=pkd_loss(self.decode(x), target).item())
        for steps in STEPS if self.flow is not None else ():
            run = self.flow(x, steps, keep_steps=True)
            numbers[f'nfe_{steps}'] = pkd_loss(self.decode(run.endpoint), target).item()
        if self.flow is not None:
            size = x.square().mean().sqrt()
            spread = run.estimates - run.estimates.mean(0)
            numbers['velocity'] = (run.velocities.square().mean().sqrt() / size).item()
            numbers['spread'] = (spread.square().mean().sqrt() / size).item()
        self.images += len(x)
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, 0.0) + len(x) * value

    def result(self) -> dict:
        """Means over the images."""
        means = {key: value / self.images for key, value in self.sums.items()}
        row = dict(level=self.pair[0], stride=self.stride, student=means['student'], estimates=[])
        for steps in STEPS if self.flow is not None else ():
            distance = means[f'nfe_{steps}']
            change = distance / means['student'] - 1 if means['student'] else None
            row['estimates'].append(dict(steps=steps, distance=distance, change=change))
        for key in ('velocity', 'spread'):
            row[key] = means.get(key)
        if self.mapped is not None:
            covariance = self.mapped.covariance
            row['teacher_map'] = dict(
                norm=self.mapped.norm,
                rank=participation_ratio(covariance),
                channels=len(covariance),
            )
        return row


class Distances:
    """Distances of all feature terms on the test images.

    Args:
        subject: The models.

    Raises:
        LeftOut: If no term compares features with a teacher's.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.taps: dict[str, Tap] = {}
        self.levels: dict[str, list[Level]] = {}
        for name, loss in subject.terms.items() if subject.teacher is not None else ():
            if isinstance(loss, (FeatureLoss, FMKTLoss)):
                self.taps[name], flows = subject.model.student_taps[name], {}
                if isinstance(loss, FMKTLoss):
                    self.taps[name], flows = flow_source(subject.model, name, loss)
                self.levels[name] = list(_levels(subject, name, loss, flows))
        if not self.levels:
            kinds = ', '.join(f'{n} ({type(x).__name__})' for n, x in subject.terms.items())
            raise LeftOut(f"no term compares features with a teacher's; terms: {kinds or 'none'}")

    @torch.no_grad()
    def add(self, view: View) -> None:
        """Compare the features of a batch."""
        subject, model = self.subject, self.subject.model
        with record(subject.student, tap_paths(self.taps.values()), stop_early=True) as students:
            subject.student(view.inputs, view.samples, mode='tensor')
        paths = tap_paths(model.teacher_taps[name] for name in self.levels)
        teachers = subject.teacher.forward(view.teacher_inputs, paths)
        sizes = view.inputs.shape[-2:], view.teacher_inputs.shape[-2:]
        for name, levels in self.levels.items():
            ours = as_levels(read(students, self.taps[name], subject.student))
            theirs = read(teachers, model.teacher_taps[name], subject.teacher.model)
            tapped, scale = model.teacher_tapped[name], subject.teacher.input_scale
            theirs = as_levels(common_part(theirs, tapped, *sizes, scale))
            for level in levels:
                i, j = level.pair
                level.add(ours[i], theirs[j])

    def result(self) -> list[dict]:
        """A row for each term and level."""
        return [
            dict(term=name, **level.result())
            for name, levels in self.levels.items()
            for level in levels
        ]


def _levels(
    subject: Subject, name: str, loss: nn.Module, flows: dict[str, Flow]
) -> Iterator[Level]:
    strides = [level.stride for level in subject.model.teacher_tapped[name].levels]
    if not isinstance(loss, FMKTLoss):
        for (i, j), project in zip(loss.pairs, loss.projections):
            yield Level((i, j), strides[j], project, nn.Identity())
        return
    for (i, j), objective in zip(loss.pairs, loss.objectives):
        decode = getattr(objective, 'decode', nn.Identity())
        mapped = Moments() if isinstance(objective, VelocityMatching) else None
        yield Level((i, j), strides[j], decode, objective.target, flows[str(i)], mapped)
