"""What a logit loss costs on a dense head: WTTM, and TTM and KD beside it, in each form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmengine.config import ConfigDict

from benchmark_measure import Meter, interleave, peak_memory
from benchmark_models import LOGIT_LOSSES
from benchmark_report import LogitCost
from benchmark_training import Training

FORMS = ('bernoulli', 'background_softmax')
OWN = {  # arguments that not all of the losses have
    'WTTMLoss': {'gamma', 'sharpen'},
    'TTMLoss': {'gamma', 'sharpen'},
    'KDLoss': {'temperature'},
}


def variants(loss: ConfigDict, forms: Sequence[str] = FORMS) -> dict[str, dict]:
    """Configs of the losses to be compared: each kind in each form, the config's own one first.

    It is there a second time, without diagnostics.

    Args:
        loss: The config's logit term. What it says of taps and locations holds for all.
        forms: Forms besides its own.
    """
    kind, form = loss.type.rpartition('.')[2], loss.get('form') or FORMS[0]
    configs = {}
    for other in sorted(LOGIT_LOSSES, key=lambda name: name != kind):
        foreign = set().union(*OWN.values()) - OWN[other]
        arguments = {key: value for key, value in loss.items() if key not in foreign}
        for other_form in dict.fromkeys([form, *forms]):
            for diagnostics in (True, False) if (other, other_form) == (kind, form) else (True,):
                name = (other[: -len('Loss')].lower(), other_form, 'on' if diagnostics else 'off')
                configs[' '.join(name)] = dict(
                    arguments,
                    type=f'mmkd_fm.{other}',
                    form=other_form,
                    diagnostics=diagnostics,
                    loss_weight=1.0,
                )
    return configs


def number_of_calls(losses: int, repeats: int, warmup: int) -> int:
    """How often `measure` ticks."""
    return 1 + 2 * losses + (repeats + warmup - 1) * (2 + 2 * losses)


def measure(
    training: Training, device: torch.device, repeats: int, warmup: int, meter: Meter
) -> list[LogitCost]:
    """Cost of each loss of a training: in a step, and by itself on logits that are there.

    Args:
        training: Its losses are those of `variants`.
        device: Where it runs.
        repeats: Number of rounds that count.
        warmup: Number of rounds before them; the measurement of the memory is the first of them.
        meter: Shows how far it is.
    """
    names = list(training.losses)
    steps = {
        name: lambda name=name: training.keep(name).distillation_step() for name in training.losses
    }
    alone = {name: training.loss_alone(name) for name in names}
    training.student_step()  # from now on the optimizers have their state
    steps[names[0]]()

    def memory(call: Callable[[], None]) -> int:
        peak = peak_memory(call, device)
        meter.tick()
        return peak

    base = memory(lambda: training.keep().distillation_step())
    added = {name: memory(steps[name]) - base for name in names}
    by_itself = {name: memory(alone[name]) for name in names}
    calls = {('step', name): call for name, call in steps.items()}
    calls.update({('alone', name): call for name, call in alone.items()})
    calls.update(student=training.student_step, teacher=training.teacher_forward)
    seconds = interleave(calls, device, repeats, warmup - 1, meter.tick)
    return [
        LogitCost(
            *name.split(),
            seconds=seconds['step', name],
            alone=seconds['alone', name],
            student=seconds['student'],
            teacher=seconds['teacher'],
            added=added[name],
            memory_alone=by_itself[name],
            logits=training.logit_bytes(name),
            base_memory=base + training.resident(True),
        )
        for name in names
    ]
