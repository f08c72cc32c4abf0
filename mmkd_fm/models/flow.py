"""A flow: meta-encoder, time embedding, schedule and the number of steps to take."""

from collections.abc import Sequence
from typing import Union

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from mmkd_fm.functional import Transport, draw_num_steps, get_schedule, transport
from mmkd_fm.models.meta_encoders import TimeEmbedding
from mmkd_fm.registry import MODELS, build_part


@MODELS.register_module()
class Flow(nn.Module):
    """Transports one feature map along a learned velocity (FM-KT, arXiv 2402.02012).

    One meta-encoder serves all steps.

    Args:
        channels: Channels of the feature map.
        meta_encoder: Config of the velocity network; it is given `channels`.
        schedule: Name of the noise schedule.
        num_steps: Steps of a training iteration, or several numbers to draw from: the draw is a
            pure function of `seed` and the iteration.
        seed: Seed of the draws.

    Raises:
        ValueError: If a number of steps is below 1, or the schedule is unknown.

    Example:
        >>> Flow(64, num_steps=[1, 2, 4])(torch.randn(2, 64, 32, 32)).endpoint
    """

    def __init__(
        self,
        channels: int,
        meta_encoder: dict = dict(type='mmkd_fm.ConvMetaEncoder'),  # noqa: B006 (read only)
        schedule: str = 'rectified',
        num_steps: Union[int, Sequence[int]] = (1, 2, 4),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_steps = (num_steps,) if isinstance(num_steps, int) else tuple(num_steps)
        if not self.num_steps or min(self.num_steps) < 1:
            raise ValueError(f'num_steps must be 1 or more in training, but got {num_steps}')
        get_schedule(schedule)
        self.schedule = schedule
        self.seed = seed
        self.time_embedding = TimeEmbedding(channels)
        self.meta_encoder = build_part(meta_encoder, 'MetaEncoder', channels=channels)

    def forward(self, x: Tensor) -> Transport:
        """Transport ``x``, shape (N, C, H, W), in float32 at least."""
        iteration = MessageHub.get_current_instance().get_info('iter', 0)
        steps = draw_num_steps(self.num_steps, self.seed, iteration)
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return transport(x, self.velocity, steps, self.schedule)

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """Velocity at the state ``z``, shape (N, C, H, W), and time ``t``, shape (N,)."""
        return self.meta_encoder(z, self.time_embedding(t)).to(z.dtype)
