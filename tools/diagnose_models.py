"""What diagnose.py looks at: a Distiller with its teacher, or a plain model."""

from __future__ import annotations

from dataclasses import dataclass

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint, set_random_seed
from torch import nn

from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.distiller import EXTRAS, Distiller
from mmkd_fm.models.head_logits import HeadLogits, read_head
from mmkd_fm.models.probe import measure_taps
from mmkd_fm.models.taps import Tap
from mmkd_fm.models.teacher import FrozenTeacher
from plan_models import build_distiller, quiet
from trained_checkpoint import load_trained

SCORES = Tap('bbox_head', 0)
"""Where the class scores of a dense head are read."""


class LeftOut(Exception):
    """A part that says nothing about this config; its text says why."""


@dataclass(frozen=True)
class ScoreHead:
    """A dense head with class scores.

    Attributes:
        tapped: The scores as measured.
        logits: What they mean.
    """

    tapped: Tapped
    logits: HeadLogits


@dataclass
class Subject:
    """A trained model, or one at the start of its training.

    Attributes:
        model: A Distiller, its teacher loaded, or a plain model; in eval mode.
        heads: Of 'student' and, if there is one, 'teacher': the dense head, or why it has none.
        iteration: Iterations that it was trained for, as far as a checkpoint says.
        epoch: Epochs likewise.
    """

    model: BaseModel
    heads: dict[str, ScoreHead | LeftOut]
    iteration: int
    epoch: int

    @property
    def student(self) -> BaseModel:
        """The model itself if it is a plain one."""
        return self.model.student if isinstance(self.model, Distiller) else self.model

    @property
    def teacher(self) -> FrozenTeacher | None:
        """The teacher, if there is one."""
        return self.model.teacher if isinstance(self.model, Distiller) else None

    @property
    def terms(self) -> dict[str, nn.Module]:
        """The distillation losses by name."""
        return dict(getattr(self.model, EXTRAS, nn.ModuleDict()).items())


def load_subject(cfg: Config, checkpoint: str | None, device: str) -> Subject:
    """Build the model of a config and load a checkpoint of its training.

    Args:
        cfg: The training's config, of a Distiller or of a plain model.
        checkpoint: File that the training wrote; None gives the weights that it starts from.
        device: Where to.

    Raises:
        ValueError: If there is no model, nothing distils, or a checkpoint does not fit.
    """
    if 'model' not in cfg:
        raise ValueError(
            f'{cfg.filename} has no model; give the config that the student was trained with'
        )
    model = build_distiller(cfg)  # of a plain config the plain model
    subject = Subject(model, {}, 0, 0)
    if isinstance(model, Distiller) and not subject.terms:
        raise ValueError(
            'all losses of the config have weight 0: nothing distils. Give the config and the '
            "--cfg-options of the training, or the plain student's config"
        )
    meta = load_trained(model, checkpoint, subject.terms) if checkpoint else _start(model, cfg)
    subject.iteration, subject.epoch = meta.get('iter', 0), meta.get('epoch', 0)
    # before the models are moved: taps are measured on the CPU
    subject.heads['student'] = _score_head(subject.student, 'student')
    if subject.teacher is not None:
        scale = subject.teacher.input_scale
        subject.heads['teacher'] = _score_head(subject.teacher.model, 'teacher', scale)
    model.to(device)
    if checkpoint and isinstance(model, Distiller):
        model.load_teacher()
    if subject.teacher is not None:
        subject.teacher.cache = None  # no view comes again
    model.eval()
    return subject


def _start(model: BaseModel, cfg: Config) -> dict:
    """Initialise a model as its training does, which has no `meta` yet."""
    with preserved_generators(), quiet():
        set_random_seed(cfg.get('randomness', {}).get('seed') or 0)
        model.state_is_kept = True  # asked of a Distiller that is to be resumed; no run is made
        model.init_weights()
    if cfg.get('load_from'):
        load_checkpoint(model, cfg.load_from, map_location='cpu')
    return {}


def _score_head(model: nn.Module, owner: str, scale: float = 1) -> ScoreHead | LeftOut:
    try:
        tapped = measure_taps(model, {owner: SCORES}, owner, scale)[owner]
        return ScoreHead(tapped, read_head(tapped, 'calibration'))
    except ValueError as error:
        return LeftOut(f'the {owner} has no dense head with class scores: {error}')
