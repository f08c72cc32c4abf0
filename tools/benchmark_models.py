"""What benchmark.py compares: a Distiller of random weights, and the students it leads to."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from mm_tool import package_of
from mmkd_fm.models.flow import Flow
from mmkd_fm.models.teacher import FrozenTeacher
from mmkd_fm.registry import MODELS
from random_sample import random_sample

BOXES = 8  # in each image
LOGIT_LOSSES = ('WTTMLoss', 'TTMLoss', 'KDLoss')


def read_config(path: str) -> tuple[ConfigDict, str | None, str | None]:
    """Config of the Distiller, the name of its FM-KT term and that of its logit term.

    Of several logit terms the first in `LOGIT_LOSSES` counts; those on box distributions, with a
    dict as their tap, don't. Of a catalogue of losses only what `terms` names is kept.

    Args:
        path: Config file.

    Raises:
        ValueError: If it is not of a detector's Distiller with one FMKTLoss that owns its flow or
            with a logit loss.
    """
    config = Config.fromfile(path)
    model = config.get('model', {})
    losses, terms = model.get('losses', {}), model.get('terms')
    used = list(losses) if terms is None else [terms] if isinstance(terms, str) else list(terms)
    kinds = {name: str(losses[name].type).rpartition('.')[2] for name in used if name in losses}
    flows = [
        name
        for name, kind in kinds.items()
        if kind == 'FMKTLoss' and losses[name].get('flow') != 'neck'
    ]
    logits = [
        name
        for kind in LOGIT_LOSSES
        for name in kinds
        if kinds[name] == kind and isinstance(losses[name].get('tap'), str)
    ]
    detector = (package_of(config) or 'mmdet') == 'mmdet'
    distiller = str(model.get('type')).rpartition('.')[2] == 'Distiller'
    if not detector or not distiller or len(flows) > 1 or not (flows or logits):
        raise ValueError(
            f'{path}: expected a Distiller of detectors with one FMKTLoss that has flow=dict(...), '
            f'or with one of {", ".join(LOGIT_LOSSES)}; got {model.get("type")} of '
            f'{package_of(config)} with the losses {kinds}; see configs/retinanet for one'
        )
    model = with_losses(model, {name: losses[name] for name in used})
    return model, next(iter(flows), None), next(iter(logits), None)


def with_losses(model: ConfigDict, losses: dict[str, dict]) -> ConfigDict:
    """The config with these losses alone."""
    model = copy.deepcopy(model)
    model.losses = ConfigDict(copy.deepcopy(losses))
    model.pop('terms', None)
    return model


def with_random_teacher(model: ConfigDict, folder: Path) -> ConfigDict:
    """The config with a teacher checkpoint of random weights, written to ``folder``."""
    path = folder / 'teacher.pth'
    torch.save(FrozenTeacher(model.teacher.config).model.state_dict(), path)
    teacher = dict(model.teacher, checkpoint=str(path), cache=None)  # each forward is measured
    return ConfigDict(copy.deepcopy(model), teacher=teacher)


def with_encoder(model: ConfigDict, term: str, encoder: str | None) -> ConfigDict:
    """The config with another meta-encoder in its FM-KT term.

    Args:
        model: Config of the Distiller.
        term: Name of the FM-KT term.
        encoder: Registered name; None puts the bare metric in the term's place.
    """
    model = copy.deepcopy(model)
    loss = model.losses[term]
    if encoder is None:
        bare = dict(type='mmkd_fm.PKDLoss')
        keys = ('tap', 'teacher_tap', 'levels', 'index', 'teacher_index')
        bare.update(loss.get('metric', {}), **{k: loss[k] for k in keys if k in loss})
        model.losses[term] = ConfigDict(bare)
    elif encoder != default_encoder(model, term):
        loss.setdefault('flow', ConfigDict())
        loss.flow.meta_encoder = ConfigDict(type=f'mmkd_fm.{encoder}')
    return model


def default_encoder(model: ConfigDict, term: str) -> str:
    """Name of the meta-encoder that the config asks for."""
    default = inspect.signature(Flow).parameters['meta_encoder'].default
    encoder = model.losses[term].get('flow', {}).get('meta_encoder', default)
    return encoder['type'].rpartition('.')[2]


def raw_batch(batch: int, size: tuple[int, int], with_masks: bool = False) -> dict[str, list]:
    """Random images and boxes, maybe masks too, as a data loader gives them."""
    rng = np.random.default_rng(0)
    samples = [random_sample(size, rng, BOXES, with_masks) for _ in range(batch)]
    images = [rng.integers(0, 256, (3, *size), dtype=np.uint8) for _ in range(batch)]
    return dict(inputs=[torch.from_numpy(image) for image in images], data_samples=samples)


def plain_student(model: ConfigDict) -> nn.Module:
    """The student as mmdet builds it, for inference."""
    return MODELS.build(copy.deepcopy(model.student)).eval()


def exported_student(model: ConfigDict, distiller: nn.Module) -> nn.Module:
    """The plain student with what the Distiller's checkpoints hold, loaded strictly."""
    student = plain_student(model)
    student.load_state_dict(distiller.state_dict(), strict=True)
    return student


def flow_student(model: ConfigDict, term: str) -> nn.Module:
    """The student with the flow of the FM-KT term behind its neck; it takes `neck.nfe` steps."""
    loss, student = model.losses[term], copy.deepcopy(model.student)
    student.neck = ConfigDict(
        type='mmkd_fm.FlowNeck',
        neck=student.neck,
        flow=loss.get('flow', {}),
        levels=loss.get('levels'),
    )
    return MODELS.build(student).eval()
