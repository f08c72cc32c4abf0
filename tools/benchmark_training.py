"""A Distiller ready for training steps: what benchmark.py times."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from benchmark_measure import Stopwatch, resident_bytes
from complexity import call_gflops, num_parameters
from mmkd_fm.models import Flow, FMKTLoss
from mmkd_fm.models.alignment import as_levels
from mmkd_fm.models.taps import Records, read, record, tap_paths
from mmkd_fm.registry import MODELS


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
        self.losses = dict(self.distiller.distill_losses.items())
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

    def keep(self, *terms: str) -> Training:
        """Leave these losses only; without any, the teacher runs all the same."""
        self.distiller.distill_losses = nn.ModuleDict({term: self.losses[term] for term in terms})
        return self

    def teacher_forward(self) -> Records:
        """What the teacher computes for a distillation step, and no more."""
        with self._autocast():
            return self.teacher.forward(self.data['teacher_inputs'], self.distiller.teacher_paths)

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

    @torch.no_grad()
    def student_output(self, term: str, inputs: Tensor) -> Any:
        """What the student gives at the tap of a loss."""
        tap = self.distiller.student_taps[term]
        with record(self.student, tap_paths([tap]), stop_early=True) as records:
            self.student(inputs, mode='tensor')
        return read(records, tap, self.student)

    def logit_bytes(self, term: str) -> int:
        """Bytes of the logits that the student gives a loss."""
        return resident_bytes(self._logits(term))

    def _logits(self, term: str) -> list[Tensor]:
        with self._autocast():
            return as_levels(self.student_output(term, self.data['inputs']))

    def loss_alone(self, term: str) -> Callable[[], None]:
        """Forward and backward of a loss, on logits that both models gave before."""
        loss, taps = self.losses[term], self.distiller.teacher_taps[term]
        student = [level.detach().requires_grad_() for level in self._logits(term)]
        teacher = read(self.teacher_forward(), taps, self.teacher.model)
        more = {}
        if 'data_samples' in signature(loss.forward).parameters:
            more['data_samples'] = self.data['data_samples']

        def call() -> None:
            result = loss(student, teacher, **more)
            torch.autograd.grad(result['loss'] if isinstance(result, dict) else result, student)

        return call

    def flow_costs(self) -> dict[int, tuple[int, float]]:
        """Parameters, and GFLOPs of one step on one image, of the flow of each level."""
        (loss,) = (m for m in self.distiller.distill_losses.values() if isinstance(m, FMKTLoss))
        (name,) = (n for n, m in self.distiller.distill_losses.items() if m is loss)
        levels = as_levels(self.student_output(name, self.data['inputs'][:1]))
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
