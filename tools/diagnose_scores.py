"""Calibration and histograms of a dense head's class scores, on foreground and on background.

The confidence of a row is its largest score of a class. It is right where that class is the row's;
on background never. The histogram on foreground is of the score of the right class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diagnose_calibration import Calibration
from diagnose_data import TestImages, View
from diagnose_locations import (
    BACKGROUND,
    LOSS,
    assigned_labels,
    centre_labels,
    rows_of,
    without_padding,
)
from diagnose_models import SCORES, LeftOut, ScoreHead, Subject
from mmkd_fm.models.alignment import as_levels
from mmkd_fm.models.head_logits import HeadLogits
from mmkd_fm.models.preprocessor import common_part
from mmkd_fm.models.taps import read, record

WHERE = ('foreground', 'background', 'all')
ASSIGNER, CENTRE = "the student's assigner", 'centres in boxes'
"""By what a row is foreground."""


class Scores:
    """Scores of the student and, if it has the same classes, of the teacher.

    Args:
        subject: The models.
        images: Where they are looked at.

    Raises:
        LeftOut: If there are no boxes, or the student has no such head.
    """

    def __init__(self, subject: Subject, images: TestImages) -> None:
        if not images.has_boxes:
            raise LeftOut('the test set has no boxes')
        self.subject = subject
        self.heads: dict[str, ScoreHead] = {}
        self.notes: list[str] = []
        for owner, head in subject.heads.items():
            if isinstance(head, ScoreHead):
                self.heads[owner] = head
            else:
                self.notes.append(str(head))
        if 'student' not in self.heads:
            raise subject.heads['student']
        ours, theirs = (self._classes(owner) for owner in ('student', 'teacher'))
        if theirs not in (None, ours):
            del self.heads['teacher']
            self.notes.append(f'the teacher has {theirs} classes, the student {ours}')
        self.by: str | None = None
        self.calibrations = {(o, w): Calibration() for o in self.heads for w in WHERE}

    def _classes(self, owner: str) -> int | None:
        head = self.heads.get(owner)
        return head and head.logits.channels - (0 if head.logits.sigmoid else 1)

    @torch.no_grad()
    def add(self, view: View) -> None:
        """Look at a batch."""
        student = self.heads['student']
        maps, assigned = self._student(view, student)
        of_teacher = self._teacher(view) if 'teacher' in self.heads else None
        if self.by is None:
            # one rule for both: the assigner's rows are the teacher's where the grids are equal
            same = of_teacher is None or student.logits.grid == self.heads['teacher'].logits.grid
            self.by = ASSIGNER if assigned is not None and same else CENTRE
            if not same:
                self.notes.append('the heads have other anchors or strides')
        labels = assigned if self.by == ASSIGNER else centre_labels(maps, student, view)
        labels = without_padding(labels, maps, student, view)
        self._count('student', maps, labels)
        if of_teacher is not None:
            if self.by == CENTRE:
                head = self.heads['teacher']
                labels = centre_labels(of_teacher, head, view)
                labels = without_padding(labels, of_teacher, head, view)
            self._count('teacher', of_teacher, labels)

    def _student(self, view: View, head: ScoreHead) -> tuple[list[Tensor], Tensor | None]:
        """The student's maps, and the labels by its assigner, None if they can't be had."""
        student, inside = self.subject.student, hasattr(head.tapped.module, 'loss_cls')
        if inside and self.by != CENTRE:
            try:
                with record(student, [SCORES.path], inputs=[LOSS]) as records:
                    student(view.inputs, view.samples, mode='loss')
                maps = as_levels(read(records, SCORES, student))
                rows = rows_of(maps, head.logits.channels)
                return maps, assigned_labels(records, rows, head)
            except Exception as reason:  # losses may need masks and more
                if self.by == ASSIGNER:
                    raise
                self.notes.append(f'no labels by the assigner: {reason}')
        with record(student, [SCORES.path], stop_early=True) as records:
            student(view.inputs, view.samples, mode='tensor')
        return as_levels(read(records, SCORES, student)), None

    def _teacher(self, view: View) -> list[Tensor]:
        teacher, tapped = self.subject.teacher, self.heads['teacher'].tapped
        records = teacher.forward(view.teacher_inputs, [SCORES.path])
        sizes = view.inputs.shape[-2:], view.teacher_inputs.shape[-2:]
        output = read(records, SCORES, teacher.model)
        return as_levels(common_part(output, tapped, *sizes, teacher.input_scale))

    def _count(self, owner: str, maps: Sequence[Tensor], labels: Tensor) -> None:
        head = self.heads[owner].logits
        scores = class_scores(rows_of(maps, head.channels), head)
        confidence, predicted = scores.max(1)
        classes = labels.clamp(min=0)
        of_class = scores.gather(1, classes[:, None])[:, 0]
        of_class = torch.where(labels >= 0, of_class, confidence)
        right = (labels >= 0) & (predicted == classes)
        places = dict(foreground=labels >= 0, background=labels == BACKGROUND)
        places['all'] = places['foreground'] | places['background']
        for where, rows in places.items():
            calibration = self.calibrations[owner, where]
            calibration.add(confidence[rows], right[rows], of_class[rows])

    def result(self) -> dict:
        """By what a row is foreground, a row for each model and place, and notes."""
        rows = [
            dict(owner=owner, where=where, **calibration.result())
            for (owner, where), calibration in self.calibrations.items()
        ]
        return dict(foreground_by=self.by, rows=rows, notes=self.notes)


def class_scores(rows: Tensor, head: HeadLogits) -> Tensor:
    """Probabilities of the classes, without the background's.

    Args:
        rows: What the head gives, shape (M, channels).
        head: What it means.

    Returns:
        Shape (M, classes).
    """
    logits = head.logits(rows)
    return logits.sigmoid() if head.sigmoid else logits.softmax(1)[:, :-1]
