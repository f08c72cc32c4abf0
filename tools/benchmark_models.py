"""What benchmark.py compares: a Distiller of random weights, and the students it leads to."""

from __future__ import annotations

import contextlib
import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from benchmark_measure import Stopwatch, resident_bytes
from complexity import call_gflops, num_parameters
from mmkd_fm.models import Flow, FMKTLoss
from mmkd_fm.models.alignment import as_levels
from mmkd_fm.models.taps import read, record, tap_paths
from mmkd_fm.models.teacher import FrozenTeacher
from mmkd_fm.registry import MODELS

BOXES = 8  # in each image


def read_config(path: str, all_losses: bool = False) -> tuple[ConfigDict, str]:
    """Config of the Distiller and the name of its FM-KT term.

    Args:
        path: Config file.
        all_losses: Keep the other terms too.

    Raises:
        ValueError: If it has no Distiller with one FMKTLoss that owns its flow.
    """
    model = Config.fromfile(path).get('model', {})
    losses = model.get('losses', {})
    kinds = {name: loss.type.rpartition('.')[2] for name, loss in losses.items()}
    terms = [name for name, kind in kinds.items() if kind == 'FMKTLoss']
    terms = [name for name in terms if losses[name].get('flow') != 'neck']
    if str(model.get('type')).rpartition('.')[2] != 'Distiller' or len(terms) != 1:
        raise ValueError(
            f'{path}: expected a Distiller with one FMKTLoss that has flow=dict(...), got '
            f'{model.get("type")} with the losses {kinds}; see configs/retinanet for one'
        )
    if not all_losses:
        model.losses = {terms[0]: model.losses[terms[0]]}
    return model, terms[0]


def with_random_teacher(model: ConfigDict, folder: Path) -> ConfigDict:
    """The config with a teacher checkpoint of random weights, written to ``folder``."""
    path = folder / 'teacher.pth'
    torch.save(FrozenTeacher(model.teacher.config).model.state_dict(), path)
    return ConfigDict(copy.deepcopy(model), teacher=dict(model.teacher, checkpoint=str(path)))


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
    encoder = model.losses[term].get('flow', {}).get('meta_encoder')
    return (encoder or dict(type='ConvMetaEncoder'))['type'].rpartition('.')[2]


def raw_batch(batch: int, size: tuple[int, int]) -> dict[str, list]:
    """Random images and boxes as a data loader gives them."""
    rng, (height, width) = np.random.default_rng(0), size
    samples = []
    for _ in range(batch):
        sides = rng.uniform(1 / 8, 1 / 2, (BOXES, 2)) * (width, height)
        corners = rng.random((BOXES, 2)) * ((width, height) - sides)
        boxes = torch.from_numpy(np.hstack([corners, corners + sides]).astype('float32'))
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1)))
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.zeros(BOXES, dtype=torch.long)
        )
        samples.append(sample)
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


class Training:
    """A Distiller with its teacher, a batch, and optimizers: all that a training step needs.

    The learning rate is 0, so that every step does the same work; SGD does all of its own.

    Args:
        model: Config of the Distiller, with a teacher that can be loaded.
        batch: A raw batch.
        device: Where to train.
        amp: Run the forwards under autocast to bfloat16.
    """

    def __init__(self, model: ConfigDict, batch: dict, device: torch.device, amp: bool) -> None:
        torch.manual_seed(0)
        self.device, self.amp = device, amp
        self._watch: Stopwatch | None = None
        self.distiller = MODELS.build(copy.deepcopy(model)).to(device).train()
        self.distiller.load_teacher()
        self.teacher, self.student = self.distiller.teacher, self.distiller.student
        for parameter in self.distiller.distill_losses.parameters():
            if not parameter.detach().any():  # as training leaves them, with all gradients non-zero
                nn.init.normal_(parameter, std=0.01)
        self.data = self.distiller.data_preprocessor(batch, True)
        self.flows = [m for m in self.distiller.modules() if isinstance(m, Flow)]
        self.policy = self.flows[0].num_steps if self.flows else ()
        self.optimizers = [
            torch.optim.SGD(
                [p for p in part.parameters() if p.requires_grad],
                lr=0.0,
                momentum=0.9,
                weight_decay=1e-4,
            )
            for part in (self.student, self.distiller)
        ]

    def choose(self, num_steps: int, checkpoint: bool) -> Training:
        """Fix the number of steps of all flows, and whether they are recomputed."""
        for flow in self.flows:
            flow.num_steps, flow.warmup_epochs, flow.checkpoint = (num_steps,), 0, checkpoint
        return self

    def teacher_forward(self) -> None:
        """What the teacher computes for a distillation step, and no more."""
        with self._autocast():
            paths = tap_paths(self.distiller.teacher_taps.values())
            self.teacher.forward(self.data['teacher_inputs'], paths)

    def student_step(self) -> None:
        """Forward, backward and optimizer step of the student alone."""
        self._step(
            self.student,
            self.optimizers[0],
            dict(inputs=self.data['inputs'], data_samples=self.data['data_samples']),
        )

    def base_step(self) -> None:
        """Teacher forward, then student step: what distillation can't do without."""
        self.teacher_forward()
        self.student_step()

    def distillation_step(self) -> None:
        """Forward, backward and optimizer step of the Distiller."""
        self._step(self.distiller, self.optimizers[1], self.data)

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, data: dict) -> None:
        with self._autocast():
            loss, _ = self.distiller.parse_losses(model(**data, mode='loss'))
        with self._phase('backward'):
            loss.backward()
        with self._phase('optimizer'):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)

    def flow_costs(self) -> dict[int, tuple[int, float]]:
        """Parameters, and GFLOPs of one step on one image, of the flow of each level."""
        (loss,) = (m for m in self.distiller.distill_losses.values() if isinstance(m, FMKTLoss))
        (name,) = (n for n, m in self.distiller.distill_losses.items() if m is loss)
        tap = self.distiller.student_taps[name]
        with torch.no_grad(), record(self.student, tap_paths([tap]), stop_early=True) as records:
            self.student(self.data['inputs'][:1], mode='tensor')
        levels = as_levels(read(records, tap, self.student))
        return {
            int(i): (num_parameters(flow), call_gflops(partial(flow, levels[int(i)], num_steps=1)))
            for i, flow in loss.flows.items()
        }

    def resident(self, distilled: bool) -> int:
        """Bytes held between two steps: both models, the optimizer's state, the batch.

        Args:
            distilled: Whether to count what is trained besides the student.
        """
        model = self.distiller if distilled else self.student
        states = self.optimizers[distilled].state.values()
        return resident_bytes(
            [
                *model.parameters(),
                *model.buffers(),
                *self.teacher.model.parameters(),
                *self.teacher.model.buffers(),
                *(t for state in states for t in state.values() if torch.is_tensor(t)),
                self.data['inputs'],
                self.data['teacher_inputs'],
            ]
        )

    def _phase(self, name: str) -> contextlib.AbstractContextManager:
        return self._watch.phase(name) if self._watch else contextlib.nullcontext()

    def phases(self, distilled: bool) -> dict[str, float]:
        """Seconds of each phase of a distillation step, or of the base step."""
        owners: list[tuple[Any, str]] = [
            (self.teacher, 'teacher forward'),
            (self.student, 'student forward'),
        ]
        for loss in self.distiller.distill_losses.values() if distilled else ():
            if isinstance(loss, FMKTLoss):
                owners += [(flow, 'flow forward') for flow in loss.flows.values()]
                owners += [(part, 'metric') for part in (*loss.objectives, loss.metric)]
        self._watch = Stopwatch(self.device)
        with self._watch.watching(owners), self._watch.phase('the rest'):
            (self.distillation_step if distilled else self.base_step)()
        watch, self._watch = self._watch, None
        return dict(watch.seconds)
