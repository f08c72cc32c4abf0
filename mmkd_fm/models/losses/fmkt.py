"""FM-KT on feature pyramids: a flow for each level, trained serially (arXiv 2402.02012)."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from mmkd_fm.functional import Transport, decouple_pairs
from mmkd_fm.models.alignment import Tapped, as_levels, match_size, pair_levels
from mmkd_fm.models.flow import Flow, check_kept, flow_in_training
from mmkd_fm.models.flow_neck import FlowedPyramid, FlowNeck
from mmkd_fm.models.losses.feature import Features
from mmkd_fm.models.losses.matching import VelocityMatching
from mmkd_fm.models.losses.metric import build_metric
from mmkd_fm.registry import MODELS, build_part


@MODELS.register_module()
class FMKTLoss(nn.Module):
    """Draws flows from the student's pyramid to the teacher's.

    With ``flow=dict(...)`` the flows belong to this loss and exist in training only: the exported
    student is the plain student. X^S is what the tap gives: of a `FlowNeck` what the head reads,
    the result of its flow (``tap='neck.neck'`` gives the wrapped neck's levels). Besides the flow
    loss, the Theta term draws the student's own features X^S, which the head reads, to the detached
    result of the flow: ``metric(X^S, stopgrad(mean of the estimates))``.

    The source term compares the student's own features with the teacher, decoded as the estimates
    are: what the flow loss would be without a step. A flow that takes a share of the way leaves
    X^S, which the head reads, the further behind; this term asks X^S to go all of it.

    With ``flow='neck'`` the flows are those of the student's `FlowNeck`, whose result the head
    reads, in training and at inference, and X^S are the wrapped neck's levels.

    Flows run at the size of the student's maps; where the teacher's differ, estimates and
    velocities are resized to be compared.

    Args:
        flow: Arguments of `Flow` (meta_encoder, time_embedding, schedule, num_steps, seed,
            warmup_epochs, checkpoint), or 'neck'.
        objective: Config of the objective, `EndpointMatching` or `VelocityMatching`.
        metric: Config of the metric: any registered loss of (student, teacher).
        theta_weight: Weight of the Theta term of each level, 0 switches it off. None is 1 where the
            head reads X^S, with ``flow=dict(...)`` or with 0 among the FlowNeck's numbers of steps,
            and 0 where it never does.
        source_weight: Weight of the source term of each level, 0 switches it off. The objective
            must be one that decodes estimates, as `EndpointMatching` does.
        pair_ratio: Share of the batch that is compared with its own teacher; the other teachers
            are permuted among themselves (pair decoupling). 1 permutes none.
        teacher_forcing: Start each step from the interpolant of X^S and the mapped teacher, as
            ordinary flow matching does, in the place of the state that the step before ended in.
            An ablation of serial training: such a flow reads the teacher, which it lacks
            afterwards. For `VelocityMatching` and flows in training only.
        loss_weight: Weight of the flow loss of each level. The Distiller leaves the whole term out
            where it is 0: nothing else trains the flow that the Theta term compares with.
        levels: Indices of the student's levels to use; None takes those that have the stride of one
            of the teacher's, or those of the FlowNeck.

    Raises:
        ValueError: If a name is unknown, a number out of range, or teacher forcing asked for where
            there is none.

    Example:
        >>> fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', flow=dict(num_steps=[1, 2, 4]))
    """

    def __init__(
        self,
        flow: Union[dict, str, None] = None,
        objective: dict = dict(type='mmkd_fm.EndpointMatching'),  # noqa: B006 (read only)
        metric: dict = dict(type='mmkd_fm.PKDLoss'),  # noqa: B006 (read only)
        theta_weight: Optional[float] = None,
        source_weight: float = 0.0,
        pair_ratio: float = 1.0,
        teacher_forcing: bool = False,
        loss_weight: float = 1.0,
        levels: Optional[Sequence[int]] = None,
    ) -> None:
        super().__init__()
        if flow != 'neck' and not isinstance(flow, (dict, type(None))):
            raise ValueError(f"flow is a dict with the arguments of Flow, or 'neck'; got {flow!r}")
        decouple_pairs(1, pair_ratio, 0, 0)  # checks the ratio
        if teacher_forcing and flow == 'neck':
            raise ValueError(
                "teacher_forcing: with flow='neck' the head reads what the flow makes, in training "
                'as at inference, where there is no teacher; take flow=dict(...) or leave it out'
            )
        self.flow_cfg = flow or {}
        self.objective_cfg = objective
        self.metric = build_metric(metric)
        own = flow != 'neck'
        self.theta_weight = 1.0 if theta_weight is None and own else theta_weight
        self.source_weight = source_weight
        self.pair_ratio = pair_ratio
        self.teacher_forcing = teacher_forcing
        self.loss_weight = loss_weight
        self.levels = levels

    def connect(self, student: Tapped, teacher: Tapped) -> None:
        """Pair the levels, and make or find the flow and an objective for each.

        Raises:
            ValueError: If the pyramids don't fit, or there is no FlowNeck or one too many.
        """
        if self.flow_cfg == 'neck':
            flows = self._neck_flows(student)
            if self.theta_weight is None:
                self.theta_weight = float(any(0 in flow.num_steps for flow in flows.values()))
            self.pairs = _pairs_of_neck(student, teacher, list(flows))
        else:
            self.pairs = pair_levels(student, teacher, self.levels)
            flows = self.flows = nn.ModuleDict(
                {
                    str(i): flow_in_training(
                        self.flow_cfg, student.levels[i].channels, 'FlowNeck', 'neck'
                    )
                    for i, _ in self.pairs
                }
            )
        self.objectives = nn.ModuleList(
            build_part(
                self.objective_cfg,
                'Matching',
                student_channels=student.levels[i].channels,
                teacher_channels=teacher.levels[j].channels,
                schedule=flow.schedule,
            )
            for (i, j), flow in zip(self.pairs, flows.values())
        )
        if self.teacher_forcing and not isinstance(self.objectives[0], VelocityMatching):
            raise ValueError(
                f'teacher_forcing mixes X^S with the teacher in the channels of X^S, to which '
                f'VelocityMatching maps it, but {type(self.objectives[0]).__name__} does not; take '
                f"objective=dict(type='mmkd_fm.VelocityMatching')"
            )
        if self.source_weight and not hasattr(self.objectives[0], 'decode'):
            raise ValueError(
                f'source_weight={self.source_weight}: the source term decodes the features as '
                f'EndpointMatching decodes estimates, but {type(self.objectives[0]).__name__} '
                f'decodes nothing; set source_weight=0, or take '
                f"objective=dict(type='mmkd_fm.EndpointMatching')"
            )
        self._check_scale()

    def _check_scale(self) -> None:
        """Refuse, or tell of, velocities whose size the metric does not see."""
        scaled = any(getattr(objective, 'needs_scale', False) for objective in self.objectives)
        if not (scaled and getattr(self.metric, 'ignores_scale', False)):
            return
        pair = f'{type(self.objectives[0]).__name__} with {type(self.metric).__name__}'
        if self.flow_cfg != 'neck':
            raise ValueError(
                f'{pair}: the metric ignores scale, so that nothing teaches the size of a '
                f'velocity, nor moves one that starts at 0; use '
                f"metric=dict(type='mmkd_fm.MSELoss') or "
                f"objective=dict(type='mmkd_fm.EndpointMatching') (docs/fmkt.md)"
            )
        print_log(
            f"{pair}: the metric ignores scale, so that the student's own losses alone teach the "
            f'size of a velocity (docs/fmkt.md)',
            'current',
            logging.WARNING,
        )

    def _neck_flows(self, student: Tapped) -> dict[int, Flow]:
        neck = student.module
        if not isinstance(neck, FlowNeck):
            raise ValueError(
                f"flow='neck' reads the flows of a FlowNeck, but {student} is "
                f'{type(neck).__name__}; wrap it in the student: '
                f"neck=dict(type='mmkd_fm.FlowNeck', neck=...)"
            )
        flows = {int(level): flow for level, flow in neck.flows.items()}
        if self.levels is not None and sorted(self.levels) != list(flows):
            raise ValueError(
                f'levels={list(self.levels)}, but the FlowNeck transports {list(flows)}; leave '
                f'levels out here: which have a flow says neck=dict(levels=...) of the student'
            )
        neck.supervised = True
        return flows

    def forward(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        """Flow loss, Theta term and source term, summed over the levels.

        Args:
            student: Levels of the student's pyramid, each (N, C, H, W).
            teacher: Levels of the teacher's pyramid.

        Returns:
            `loss`, `loss_theta` and `loss_source` (where they have a weight), and the monitor
            `steps`.

        Raises:
            RuntimeError: If the FlowNeck kept no steps, as in eval mode.
        """
        from_neck = self.flow_cfg == 'neck'
        check_kept('FlowNeck', not from_neck or isinstance(student, FlowedPyramid))
        students = student.sources if from_neck else as_levels(student)
        teachers = as_levels(teacher)
        matching, theta, source, pairing = [], [], [], slice(None)
        for (i, j), objective in zip(self.pairs, self.objectives):
            x = students[i].to(torch.promote_types(students[i].dtype, torch.float32))
            flow = student.flows[i] if from_neck else self.flows[str(i)]
            if self.pair_ratio < 1:
                pairing = flow.pair_teachers(len(x), self.pair_ratio).to(x.device)
            target = objective.target(teachers[j][pairing])
            compare = partial(
                _compare, objective, x=match_size(x, target), target=target, metric=self.metric
            )
            if from_neck:
                transported = student.transports[i]
                loss = compare_steps(transported, compare, flow.checkpoint)
            else:
                states = (
                    partial(flow.schedule.interpolate, x, match_size(target, x))
                    if self.teacher_forcing
                    else None
                )
                transported = flow(x, step_loss=compare, states=states)
                loss = transported.loss
            matching.append(loss)
            if self.source_weight:
                source.append(self.metric(objective.decode(match_size(x, target)), target))
            if self.theta_weight:
                theta.append(self.metric(x, transported.endpoint.detach()))
        result = {'loss': self.loss_weight * sum(matching)}
        if theta:
            result['loss_theta'] = self.theta_weight * sum(theta)
        if source:
            result['loss_source'] = self.source_weight * sum(source)
        result['steps'] = matching[0].new_tensor(float(len(transported.times)))
        return result


def _pairs_of_neck(
    student: Tapped, teacher: Tapped, transported: list[int]
) -> list[tuple[int, int]]:
    """Pairs of all levels that a FlowNeck transports."""
    partners = dict(pair_levels(student, teacher))
    alone = [i for i in transported if i not in partners]
    if alone:
        raise ValueError(
            f'the FlowNeck transports {transported}, but of {student} the levels {alone} have no '
            f'partner in {teacher}; transport those alone that have one, in the student: '
            f'neck=dict(levels={[i for i in transported if i in partners] or list(partners)}, ...)'
        )
    return [(i, partners[i]) for i in transported]


def _compare(
    objective: nn.Module, estimate: Tensor, velocity: Tensor, t: Tensor, **of_level: Any
) -> Tensor:
    """The objective of one step, at the size of the target."""
    maps = (match_size(x, of_level['target']) for x in (estimate, velocity))
    return objective(*maps, t, **of_level)


def compare_steps(
    transported: Transport, compare: Callable[[Tensor, Tensor, Tensor], Tensor], checkpoint: bool
) -> Tensor:
    """Mean of the step losses of a transport that was made before, with its steps kept.

    Args:
        transported: The transport.
        compare: Called as ``compare(estimate, velocity, t)`` at each step; returns a scalar.
        checkpoint: Recompute each in the backward pass.
    """
    losses = []
    for estimate, velocity, time in zip(*transported[1:4]):
        step = (estimate, velocity, time.expand(len(estimate)))
        losses.append(
            recompute_in_backward(compare, *step, use_reentrant=False)
            if checkpoint
            else compare(*step)
        )
    return sum(losses) / len(losses)
