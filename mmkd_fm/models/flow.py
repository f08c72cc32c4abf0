"""A flow: meta-encoder, time embedding, schedule and the number of steps to take."""

from collections.abc import Callable, Sequence
from typing import Optional, Union

import torch
from mmengine.logging import MessageHub
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from mmkd_fm.functional import (
    Transport,
    check_num_steps,
    decouple_pairs,
    draw_num_steps,
    get_schedule,
    transport,
    warm_up_num_steps,
)
from mmkd_fm.functional.transport import SOLVERS
from mmkd_fm.registry import MODELS, build_part


@MODELS.register_module()
class Flow(nn.Module):
    """Transports one feature map along a learned velocity (FM-KT, arXiv 2402.02012).

    One meta-encoder serves all steps. It predicts the residual X^S - X^T, which for the rectified
    flow is the velocity itself.

    Args:
        channels: Channels of the feature map.
        meta_encoder: Config of the velocity network; it is given `channels`.
        time_embedding: Config of the time embedding; it is given `channels`.
        schedule: Name of the noise schedule.
        num_steps: Steps of a training iteration, or several numbers to draw from: the draw is a
            pure function of `seed` and the iteration.
        seed: Seed of the draws.
        warmup_epochs: Limits the steps early in training, see `warm_up_num_steps`; 0 does not. For
            runs of several epochs: others, as those by iterations, have no later epoch.
        checkpoint: Recompute each step in the backward pass: less memory, more time.

    Raises:
        ValueError: If a number of steps or epochs is negative or not whole, or a name unknown.

    Example:
        >>> Flow(64, num_steps=[1, 2, 4])(torch.randn(2, 64, 32, 32)).endpoint
    """

    def __init__(
        self,
        channels: int,
        meta_encoder: dict = dict(type='mmkd_fm.DepthwiseMetaEncoder'),  # noqa: B006 (read only)
        time_embedding: dict = dict(type='mmkd_fm.LinearTimeEmbedding'),  # noqa: B006
        schedule: str = 'rectified',
        num_steps: Union[int, Sequence[int]] = (1, 2, 4),
        seed: int = 0,
        warmup_epochs: int = 0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.num_steps = check_num_steps(num_steps)
        if (
            isinstance(warmup_epochs, bool)
            or not isinstance(warmup_epochs, int)
            or warmup_epochs < 0
        ):
            raise ValueError(
                f'warmup_epochs must be a whole number of epochs, 0 for none, but got '
                f'{warmup_epochs!r}'
            )
        self.schedule = get_schedule(schedule)
        self.seed = seed
        self.warmup_epochs = warmup_epochs
        self.checkpoint = checkpoint
        self.run: Optional[str] = None  # the one it is trained in; None: that made last
        self.time_embedding = build_part(time_embedding, 'TimeEmbedding', channels=channels)
        self.meta_encoder = build_part(meta_encoder, 'MetaEncoder', channels=channels)

    def draw_num_steps(self) -> int:
        """Number of steps of the current training iteration, 0 if that is drawn.

        Raises:
            ValueError: If there is a warm-up, but the run has no second epoch.
        """
        return self._limited(draw_num_steps(self.num_steps, self.seed, self._progress('iter')))

    def _limited(self, num_steps: int) -> int:
        """``num_steps``, but no more than the warm-up allows now."""
        if self.warmup_epochs and self._progress('max_epochs') == 1:  # the limit would stay 1
            raise ValueError(
                f'warmup_epochs={self.warmup_epochs} counts epochs, but this run has a single one, '
                f'as all runs of IterBasedTrainLoop have, so that the warm-up would never end; '
                f'train with EpochBasedTrainLoop, or set warmup_epochs=0'
            )
        return warm_up_num_steps(num_steps, self._progress('epoch'), self.warmup_epochs)

    def _progress(self, key: str) -> int:
        """The current 'iter' or 'epoch' of the training, or its 'max_epochs'; 0 outside."""
        if self.run is not None and MessageHub.check_instance_created(self.run):
            return MessageHub.get_instance(self.run).get_info(key, 0)
        return MessageHub.get_current_instance().get_info(key, 0)

    def draw_for_head(self, supervised: bool) -> tuple[int, int]:
        """Steps of this iteration that a head sees, and steps that are taken.

        Args:
            supervised: Whether a loss reads the transport.

        Raises:
            ValueError: If 0 is among the numbers of steps and no loss reads the transport, or as
                `draw_num_steps` does.
        """
        if 0 in self.num_steps and not supervised:
            raise ValueError(
                f'num_steps={list(self.num_steps)}: with 0 steps nothing trains the flow unless a '
                f"loss does. Leave 0 out, or add an FMKTLoss with flow='neck' (for a classifier "
                f"an FMKTLogitLoss with flow='head') to a Distiller"
            )
        drawn = self.draw_num_steps()
        # with 0 drawn the flow is transported for the loss, so that all parameters get gradients
        return drawn, drawn or self._limited(min(n for n in self.num_steps if n))

    def pair_teachers(self, batch_size: int, ratio: float) -> Tensor:
        """Whose teacher each sample is compared with in this iteration: see `decouple_pairs`."""
        return decouple_pairs(batch_size, ratio, self.seed, self._progress('iter'))

    def forward(
        self,
        x: Tensor,
        num_steps: Optional[int] = None,
        solver: str = 'euler',
        step_loss: Optional[Callable[[Tensor, Tensor, Tensor], Tensor]] = None,
        keep_steps: bool = False,
        states: Optional[Callable[[Tensor], Tensor]] = None,
    ) -> Transport:
        """Transport ``x``, in float32 at least.

        The networks are given the state in the dtype of their parameters, so that the flow of a
        half-precision model runs; the times stay in that of the state.

        Args:
            x: Shape (N, C, H, W).
            num_steps: Number of steps; None draws that of the iteration.
            solver: As for `transport`.
            step_loss: As for `transport`.
            keep_steps: As for `transport`.
            states: As for `transport`.

        Raises:
            ValueError: If an embedding or a velocity has not the shape of the state.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        dtype = next(self.parameters(), x).dtype

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            given = z.to(dtype)
            t_embedding = self.time_embedding(t, given)
            if t_embedding.ndim != z.ndim:  # (N, C) would be added along the wrong axes
                raise ValueError(
                    f'a time embedding is added to the state, shape (N, C, 1, 1) or (N, C, H, W), '
                    f'but {type(self.time_embedding).__name__} gave {tuple(t_embedding.shape)}'
                )
            residual = self.meta_encoder(given, t_embedding).to(z.dtype)
            if residual.shape != z.shape:
                raise ValueError(
                    f'a meta-encoder keeps channels and size: {type(self.meta_encoder).__name__} '
                    f'was given {tuple(z.shape)}, but returned {tuple(residual.shape)}'
                )
            return self.schedule.residual_velocity(x, residual, t)

        return transport(
            x,
            velocity,
            self.draw_num_steps() if num_steps is None else num_steps,
            self.schedule,
            solver=solver,
            step_loss=step_loss,
            checkpoint=self.checkpoint and self.training,
            keep_steps=keep_steps,
            states=states,
        )


def flow_in_training(config: dict, channels: int, keeper: str, option: str) -> Flow:
    """Build a flow that the exported student does not have.

    Args:
        config: Arguments of `Flow`, or of another ``type``.
        channels: Channels of the states.
        keeper: Type of the student's part that would keep a flow.
        option: The ``flow`` of a loss that trains that one.

    Raises:
        ValueError: If 0 is among its numbers of steps.
    """
    flow = build_part(dict(dict(type='mmkd_fm.Flow'), **config), 'Flow', channels=channels)
    if 0 in flow.num_steps:
        raise ValueError(
            f'num_steps={list(flow.num_steps)}: with a flow in training only, the head always '
            f'reads the features of 0 steps; leave 0 out. A student that works with any number of '
            f'steps has a {keeper} in its config, and here flow={option!r}'
        )
    return flow


def check_inference(nfe: int, solver: str) -> None:
    """Check how a flow is to run at inference.

    Raises:
        ValueError: If ``nfe`` is negative or not whole, or the solver unknown.
    """
    if isinstance(nfe, bool) or not isinstance(nfe, int) or nfe < 0:
        raise ValueError(f'nfe must be a whole number of steps, 0 or more, but got {nfe!r}')
    if solver not in SOLVERS:
        raise ValueError(f'unknown solver {solver!r}; valid names: {", ".join(sorted(SOLVERS))}')


def check_kept(owner: str, kept: bool) -> None:
    """Say where the steps of a flow are kept.

    Raises:
        RuntimeError: If they were not.
    """
    if not kept:
        raise RuntimeError(
            f'the {owner} keeps its steps in training mode alone; call model.train() before '
            f'computing the loss. Of a module that is recomputed (activation_checkpointing) they '
            f'are lost: take it out there, and set checkpoint=True of its flow'
        )


def rename_plain(module: nn.Module, state_dict: dict, prefix: str, wrapped: str) -> None:
    """Let a module with a flow read the state of the plain part that it wraps.

    A part of its own state, such as buffers alone, is left as it is.

    Args:
        module: The module with the flow.
        state_dict: What is loaded, changed in place.
        prefix: Of the module's keys.
        wrapped: Name of the wrapped part.
    """
    names = [key[len(prefix) :] for key in state_dict if key.startswith(prefix)]
    if not module.state_dict().keys() & set(names):
        for name in names:
            state_dict[f'{prefix}{wrapped}.{name}'] = state_dict.pop(f'{prefix}{name}')


def is_pretrained(init_cfg: Union[dict, list, None]) -> bool:
    """Whether an `init_cfg` of mmengine loads a checkpoint."""
    configs = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
    return any(config.get('type') in ('Pretrained', PretrainedInit) for config in configs)
