"""One real training step of a pair of detectors, and what is checked of it."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import load_checkpoint
from torch import nn

from coverage_models import Images, read_model
from mmkd_fm.models.teacher import FrozenTeacher
from mmkd_fm.registry import MODELS


@dataclass(frozen=True)
class Pair:
    """A student and a teacher.

    Attributes:
        title: What the page calls it.
        student: Config of mmdet, without 'mmdet::' and '.py'.
        teacher: Likewise.
        logits: Further options of the logit loss.
    """

    title: str
    student: str
    teacher: str
    logits: dict = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of a step.

    Attributes:
        levels: Pairs of levels of the FM-KT term.
        losses: Value of each distillation loss by the name of its term.
        refusal: Why the logits are not compared, '' if they are.
        missing: Parameters without a gradient though they have one in the plain student's step.
        gradients: Number of parameters that have one in the plain student's step.
        not_finite: Losses that are not finite.
        exported: Whether plain mmdet loads the student strictly.
        seconds: Time of it all.
    """

    levels: list[tuple[int, int]]
    losses: dict[str, float]
    refusal: str
    missing: list[str]
    gradients: int
    not_finite: list[str]
    exported: bool
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; a refusal is not."""
        return self.exported and not self.missing and not self.not_finite


def logit_terms(student: ConfigDict, teacher: ConfigDict, options: dict) -> dict[str, dict]:
    """WTTM on all box heads of the student; the teacher's are those of the same stage, or its only.

    Args:
        student: Model config.
        teacher: Model config.
        options: Of the loss.
    """
    ours, theirs = _heads(student), _heads(teacher)
    return {
        f'wttm{i or ""}': dict(
            type='mmkd_fm.WTTMLoss',
            tap=tap,
            teacher_tap=theirs[min(i, len(theirs) - 1)],
            index=0,
            **options,
        )
        for i, tap in enumerate(ours)
    }


def _heads(model: ConfigDict) -> list[str]:
    if 'roi_head' not in model:
        return ['bbox_head']
    stages = model.roi_head.get('num_stages')
    path = 'roi_head.bbox_head'
    return [f'{path}.{i}' for i in range(stages)] if stages else [path]


def run(pair: Pair, images: Images, folder: Path, full: bool = False) -> Outcome:
    """Train for one step with FM-KT on the neck and, where it applies, WTTM on the logits.

    Args:
        pair: The models.
        images: What they are trained with.
        folder: For checkpoints.
        full: Train the models as large as they are.
    """
    for key in ('iter', 'epoch'):  # as the Runner does, for flows and assigners
        MessageHub.get_current_instance().update_info(key, 0)
    start, count = time.perf_counter(), len(images.classes)
    student = read_model(pair.student, 'student', count, full)
    teacher = read_model(pair.teacher, 'teacher', count, full)
    given = dict(student=student, teacher=_random_teacher(teacher, folder))
    terms = dict(fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck'))
    refusal = ''
    try:
        logits = logit_terms(student, teacher, pair.logits)
        model = _distiller(given, dict(terms, **logits))
    except ValueError as error:
        refusal, model = str(error), _distiller(given, terms)
    batch = images.batch(student)
    wanted = _plain_gradients(student, model, batch)
    losses, missing = _train_step(model, batch, wanted)
    not_finite = [name for name, value in losses.items() if not value.isfinite().all()]
    return Outcome(
        levels=model.distill_losses['fmkt'].pairs,
        losses={
            name[5:]: value.item()
            for name, value in losses.items()
            if name[5:].split('_')[0] in model.distill_losses
        },
        refusal=refusal,
        missing=missing,
        gradients=len(wanted),
        not_finite=not_finite,
        exported=_exports(model, student, folder),
        seconds=time.perf_counter() - start,
    )


def _random_teacher(config: ConfigDict, folder: Path) -> dict:
    """The teacher's arguments, with random weights in a file."""
    torch.manual_seed(1)
    config = dict(model=config, default_scope='mmdet')
    path = folder / 'teacher.pth'
    teacher = FrozenTeacher(copy.deepcopy(config)).model
    teacher.init_weights()
    torch.save(teacher.state_dict(), path)
    return dict(config=config, checkpoint=str(path))


def _distiller(given: dict, losses: dict) -> nn.Module:
    torch.manual_seed(0)
    config = copy.deepcopy(dict(given, type='mmkd_fm.Distiller', losses=losses))
    model = revert_sync_batchnorm(MODELS.build(config))  # as the Runner does with one process
    model.load_teacher()
    model.student.init_weights()
    return model.train()


def _plain_gradients(config: ConfigDict, model: nn.Module, batch: dict) -> list[str]:
    """Parameters that get a gradient in a step of the plain student."""
    plain = revert_sync_batchnorm(MODELS.build(copy.deepcopy(config))).train()
    plain.load_state_dict(model.state_dict(), strict=True)
    data = plain.data_preprocessor(copy.deepcopy(batch), True)
    plain.parse_losses(plain(**data, mode='loss'))[0].backward()
    return [name for name, p in plain.named_parameters() if p.grad is not None]


def _train_step(
    model: nn.Module, batch: dict, wanted: list[str]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """All losses of a step, and what it left without a gradient, of student and flows."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=1e-4)
    total, losses = model.parse_losses(
        model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    )
    total.backward()
    extras = [name for name in trained if name.startswith('distill_losses.')]
    missing = [name for name in [*wanted, *extras] if trained[name].grad is None]
    optimizer.step()
    return {name: value for name, value in losses.items() if 'loss' in name}, missing


def _exports(model: nn.Module, config: ConfigDict, folder: Path) -> bool:
    """Whether mmdet's own loader takes the Distiller's checkpoint, strictly."""
    path = folder / 'student.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    plain = MODELS.build(copy.deepcopy(config))
    try:
        load_checkpoint(plain, str(path), map_location='cpu', strict=True)
    except RuntimeError:
        return False
    return all(torch.equal(v, model.state_dict()[k]) for k, v in plain.state_dict().items())
