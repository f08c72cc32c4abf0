"""The methods that `--distill` offers for a pair of models, and those that it takes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config, ConfigDict

from export_student import is_flow, numbers_of_steps
from mm_tool import ROOT, package_of

BASES = ROOT / 'configs' / '_base_'

FITS_ANY = ['fmkt']
"""Terms where none are asked for: FM-KT fits any two pyramids."""

OF_GFL = ['fmkt_cwd', 'kd', 'kd_boxes']
"""Of two GFL heads of the same classes, bins and places: docs/results/bccd-folds-weights.md."""

WITH_OBJECTNESS = ('YOLOXHead', 'AutoAssignHead')
"""Heads in which a branch of its own tells objects from the background."""

OF_CLASSIFIERS = ['wttm']
"""Of classifiers, whose last feature need be no map."""


@dataclass(frozen=True)
class Methods:
    """What can be chosen for a pair.

    Attributes:
        losses: Configs of the terms by their names.
        hooks: The default hooks that they need.
        limits: Why there are no others.
    """

    losses: ConfigDict
    hooks: ConfigDict
    limits: str

    def choose(self, names: Sequence[str]) -> list[str]:
        """Names of the terms; one that each stage of a cascade has, such as wttm, stands for all.

        Raises:
            ValueError: If there is no such method, or it is none of this pair's.
        """
        chosen = []
        for name in names:
            stages = [k for k in self.losses if k.rpartition('_')[0] == name and k[-1].isdigit()]
            if name not in self.losses and not stages:
                valid = f'valid names for this pair: {", ".join(self.losses)}'
                if name in _known():
                    raise ValueError(
                        f'--distill: {name} does not fit this pair: {self.limits}; {valid}'
                    )
                hint = ' (the config stands before --distill)' if name.endswith('.py') else ''
                raise ValueError(f'--distill: unknown method {name!r}{hint}; {valid}')
            chosen += [name] if name in self.losses else stages
        return chosen


def methods_of(student: Config, teacher: Config) -> Methods:
    """What there is for a plain student and its teacher, by the kinds of their heads.

    Of a detector with one stage and one with two these are of features alone, with the weights for
    two families. Heads with an objectness, as YOLOX's and AutoAssign's, train class scores for
    objects alone: theirs are left out. A flow that the student has is what FM-KT trains.
    """
    if package_of(student) == 'mmpretrain':
        base = Config.fromfile(BASES / 'distill_cls.py')
        losses = base.cls_losses
        if is_flow(student.model.get('head')):
            losses.fmkt = base.cls_fmkt_head
        return Methods(losses, base.cls_hooks, 'it is for detectors, and these are classifiers')
    base = Config.fromfile(BASES / 'distill_runtime.py')
    losses, limits = _of_detectors(base, student.model, _model(teacher))
    if is_flow(student.model.get('neck')):
        _train_flow_of(student.model.neck, losses)
    return Methods(losses, base.distill_hooks, limits)


def _of_detectors(base: Config, student: dict, teacher: dict) -> tuple[ConfigDict, str]:
    """The losses, and why there are no others."""
    heads, of_teacher = student.get('roi_head'), teacher.get('roi_head')
    if any(isinstance(part, (list, tuple)) for part in (heads, of_teacher)):
        return base.feature_losses, 'a model has several roi_heads, so features alone are compared'
    if (heads is None) != (of_teacher is None):
        return base.other_family_losses, (
            'no RoI of a two-stage detector belongs to a location of a one-stage one, so that '
            'features alone are compared'
        )
    if heads:
        stages, of_teacher = (head.get('bbox_head') for head in (heads, of_teacher))
        cascade, from_cascade = (isinstance(part, (list, tuple)) for part in (stages, of_teacher))
        losses = base.cascade_losses if cascade else base.roi_losses
        if cascade:
            of_stages = [name for name in losses if name.startswith('wttm_')]
            first = losses[of_stages[0]]
            for name in of_stages[len(stages) :]:
                del losses[name]
            for i in range(len(stages)):
                losses[f'wttm_{i}'] = ConfigDict(first, tap=f'roi_head.bbox_head.{i}')
                if from_cascade and i >= len(of_teacher):
                    losses[f'wttm_{i}'].teacher_tap = f'roi_head.bbox_head.{len(of_teacher) - 1}'
        if cascade != from_cascade:  # a cascade teaches by its last stage, the most exact
            last = f'.{len(of_teacher) - 1}' if from_cascade else ''
            for loss in losses.values():
                if loss.tap != 'neck':
                    loss.teacher_tap = f'roi_head.bbox_head{last}'
        return losses, 'of two-stage detectors features and class scores of RoIs are compared' + (
            ', the scores of a cascade by wttm' if cascade else ''
        )
    head, of_teacher = _head(student), teacher.get('bbox_head')
    if head is None or isinstance(of_teacher, (list, tuple)):
        return base.feature_losses, (
            'the student has no bbox_head, or a model has several, so features alone are compared'
        )
    if 'loss_obj' in head or _kind(head) in WITH_OBJECTNESS:
        return base.feature_losses, (
            "the student's head has an objectness and trains its class scores for where there are "
            'objects, so that features alone are compared'
        )
    if _bins(head):
        return base.gfl_losses, 'it is for classifiers, or for the stages of a cascade'
    return base.dense_losses, (
        'it is for classifiers, for the stages of a cascade, or for heads that predict '
        "distributions of boxes, and the student's has no loss_dfl"
    )


def _train_flow_of(neck: dict, losses: dict) -> None:
    """Replace the flows in training of a student's losses, in place, by those of its FlowNeck."""
    plain_too = 0 in numbers_of_steps('neck', neck)
    for name, loss in losses.items():
        if 'flow' in loss:
            kept = {key: loss[key] for key in loss if key != 'levels'}  # the neck says which
            theta = loss.theta_weight if plain_too else 0
            losses[name] = ConfigDict(kept, flow='neck', theta_weight=theta)


def default_names(student: Config, teacher: Config) -> list[str]:
    """Names of the methods where none are asked for."""
    if package_of(student) == 'mmpretrain':
        return OF_CLASSIFIERS
    heads = [_head(model) or {} for model in (student.model, _model(teacher))]
    outputs = [(_bins(head), _kind(head), head.get('num_classes'), _places(head)) for head in heads]
    return OF_GFL if outputs[0][0] and outputs[0] == outputs[1] else FITS_ANY


def _head(model: dict) -> dict | None:
    """The head of a detector with one stage; None of others, and where there are several."""
    head = model.get('bbox_head')
    return head if isinstance(head, dict) else None


def _places(head: dict) -> dict:
    """Where a head predicts: its anchor generator, whichever way its config is written."""
    generator = head.get('anchor_generator') or {}
    plain = {key: _plain(value) for key, value in generator.items()}
    return dict(plain, type=_kind(generator))


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _bins(head: dict) -> int | None:
    """Bins of the distribution of each side of a box; None of a head that predicts none."""
    of_gfl = _kind(head) == 'GFLHead'  # has loss_dfl and 16 bins where its config does not
    return head.get('reg_max', 16) if of_gfl or 'loss_dfl' in head else None


def _kind(head: dict) -> str:
    """Name of a part's type without its package; an LDHead's outputs are those of GFLHead."""
    kind = head.get('type', '')
    name = kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__
    return 'GFLHead' if name == 'LDHead' else name


def _model(cfg: Config) -> dict:
    """Config of the model; of a distillation that of its student, which can teach too."""
    model = cfg.get('model', {})
    return model.get('student', model)


def _known() -> set[str]:
    """Names of all methods."""
    base = Config.fromfile(BASES / 'distill_cls.py')  # has those of detectors too
    return {name for key in base if key.endswith('_losses') for name in base[key]}
