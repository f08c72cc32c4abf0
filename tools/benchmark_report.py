"""What benchmark.py measured, and what that says about the targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark_measure import policy_average, ratios

MOST_TIME = 1.15  # of the base, averaged over the numbers of steps that are drawn
MOST_MEMORY = 1.15  # of the base, with recomputation
MOST_LOGIT_TIME = 1.05  # of the base, with the config's logit loss alone
MOST_LOGIT_MEMORY = 3  # times the bytes of the student's logits, beyond the base
SAME_TIME = 0.05  # part by which two latencies may differ and count as equal
BARE = 'none'


@dataclass
class Cost:
    """One kind of training step.

    Attributes:
        encoder: Name of the meta-encoder; `BARE` for the metric alone.
        steps: Number of steps.
        checkpoint: Whether the steps are recomputed in the backward pass.
        seconds: Seconds in each round.
        base: Seconds of student step and teacher forward in the same rounds.
        memory: Peak bytes.
        base_memory: Peak bytes of teacher forward and student step.
    """

    encoder: str
    steps: int
    checkpoint: bool
    seconds: list[float]
    base: list[float]
    memory: int
    base_memory: int

    @property
    def time(self) -> list[float]:
        """Time over the base in each round."""
        return ratios(self.seconds, self.base)

    @property
    def space(self) -> float:
        """Peak memory over that of the base."""
        return self.memory / self.base_memory


@dataclass
class LogitCost:
    """One logit loss.

    Attributes:
        name: Kind of the loss.
        form: How it reads sigmoid logits.
        diagnostics: Whether it computes its monitors, 'on' or 'off'.
        seconds: Seconds of a training step with this loss only, in each round.
        alone: Seconds of its forward and backward on given logits likewise.
        student: Seconds of the student step likewise.
        teacher: Seconds of the teacher forward likewise.
        added: Bytes by which the peak of the step exceeds that of the same step without the loss,
            in which the teacher's logits are computed and held until the student's losses are.
        memory_alone: Peak bytes of its forward and backward, the gradient of the logits included.
        logits: Bytes of the student's logits.
        base_memory: Peak bytes without the loss.
    """

    name: str
    form: str
    diagnostics: str
    seconds: list[float]
    alone: list[float]
    student: list[float]
    teacher: list[float]
    added: int
    memory_alone: int
    logits: int
    base_memory: int

    @property
    def base(self) -> list[float]:
        """Seconds of student step and teacher forward."""
        return [sum(pair) for pair in zip(self.student, self.teacher)]

    @property
    def time(self) -> list[float]:
        """Time of the step over the base in each round."""
        return ratios(self.seconds, self.base)

    @property
    def space(self) -> float:
        """What the step adds to the memory, in logits."""
        return self.added / self.logits


@dataclass
class Inference:
    """One student at inference: parameters, GFLOPs of an image, seconds in each round."""

    name: str
    parameters: int
    gflops: float
    seconds: list[float]


@dataclass
class Report:
    """All that was measured.

    Attributes:
        settings: How it was measured.
        encoder: Meta-encoder of the config.
        policy: Numbers of steps that the config draws from.
        costs: Training steps.
        student: Seconds of the student step in each round, with the config's meta-encoder.
        teacher: Seconds of the teacher forward likewise.
        flows: Parameters and GFLOPs of a step for each level, by meta-encoder.
        students: Students at inference, first the plain one, then the exported one.
        phases: Seconds of each phase of the base step and of the distillation step.
        logits: Logit losses, the config's own one first.
    """

    settings: dict
    encoder: str = BARE
    policy: list[int] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    student: list[float] = field(default_factory=list)
    teacher: list[float] = field(default_factory=list)
    flows: dict[str, dict[int, tuple[int, float]]] = field(default_factory=dict)
    students: list[Inference] = field(default_factory=list)
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    logits: list[LogitCost] = field(default_factory=list)

    def average(self, encoder: str, checkpoint: bool) -> Cost | None:
        """A step as the config draws it: mean time over its policy, largest memory."""
        costs = {
            c.steps: c for c in self.costs if (c.encoder, c.checkpoint) == (encoder, checkpoint)
        }
        if not set(self.policy) <= set(costs):
            return None
        any_cost = costs[self.policy[0]]
        seconds = policy_average({n: cost.seconds for n, cost in costs.items()}, self.policy)
        memory = max(costs[n].memory for n in self.policy)
        return Cost(encoder, -1, checkpoint, seconds, any_cost.base, memory, any_cost.base_memory)

    def targets(self) -> list[tuple[str, str, bool | None]]:
        """What is aimed at, what was measured, and whether it is met; None if not measured."""
        return [
            *(self._flow_targets() if self.costs else []),
            *(self._logit_targets() if self.logits else []),
        ]

    def _logit_targets(self) -> list[tuple[str, str, bool | None]]:
        own = self.logits[0]
        return [
            (
                f'time of a step with {own.name} alone at most {MOST_LOGIT_TIME} of student step '
                f'+ teacher forward',
                spread(own.time, 3),
                statistics.median(own.time) <= MOST_LOGIT_TIME,
            ),
            (
                f'memory that {own.name} adds to them at most {MOST_LOGIT_MEMORY} times the '
                f"student's logits",
                f'{own.space:.2f}',
                own.space <= MOST_LOGIT_MEMORY,
            ),
        ]

    def _flow_targets(self) -> list[tuple[str, str, bool | None]]:
        step, recomputed = self.average(self.encoder, False), self.average(self.encoder, True)
        plain, exported = self.students[:2]
        slower = ratios(exported.seconds, plain.seconds)
        return [
            (
                f'time of a training step at most {MOST_TIME} of student step + teacher forward',
                spread(step.time, 3) if step else '-',
                statistics.median(step.time) <= MOST_TIME if step else None,
            ),
            (
                f'its peak memory with checkpoint=True at most {MOST_MEMORY} of theirs',
                f'{recomputed.space:.3f}' if recomputed else '-',
                recomputed.space <= MOST_MEMORY if recomputed else None,
            ),
            (
                'exported student: parameters of the plain one',
                f'{exported.parameters} and {plain.parameters}',
                exported.parameters == plain.parameters,
            ),
            (
                'exported student: GFLOPs of the plain one',
                f'{exported.gflops:.3f} and {plain.gflops:.3f}',
                exported.gflops == plain.gflops,
            ),
            (
                f'exported student: latency of the plain one within {SAME_TIME:.0%}',
                spread(slower, 3),
                abs(statistics.median(slower) - 1) <= SAME_TIME,
            ),
        ]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, smallest and largest, as in '1.12 (1.10-1.15)'."""
    middle, low, high = (f'{f(values):.{digits}f}' for f in (statistics.median, min, max))
    return f'{middle} ({low}-{high})'
