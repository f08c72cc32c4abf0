"""Conformance: one real training step of a config on random data, and what must hold of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import Tensor, nn

import export_student
from mm_tool import package_of
from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.distiller import EXTRAS, Distiller
from mmkd_fm.models.teacher import plain_model
from plan_models import build_distiller, build_student, init_without_files, scope_of
from random_sample import learns_masks, random_sample

BATCH = 2
BOXES = 4  # in each image


@dataclass
class Outcome:
    """One check.

    Attributes:
        name: What must hold.
        passed: Whether it does; None if it could not be tried.
        message: What was found, and what to do.
    """

    name: str
    passed: bool | None
    message: str


class Failed(Exception):
    """A check that did not pass; its text says what to do."""


class NotTried(Exception):
    """A check that says nothing about this config; its text says why."""


@dataclass
class Step:
    """Losses and gradients of one step, by name."""

    losses: dict[str, Any]
    gradients: dict[str, Tensor | None]


class Conformance:
    """Runs the checks of one config.

    Args:
        cfg: The whole config.
        size: Height and width of the images in pixels.
    """

    def __init__(self, cfg: Config, size: tuple[int, int]) -> None:
        self.cfg = cfg
        self.size = size

    def run(self) -> list[Outcome]:
        """All checks; those after one that nothing works without are left out."""
        outcomes = [_try('models and taps', self._build)]
        hub = MessageHub.get_current_instance()
        for key in ('iter', 'epoch'):  # heads and augmentations with a schedule ask for them
            hub.update_info(key, hub.get_info(key, 0))
        if outcomes[0].passed:
            with preserved_generators(), scope_of(self.cfg):
                outcomes += [
                    _try('finite losses', self._finite),
                    _try('gradients', self._gradients),
                    _try("the student's own losses", self._own_losses),
                    _try('weights 0 are the plain student', self._weights_zero),
                    _try('checkpoint of the plain student', self._checkpoint),
                    _try('export', self._export),
                ]
        return outcomes

    def _build(self) -> str:
        self.plain = build_student(self.cfg)
        self.distiller = build_distiller(self.cfg)
        self.distiller.load_state_dict(self.plain.state_dict(), strict=False)
        if self.distiller.teacher is not None:
            with preserved_generators():
                # or a teacher of the student's config would be its copy, and its terms 0
                torch.default_generator.manual_seed(1)
                init_without_files(self.distiller.teacher.model)
            self.distiller.teacher.is_loaded = True  # what it teaches is checked, not what it knows
        return f'terms: {", ".join(getattr(self.distiller, EXTRAS))}'

    def _finite(self) -> str:
        self.distilled = self._step(self.distiller)
        for name, value in self.distilled.losses.items():
            if 'loss' in name and not all(x.isfinite().all() for x in _as_list(value)):
                raise Failed(f'{name} is {value}; lower its weight, or look at what its tap gives')
        return ', '.join(
            f'{name} {sum(_as_list(value)).item():.3g}'
            for name, value in self.distilled.losses.items()
            if 'loss' in name
        )

    def _gradients(self) -> str:
        self._needs('distilled')
        try:
            self.alone = self._step(self.plain)
        except ValueError as error:  # a flow that is trained with 0 steps needs its loss
            raise NotTried(f'the student does not train alone: {error}') from None
        expected = [name for name, g in self.alone.gradients.items() if g is not None]
        got = self.distilled.gradients
        lost = [name for name in expected if got.get(name) is None]
        extras = [n for n, g in got.items() if n.startswith(f'{EXTRAS}.') and g is None]
        infinite = [n for n, g in got.items() if g is not None and not g.isfinite().all()]
        for names, reason in (
            (lost, 'get a gradient in the plain step but none here; a forward must not depend on '
             'who calls it'),
            (extras, 'are trained besides the student but get no gradient; what a tap gives must '
             'stay in the graph: no detach(), no torch.no_grad()'),
            (infinite, 'get a gradient that is not finite; lower the loss weight'),
        ):  # fmt: skip
            if names:
                raise Failed(f'{len(names)} parameters {reason}: {", ".join(names[:4])}')
        return f'{len(expected)} of the student, {len(got) - len(self.alone.gradients)} extras'

    def _own_losses(self) -> str:
        self._needs('alone')
        if self.cfg.model.get('task_loss_weight', 1) != 1:
            raise NotTried('task_loss_weight changes them')
        self._compare('losses', self.distilled.losses, self.alone.losses)
        return 'bit-equal to those of the plain student, with the distillation beside them'

    def _weights_zero(self) -> str:
        self._needs('alone')
        losses = {name: dict(loss, loss_weight=0) for name, loss in self.cfg.model.losses.items()}
        for loss in losses.values():
            if 'source_weight' in loss:
                loss['source_weight'] = 0
        model = build_distiller(self.cfg, losses=losses, task_loss_weight=1)
        model.load_state_dict(self.state, strict=False)
        step = self._step(model)
        self._compare('losses', step.losses, self.alone.losses)
        self._compare('gradients', step.gradients, self.alone.gradients)
        return 'losses and gradients are bit-equal'

    def _compare(self, what: str, got: dict, expected: dict) -> None:
        """Refuse what is not bit-equal."""
        differing = [name for name in expected if not _equal(got.get(name), expected[name])]
        if differing:
            raise Failed(
                f'{what} differ at {", ".join(differing[:4])}; the student must be a function of '
                f'its weights, the batch and the global generators: no module may count its '
                f'calls or have a generator of its own'
            )

    def _checkpoint(self) -> str:
        ours, theirs = ({k: v.shape for k, v in m.state_dict().items()} for m in self._models())
        if ours != theirs:
            differing = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
            raise Failed(
                f'{len(differing)} keys differ: {", ".join(differing[:4])}; register modules and '
                f'parameters as usual, and leave state_dict alone'
            )
        return f'{len(ours)} keys'

    def _export(self) -> str:
        cfg = copy.deepcopy(self.cfg)
        cfg.model = plain_model(cfg.model)
        state = self.distiller.state_dict()
        kept = ''
        try:
            state = export_student.unwrap(cfg.model, state)
        except SystemExit:  # trained for the flow alone
            kept = ', with its flow'
        export_student.strip(cfg)
        export_student.check(cfg, state)
        return f'loaded strictly into the student{kept}'

    def _models(self) -> tuple[Distiller, nn.Module]:
        return self.distiller, self.plain

    def _needs(self, attribute: str) -> None:
        if not hasattr(self, attribute):
            raise NotTried('there is no step to look at')

    def _step(self, model: nn.Module) -> Step:
        """One step in training mode, of the same weights, data and draws each time."""
        if not hasattr(self, 'state'):
            self.state = copy.deepcopy(self.plain.state_dict())
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        model.train()
        data = model.data_preprocessor(self._batch(), True)
        losses = model(**data, mode='loss')
        model.parse_losses(losses)[0].backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        return Step({k: _detached(v) for k, v in losses.items()}, gradients)

    def _batch(self) -> dict[str, list]:
        """Random images with labels, as a data loader gives them."""
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (BATCH, 3, *self.size), dtype=np.uint8)
        if package_of(self.cfg) == 'mmpretrain':
            samples = [_classified(self.size) for _ in range(BATCH)]
        else:
            if "'semantic_head'" in str(self.cfg.model.student):
                raise NotTried(
                    'the student learns semantic maps too (semantic_head), which the random images '
                    'have none of'
                )
            masks = learns_masks(self.cfg.model.student)
            samples = [random_sample(self.size, rng, BOXES, masks) for _ in range(BATCH)]
        return dict(inputs=[torch.from_numpy(image) for image in images], data_samples=samples)


def _classified(size: tuple[int, int]) -> Any:
    """A sample with a label."""
    from mmpretrain.structures import DataSample

    return DataSample(metainfo=dict(img_shape=size)).set_gt_label(0)


def _try(name: str, check: Callable[[], str]) -> Outcome:
    try:
        return Outcome(name, True, check())
    except NotTried as reason:
        return Outcome(name, None, str(reason))
    except Failed as failure:
        return Outcome(name, False, str(failure))
    except Exception as error:
        return Outcome(name, False, f'{type(error).__name__}: {error}')


def _as_list(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else [v.detach() for v in value]


def _equal(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    pairs = list(zip(_as_list(first), _as_list(second)))
    return len(_as_list(first)) == len(_as_list(second)) and all(torch.equal(*p) for p in pairs)
