"""The models of a distillation config, built without data, weights or downloads."""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import nn

from mm_tool import package_of
from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.alignment import Tapped, pair_levels
from mmkd_fm.models.distiller import Distiller
from mmkd_fm.registry import MODELS
from model_problems import model_problem


class LevelProbe(nn.Module):
    """A term that finds out which levels have a partner; it can't be trained with.

    Args:
        levels: Indices of the student's levels that are wanted; afterwards those of them that both
            pyramids have.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.levels = levels

    def connect(self, student: Tapped, teacher: Tapped) -> None:
        """Find the levels whose stride the teacher has too.

        Raises:
            ValueError: If there are none.
        """
        common = [i for i, _ in pair_levels(student, teacher)]
        self.levels = [i for i in self.levels if i in common] or common


def common_levels(cfg: Config) -> dict[str, list[int]]:
    """For each term that names levels those that have a partner.

    The other terms connect for real, so that one which doesn't fit is refused here.

    Args:
        cfg: Config of a distillation.
    """
    terms, probes = cfg.model.losses, {}
    for name, loss in terms.items():
        # anything else is refused where the Distiller is built
        listed = isinstance(loss, dict) and isinstance(loss.get('levels'), (list, tuple))
        if listed and 'type' in loss:
            taps = {key: loss[key] for key in loss if 'tap' in key or 'index' in key}
            probes[name] = dict(taps, type=LevelProbe, levels=list(loss.levels))
    losses = build_distiller(cfg, losses={**terms, **probes}).distill_losses
    return {name: losses[name].levels for name in probes if name in losses}


def build_distiller(cfg: Config, **changes: Any) -> Distiller:
    """The Distiller of a config, with the initial weights of its constructors.

    Args:
        cfg: The whole config.
        **changes: Of the Distiller's arguments.

    Raises:
        ValueError: If it can't be built as it is written.
    """
    problem = model_problem(cfg)
    if problem:
        raise ValueError(problem)
    return _build(cfg, dict(copy.deepcopy(cfg.model), **changes))


def build_student(cfg: Config) -> nn.Module:
    """The plain student of a distillation's config, initialised but for pretrained weights."""
    student = _build(cfg, copy.deepcopy(cfg.model.student))
    with preserved_generators():
        init_without_files(student)
    return student


def _build(cfg: Config, model: dict) -> nn.Module:
    if 'data_preprocessor' in cfg:  # mmpretrain keeps it at the top level, for the Runner
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with preserved_generators(), scope_of(cfg), quiet():
        return MODELS.build(model)


@contextmanager
def scope_of(cfg: Config):
    """Resolve names without a scope in the config's own package."""
    with DefaultScope.overwrite_default_scope(package_of(cfg) or 'mmdet'):
        yield


def init_without_files(model: nn.Module) -> None:
    """Initialise a model as for training, but read no pretrained weights."""
    for module in model.modules():
        configs = getattr(module, 'init_cfg', None)
        if configs:
            configs = configs if isinstance(configs, list) else [configs]
            module.init_cfg = [c for c in configs if c.get('type') != 'Pretrained'] or None
    with quiet():  # a page for each model
        model.init_weights()


@contextmanager
def quiet():
    """Keep what is no warning out of the log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
