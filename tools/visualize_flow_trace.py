"""What visualize_flow.py computes: a trained Distiller's pyramid on its way to the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from mmcv.transforms import Compose
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from flow_source import flow_source
from mmkd_fm.models.alignment import as_levels, measure
from mmkd_fm.models.distiller import Distiller
from mmkd_fm.models.losses.fmkt import FMKTLoss
from mmkd_fm.models.preprocessor import common_part
from mmkd_fm.models.taps import Tap, read, record
from mmkd_fm.registry import MODELS
from plan_models import build_distiller
from trained_checkpoint import load_trained

PROBE_SIZE = 128  # pixels, a multiple of all strides


@dataclass
class LevelFlow:
    """One level on its way, in the space where the loss compares it with the teacher; K steps.

    Attributes:
        level: Index in the student's pyramid.
        stride: Pixels of the input per element.
        times: Time that each step starts from, K numbers from 1 down.
        maps: By name, each of shape (n, C, H, W): `student` (n = 1), `teacher` (1), and of each
            step the `estimates`, their `means` so far, and the `states` that it ends in (K each).
        distances: Distance of each of these maps to the teacher, by the same names.
        change: Distance of the last mean, which is passed on, to the student.
    """

    level: int
    stride: int
    times: list[float]
    maps: dict[str, Tensor]
    distances: dict[str, list[float]]
    change: float

    @property
    def ends(self) -> list[float]:
        """Time that each step ends at, K numbers down to 0."""
        return [*self.times[1:], 0.0]

    @property
    def name(self) -> str:
        """'P3' for stride 8, as in the literature; the index where no such name exists."""
        power = self.stride.bit_length() - 1
        return f'P{power}' if self.stride == 2**power else f'level {self.level}'


def load_distiller(
    cfg: Config, checkpoint: str, teacher: str | None, loss_name: str | None, device: str
) -> tuple[Distiller, str]:
    """The trained Distiller with its teacher, in eval mode, and the name of its FMKTLoss.

    Args:
        cfg: The training's config.
        checkpoint: File that the training wrote.
        teacher: Checkpoint of the teacher, in place of the config's.
        loss_name: Which FMKTLoss; None takes the first.
        device: Where to.

    Raises:
        ValueError: If there is no Distiller or no such loss, or a checkpoint does not fit.
    """
    kind = (cfg.get('model') or {}).get('type')
    built = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(built, type) and issubclass(built, Distiller)):
        raise ValueError(
            f'expected a config with model.type mmkd_fm.Distiller, got {kind!r}; give that of the '
            f'distillation, such as configs/bccd/fmkt_retinanet_r18_r18-quarter_bccd.py'
        )
    model = build_distiller(cfg)
    valid = [name for name, loss in model.distill_losses.items() if isinstance(loss, FMKTLoss)]
    if not valid or loss_name not in (None, *valid):
        losses = ', '.join(f'{n} ({type(x).__name__})' for n, x in model.distill_losses.items())
        raise ValueError(
            f'expected an FMKTLoss{f" named {loss_name!r}" if loss_name else ""}, but the losses '
            f'of the config (without those of weight 0) are: {losses or "none"}; '
            + (f'valid names: {", ".join(valid)}' if valid else 'there is no flow to show')
        )
    name = loss_name or valid[0]
    load_trained(model, checkpoint, {name: model.distill_losses[name]})
    if teacher:
        model.teacher.checkpoint = teacher
    model.to(device)
    model.load_teacher()
    if getattr(model.data_preprocessor, 'batch_augments', None) is not None:
        model.data_preprocessor.batch_augments = None  # mixup and the like are for training
    return model.eval(), name


def read_image(cfg: Config, path: str) -> dict:
    """An image as the test pipeline packs it: `inputs`, shape (3, H, W), and `data_samples`.

    Raises:
        ValueError: If there is no such file, or it can't be read as an image.
    """
    if not Path(path).is_file():
        raise ValueError(f'there is no image {path}; give paths of image files')
    steps = [t for t in get_test_pipeline_cfg(cfg) if 'Annotations' not in str(t['type'])]
    try:
        return Compose(steps)(dict(img_path=path, img_id=0))
    except Exception as error:  # decoders fail in many ways
        raise ValueError(
            f"{path} can not be read by the config's test pipeline "
            f'({type(error).__name__}: {error}); give an image file such as a JPEG or PNG'
        ) from error


@torch.no_grad()
def trace_flow(
    model: Distiller,
    loss_name: str,
    data: dict,
    num_steps: int = 8,
    solver: str = 'euler',
    levels: list[int] | None = None,
) -> list[LevelFlow]:
    """Run both models and the flow on one image.

    Args:
        model: A Distiller in eval mode, its teacher loaded.
        loss_name: Name of its FMKTLoss.
        data: What `read_image` returned.
        num_steps: Number of steps K, 1 or more.
        solver: As for `transport`.
        levels: Indices of the student's levels; None takes all that have a flow.

    Raises:
        ValueError: If a level has no flow.
    """
    loss: FMKTLoss = model.distill_losses[loss_name]
    teacher_tap = model.teacher_taps[loss_name]
    tap, flows = flow_source(model, loss_name, loss)
    valid = [i for i, _ in loss.pairs]
    unknown = [level for level in levels or [] if level not in valid]
    if unknown:
        raise ValueError(f'level {unknown[0]} has no flow; valid levels: {valid}')

    batch = model.data_preprocessor(pseudo_collate([data]), True)
    probe = batch['inputs'].new_zeros(1, 3, PROBE_SIZE, PROBE_SIZE)
    strides = [level.stride for level in measure(_pyramid(model, tap, probe), PROBE_SIZE)]
    students = _pyramid(model, tap, batch['inputs'])
    records = model.teacher.forward(batch['teacher_inputs'], [teacher_tap.path])
    views = batch['inputs'].shape[-2:], batch['teacher_inputs'].shape[-2:]
    output = read(records, teacher_tap, model.teacher.model)
    tapped, scale = model.teacher_tapped[loss_name], model.teacher.input_scale
    teachers = as_levels(common_part(output, tapped, *views, scale))

    traced = []
    for (i, j), objective in zip(loss.pairs, loss.objectives):
        if i not in (levels or valid):
            continue
        x, target = students[i], objective.target(teachers[j])
        run = flows[str(i)](x, num_steps, solver=solver, keep_steps=True)
        counts = torch.arange(1, num_steps + 1, device=x.device).view(-1, 1, 1, 1)
        sequences = dict(
            student=x,
            estimates=run.estimates[:, 0],
            means=run.estimates[:, 0].cumsum(0) / counts,
            states=x - run.times[-1] * run.velocities[:, 0].cumsum(0),  # the last time is a step
        )
        decode = getattr(objective, 'decode', nn.Identity())
        maps = {key: decode(value) for key, value in sequences.items()}
        maps['teacher'] = target
        distances = {
            key: [loss.metric(one[None], target).item() for one in value]
            for key, value in maps.items()
        }
        change = loss.metric(maps['means'][-1:], maps['student']).item()
        maps = {key: value.cpu() for key, value in maps.items()}
        traced.append(LevelFlow(i, strides[i], run.times.tolist(), maps, distances, change))
    return traced


def _pyramid(model: Distiller, tap: Tap, inputs: Tensor) -> list[Tensor]:
    with record(model.student, [tap.path], stop_early=True) as records:
        model.student(inputs, mode='tensor')
    return as_levels(read(records, tap, model.student))
