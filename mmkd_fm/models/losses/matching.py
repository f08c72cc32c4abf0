"""Objectives of FM-KT: what each step of a flow is compared with."""

from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.functional import get_schedule
from mmkd_fm.models.alignment import projection
from mmkd_fm.registry import MODELS


@MODELS.register_module()
class EndpointMatching(nn.Module):
    """Compares each step's estimate of the teacher, decoded to its channels, with the teacher.

    The mapping is on the student's side, where it can't make the target easier.

    Args:
        student_channels: Channels C_S of X^S.
        teacher_channels: Channels C_T of X^T.
        schedule: Name of the noise schedule.
        project: Decode by a trained 1x1 convolution also where C_S = C_T, see `FeatureLoss`.

    Example:
        >>> matching = EndpointMatching(64, 256, 'rectified')
        >>> x, v, t = torch.randn(2, 64, 8, 8), torch.randn(2, 64, 8, 8), torch.ones(2)
        >>> matching(x - v, v, t, x, torch.randn(2, 256, 8, 8), PKDLoss())
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, schedule: str, project: bool = False
    ) -> None:
        super().__init__()
        del schedule
        self.decode = projection(student_channels, teacher_channels, project)

    def target(self, teacher: Tensor) -> Tensor:
        """What all steps are compared with: X^T itself, shape (N, C_T, H, W)."""
        return teacher

    def forward(
        self,
        estimate: Tensor,
        velocity: Tensor,
        t: Tensor,
        x: Tensor,
        target: Tensor,
        metric: nn.Module,
    ) -> Tensor:
        """``metric(decode(estimate), X^T)`` of one step, a scalar.

        Args:
            estimate: The teacher as estimated at this step, shape (N, C_S, H, W).
            velocity: The velocity at this step, likewise.
            t: Time of the step, shape (N,).
            x: X^S, shape (N, C_S, H, W).
            target: What `target` returned.
            metric: Called as ``metric(student, teacher)``.
        """
        del velocity, t, x
        return metric(self.decode(estimate), target)


@MODELS.register_module()
class VelocityMatching(nn.Module):
    """Compares each step's velocity with the target velocity to the mapped teacher T(X^T).

    T is BatchNorm and a 1x1 convolution to the student's channels, as in the authors' code, but
    without a stride: where sizes differ, maps of the student are resized. Trained by the flow loss
    it has a trivial solution, T(X^T) -> 0 and v -> X^S, after which a head that reads the end of
    the flow is given nothing; so T is frozen as it was drawn unless `train_teacher_map` asks for
    the authors' form.
    The metric must see the size of the velocity (`MSELoss`, not `PKDLoss`), or X^S - v is anything,
    unless a head that reads the end of the flow teaches the size (``flow='neck'``).

    Args:
        student_channels: Channels C_S of X^S.
        teacher_channels: Channels C_T of X^T.
        schedule: Name of the noise schedule.
        train_teacher_map: Train T by this loss.

    Raises:
        ValueError: If the schedule is unknown.

    Example:
        >>> matching = VelocityMatching(64, 256, 'rectified')
        >>> x, v, t = torch.randn(2, 64, 8, 8), torch.randn(2, 64, 8, 8), torch.ones(2)
        >>> target = matching.target(torch.randn(2, 256, 8, 8))
        >>> matching(x - v, v, t, x, target, MSELoss())
    """

    needs_scale = True

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

    def target(self, teacher: Tensor) -> Tensor:
        """What all steps are compared with: T(X^T), shape (N, C_S, H, W).

        A single value of each channel has no deviation: it is normalised as in evaluation.
        """
        bn, conv = self.teacher_map
        if bn.training and teacher.numel() == teacher.shape[1]:
            statistics = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
            return conv(F.batch_norm(teacher, *statistics, eps=bn.eps))
        return self.teacher_map(teacher)

    def forward(
        self,
        estimate: Tensor,
        velocity: Tensor,
        t: Tensor,
        x: Tensor,
        target: Tensor,
        metric: nn.Module,
    ) -> Tensor:
        """``metric(target velocity, v)`` of one step, a scalar; arguments as `EndpointMatching`."""
        del estimate
        return metric(self.schedule.velocity(x, target, t), velocity)
