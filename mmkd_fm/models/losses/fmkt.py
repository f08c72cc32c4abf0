"""FM-KT on feature pyramids: a flow for each level, trained serially (arXiv 2402.02012)."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor, nn

from mmkd_fm.functional import Transport, get_schedule
from mmkd_fm.models.alignment import Tapped, as_levels, pair_levels, projection
from mmkd_fm.models.losses.feature import Features
from mmkd_fm.registry import MODELS, build_part


@MODELS.register_module()
class EndpointMatching(nn.Module):
    """Compares each step's estimate of the teacher, decoded to its channels, with the teacher.

    The mapping is on the student's side, where it can't make the target easier.

    Args:
        student_channels: Channels of X^S.
        teacher_channels: Channels of X^T.
        schedule: Name of the noise schedule.
    """

    def __init__(self, student_channels: int, teacher_channels: int, schedule: str) -> None:
        super().__init__()
        del schedule
        self.decode = projection(student_channels, teacher_channels)

    def forward(self, x: Tensor, flow: Transport, teacher: Tensor, metric: nn.Module) -> Tensor:
        """Mean over the steps of ``metric(decode(estimate), X^T)``, a scalar."""
        del x
        losses = [metric(self.decode(estimate), teacher) for estimate in flow.estimates]
        return sum(losses) / len(losses)


@MODELS.register_module()
class VelocityMatching(nn.Module):
    """Compares each step's velocity with the target velocity to the mapped teacher T(X^T).

    T is BatchNorm and a 1x1 convolution to the student's channels, as in the authors' code. Trained
    by the flow loss it has a trivial solution, T(X^T) -> 0 and v -> X^S, which takes the detector
    with it; so T is frozen as it was drawn unless `train_teacher_map` asks for the authors' form.

    Args:
        student_channels: Channels of X^S.
        teacher_channels: Channels of X^T.
        schedule: Name of the noise schedule.
        train_teacher_map: Train T by this loss.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        schedule: str,
        train_teacher_map: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = get_schedule(schedule)
        self.teacher_map = nn.Sequential()
        self.teacher_map.add_module('bn', nn.BatchNorm2d(teacher_channels))
        self.teacher_map.add_module(
            'conv', nn.Conv2d(teacher_channels, student_channels, 1, bias=False)
        )
        if not train_teacher_map:
            nn.init.orthogonal_(self.teacher_map.conv.weight)
            self.teacher_map.requires_grad_(False)

    def forward(self, x: Tensor, flow: Transport, teacher: Tensor, metric: nn.Module) -> Tensor:
        """Mean over the steps of ``metric(target velocity, v)``, a scalar."""
        mapped = self.teacher_map(teacher)
        losses = [
            metric(self.schedule.velocity(x, mapped, time.expand(len(x))), velocity)
            for velocity, time in zip(flow.velocities, flow.times)
        ]
        return sum(losses) / len(losses)


@MODELS.register_module()
class FMKTLoss(nn.Module):
    """FM-KT with a flow that exists in training only: the exported student is the plain student.

    Besides the flow loss, the Theta term draws the student's own features X^S, which the head
    reads, to the detached result of the flow: ``metric(X^S, stopgrad(mean of the estimates))``.

    Args:
        flow: Arguments of `Flow`: meta_encoder, schedule, num_steps, seed.
        objective: Config of the objective, `EndpointMatching` or `VelocityMatching`.
        metric: Config of the metric: any registered loss of (student, teacher).
        theta_weight: Weight of the Theta term of each level, 0 switches it off.
        loss_weight: Weight of the flow loss of each level.
        levels: Indices of the student's levels to use; None takes all.

    Example:
        >>> fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', flow=dict(num_steps=[1, 2, 4]))
    """

    def __init__(
        self,
        flow: Optional[dict] = None,
        objective: dict = dict(type='mmkd_fm.EndpointMatching'),  # noqa: B006 (read only)
        metric: dict = dict(type='mmkd_fm.PKDLoss'),  # noqa: B006 (read only)
        theta_weight: float = 1.0,
        loss_weight: float = 1.0,
        levels: Optional[Sequence[int]] = None,
    ) -> None:
        super().__init__()
        self.flow_cfg = dict(dict(type='mmkd_fm.Flow'), **(flow or {}))
        self.objective_cfg = objective
        self.metric = build_part(metric, 'Loss')
        self.theta_weight = theta_weight
        self.loss_weight = loss_weight
        self.levels = levels

    def connect(self, student: Tapped, teacher: Tapped) -> None:
        """Pair the levels and make a flow and an objective for each."""
        self.pairs = pair_levels(student, teacher, self.levels)
        self.flows, self.objectives = nn.ModuleList(), nn.ModuleList()
        for i, j in self.pairs:
            channels = student.levels[i].channels
            flow = build_part(self.flow_cfg, 'Flow', channels=channels)
            objective = build_part(
                self.objective_cfg,
                'Matching',
                student_channels=channels,
                teacher_channels=teacher.levels[j].channels,
                schedule=flow.schedule,
            )
            self.flows.append(flow)
            self.objectives.append(objective)

    def forward(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        """Flow loss and Theta term, summed over the levels.

        Args:
            student: Levels of the student's pyramid, each (N, C, H, W).
            teacher: Levels of the teacher's pyramid.

        Returns:
            `loss`, `loss_theta` (if it has a weight), and the monitor `steps`.
        """
        students, teachers = as_levels(student), as_levels(teacher)
        matching, theta = [], []
        for (i, j), flow, objective in zip(self.pairs, self.flows, self.objectives):
            x = students[i].float() if students[i].dtype != torch.float64 else students[i]
            transported = flow(x)
            matching.append(objective(x, transported, teachers[j], self.metric))
            if self.theta_weight:
                theta.append(self.metric(x, transported.endpoint.detach()))
        result = {'loss': self.loss_weight * sum(matching)}
        if theta:
            result['loss_theta'] = self.theta_weight * sum(theta)
        result['steps'] = matching[0].new_tensor(float(len(transported.times)))
        return result
