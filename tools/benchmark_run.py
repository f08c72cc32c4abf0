"""Runs what benchmark.py measures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import ConfigDict
from rich.console import Console

from benchmark_logit import measure, number_of_calls, variants
from benchmark_measure import Meter, interleave, peak_memory
from benchmark_models import (
    default_encoder,
    exported_student,
    flow_student,
    plain_student,
    raw_batch,
    read_config,
    with_encoder,
    with_losses,
    with_random_teacher,
)
from benchmark_report import BARE, Cost, Inference, Report
from benchmark_training import Training
from complexity import gflops, num_parameters
from machine import device_name
from random_sample import learns_masks

NFES = (0, 1, 2, 4, 8)


class Benchmark:
    """All measurements of one run.

    Args:
        args: The command line.
        folder: Where the random teacher is written.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.device = args, torch.device(args.device)
        model, self.term, logit_term = read_config(args.config)
        parts = dict(fmkt=self.term, wttm=logit_term)
        if args.only and not parts[args.only]:
            raise ValueError(
                f'--only {args.only}: {args.config} has no such term; leave --only out'
            )
        self.parts = [part for part in parts if parts[part] and args.only in (None, part)]
        model = with_random_teacher(model, folder)
        self.warmup = 3 if self.device.type == 'cuda' else 1
        self.report = Report(self._settings())
        if 'wttm' in self.parts:
            self.logit_model = with_losses(model, variants(model.losses[logit_term], args.forms))
        if 'fmkt' in self.parts:
            self._choose_encoders(model)

    def _choose_encoders(self, model: ConfigDict) -> None:
        args = self.args
        self.model = (
            model if args.losses else with_losses(model, {self.term: model.losses[self.term]})
        )
        self.encoder = default_encoder(model, self.term)
        self.policy = list(self._train(self.encoder).policy)
        self.steps = sorted({*args.steps, *self.policy} - {0})
        self.checkpoints = dict(off=[False], on=[True], both=[False, True])[args.checkpoint]
        self.encoders = list(dict.fromkeys([self.encoder, *args.encoders]))
        self.report.encoder, self.report.policy = self.encoder, self.policy

    def _settings(self) -> dict:
        args = self.args
        return dict(
            config=os.path.relpath(args.config),
            size='x'.join(map(str, args.size)),
            batch=args.batch,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            amp='bfloat16' if args.amp else 'off',
            rounds=args.repeats,
        )

    def _train(self, encoder: str | None) -> Training:
        return self._training(with_encoder(self.model, self.term, encoder))

    def _training(self, model: ConfigDict) -> Training:
        batch = raw_batch(self.args.batch, self.args.size, learns_masks(model.student))
        return Training(model, batch, self.device, self.args.amp)

    def run(self, console: Console) -> Report:
        """Measure everything."""
        calls = dict(fmkt=self._flow_calls, wttm=self._logit_calls)
        meter = Meter(console, sum(calls[part]() for part in self.parts))
        with meter.progress:
            if 'fmkt' in self.parts:
                for encoder in [*[None] * (0 in self.args.steps), *self.encoders]:
                    self._measure(encoder, meter)
            if 'wttm' in self.parts:
                meter.name('logit losses')
                training = self._training(self.logit_model)
                rounds = self.args.repeats, self.warmup
                self.report.logits = measure(training, self.device, *rounds, meter)
        return self.report

    def _logit_calls(self) -> int:
        return number_of_calls(len(self.logit_model.losses), self.args.repeats, self.warmup)

    def _flow_calls(self) -> int:
        rounds, kinds = self.warmup + self.args.repeats, len(self.steps) * len(self.checkpoints)
        total = len(self.encoders) * (rounds * (2 + kinds) + 1 + kinds)
        total += (0 in self.args.steps) * (rounds * 3 + 2)
        return total + rounds * (2 + len(NFES)) + self.args.repeats * (1 + len(self.policy))

    def _measure(self, encoder: str | None, meter: Meter) -> None:
        """All training steps with one meta-encoder, or with none."""
        name = encoder or BARE
        meter.name(name)
        training = self._train(encoder)
        variants = (
            [(n, c) for n in self.steps for c in self.checkpoints] if encoder else [(0, False)]
        )
        calls = {
            variant: lambda variant=variant: training.choose(*variant).distillation_step()
            for variant in variants
        }
        calls.update(student=training.student_step, teacher=training.teacher_forward)
        seconds = interleave(calls, self.device, self.args.repeats, self.warmup, meter.tick)
        base = [sum(pair) for pair in zip(seconds['student'], seconds['teacher'])]
        base_memory = self._memory(training, training.base_step, False, meter)
        for variant in variants:
            memory = self._memory(training, calls[variant], True, meter)
            cost = Cost(name, *variant, seconds[variant], base, memory, base_memory)
            self.report.costs.append(cost)
        if encoder:
            self.report.flows[encoder] = training.flow_costs()
        if encoder == self.encoder:
            self.report.student, self.report.teacher = seconds['student'], seconds['teacher']
            self._phases(training, meter)
            self._inference(training, meter)

    def _memory(
        self, training: Training, call: Callable[[], None], distilled: bool, meter: Meter
    ) -> int:
        peak = peak_memory(call, self.device) + training.resident(distilled)
        meter.tick()
        return peak

    def _phases(self, training: Training, meter: Meter) -> None:
        """Where the time of the config's own step goes: means over rounds and numbers of steps."""
        meter.name('phases')
        rounds: dict[str, list[dict]] = dict(base=[], distillation=[])
        for _ in range(self.args.repeats):
            rounds['base'].append(training.phases(False))
            meter.tick()
            for steps in self.policy:
                rounds['distillation'].append(training.choose(steps, False).phases(True))
                meter.tick()
        for kind, found in rounds.items():
            self.report.phases[kind] = {
                phase: sum(one[phase] for one in found) / len(found) for phase in found[0]
            }

    @torch.no_grad()
    def _inference(self, training: Training, meter: Meter) -> None:
        """The students as they are deployed."""
        meter.name('inference')
        image = training.data['inputs'][:1]
        students = [
            ('plain', plain_student(self.model), None),
            ('exported', exported_student(self.model, training.distiller), None),
        ]
        flowing = flow_student(self.model, self.term)
        students += [(f'FlowNeck, NFE {nfe}', flowing, nfe) for nfe in NFES]

        def forward(model: torch.nn.Module, nfe: int | None) -> None:
            if nfe is not None:
                model.neck.nfe = nfe
            with torch.no_grad():
                model(image, mode='tensor')

        for _, model, _ in students:
            model.to(self.device)
        calls = {
            name: lambda model=model, nfe=nfe: forward(model, nfe) for name, model, nfe in students
        }
        seconds = interleave(calls, self.device, self.args.repeats, self.warmup, meter.tick)
        for name, model, nfe in students:
            if nfe is not None:
                model.neck.nfe = nfe
            self.report.students.append(
                Inference(name, num_parameters(model), gflops(model, image), seconds[name])
            )
