"""FlowNeck: the transported pyramid feeds the head, in training and at inference."""

import copy
from collections.abc import Sequence
from itertools import product
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_fm.functional import Transport
from mmkd_fm.functional.forms import precise
from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.alignment import check_levels
from mmkd_fm.models.flow import Flow, check_inference, is_pretrained, rename_plain
from mmkd_fm.models.probe import where_it_runs
from mmkd_fm.registry import MODELS, build_part


class FlowedPyramid(tuple):
    """The levels that the head reads, which remember where they come from.

    Attributes:
        sources: The wrapped neck's own levels, each (N, C, H, W).
        transports: The `Transport`, with its steps kept, of each level that has a flow.
        flows: The `Flow` of each such level.
    """

    sources: tuple[Tensor, ...]
    transports: dict[int, Transport]
    flows: dict[int, Flow]


@MODELS.register_module()
class FlowNeck(BaseModule):
    """Any neck with a flow behind its levels (the students of FM-KT's authors).

    It stands in the student's config: what it adds runs at inference too. Alone it trains like any
    neck; an `FMKTLoss` with ``flow='neck'`` draws its flows to the teacher.

    With 0 among `num_steps` the head also learns to read the neck's own features, so that one
    checkpoint serves with any number of steps, and with none as the plain detector.

    Args:
        neck: Config of the neck, or a list of configs.
        flow: Arguments of `Flow`: meta_encoder, time_embedding, schedule, num_steps, seed,
            warmup_epochs, checkpoint.
        levels: Indices of the levels that are transported; None takes all.
        nfe: Number of steps at inference, 0 or more.
        solver: Solver at inference: 'euler', or 'midpoint' and 'heun', which evaluate the network
            twice a step.
        in_channels: Channels of the levels that the neck is given; None takes them from its config.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If `nfe`, `levels` or `solver` is out of range, or the input channels unknown.

    Example:
        >>> neck = dict(type='mmkd_fm.FlowNeck', neck=dict(type='mmdet.FPN', ...), nfe=4)
    """

    def __init__(
        self,
        neck: Union[dict, list],
        flow: Optional[dict] = None,
        levels: Optional[Sequence[int]] = None,
        nfe: int = 4,
        solver: str = 'euler',
        in_channels: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        check_inference(nfe, solver)
        self.nfe = nfe
        self.solver = solver
        self.supervised = False  # set by a loss that reads the transports
        self.neck = MODELS.build(neck)
        with preserved_generators():  # the detector's own weights are drawn as without the flow
            channels = _output_channels(self.neck, _input_channels(neck, in_channels))
            wanted = range(len(channels)) if levels is None else levels
            if levels is not None:
                check_levels(levels, len(channels), 'the neck', f'{len(channels)}')
            self.flows = nn.ModuleDict(
                {
                    str(level): build_part(
                        dict(dict(type='mmkd_fm.Flow'), **(flow or {})),
                        'Flow',
                        channels=channels[level],
                    )
                    for level in sorted(wanted)
                }
            )
        self._start = copy.deepcopy(self.flows.state_dict())

    def init_weights(self) -> None:
        """Initialise the wrapped neck; flows begin as built, unless `init_cfg` loads them."""
        super().init_weights()
        if not is_pretrained(self.init_cfg):
            self.flows.load_state_dict(self._start)

    def forward(self, inputs: Any) -> tuple[Tensor, ...]:
        """The levels that the head reads: mean estimates in place of the wrapped neck's levels.

        They are float32 at least in training, but of 0 steps, and of the wrapped neck's dtype at
        inference.

        Args:
            inputs: What the wrapped neck takes.

        Raises:
            ValueError: In training, if 0 is among the numbers of steps and no loss reads the flow.
        """
        sources = tuple(self.neck(inputs))
        drawn = steps = self.nfe
        if self.training:  # the same draw for all levels
            drawn, steps = next(iter(self.flows.values())).draw_for_head(self.supervised)
        keep_steps = self.training and self.supervised
        outputs, transports, flows = list(sources), {}, {}
        for level, flow in self.flows.items() if steps else ():
            x = sources[int(level)]
            transported = flow(
                x,
                steps,
                solver='euler' if self.training else self.solver,
                keep_steps=keep_steps,
            )
            flows[int(level)], transports[int(level)] = flow, transported
            if drawn:
                endpoint = transported.endpoint
                # at inference as without the flow, so that half-precision heads can read it
                outputs[int(level)] = endpoint if self.training else endpoint.to(x.dtype)
        if flows and drawn and self.training:  # RoI extractors expect one dtype of all levels
            outputs = [precise(x) for x in outputs]
        if not keep_steps:
            return tuple(outputs)
        pyramid = FlowedPyramid(outputs)
        pyramid.sources, pyramid.transports, pyramid.flows = sources, transports, flows
        return pyramid

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        """Accept a checkpoint of the plain detector: its neck is the wrapped one."""
        rename_plain(self, state_dict, prefix, 'neck')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _input_channels(neck: Union[dict, list], given: Optional[Sequence[int]]) -> list[int]:
    """Channels of the maps that the neck takes."""
    first = neck[0] if isinstance(neck, (list, tuple)) else neck
    channels = given or first.get('in_channels')
    if not isinstance(channels, (list, tuple)):
        raise ValueError(
            f'{first.get("type")} does not say the channels of each level it takes: in_channels is '
            f'{channels!r}. Give them to FlowNeck: in_channels=[256, 512, 1024, 2048]'
        )
    return list(channels)


_COARSEST = (8, 32)
"""Sides of the coarsest map that a neck is measured with; SSD's shrinks it more than others do."""


@torch.no_grad()
def _output_channels(neck: nn.Module, in_channels: list[int]) -> list[int]:
    """Channels of the maps that the neck gives, from one small forward.

    Necks take the finest map first, but not all name its channels first: YOLOv3's begins with the
    coarsest.
    """
    neck.eval()
    orders = [in_channels] if in_channels == in_channels[::-1] else [in_channels, in_channels[::-1]]

    def channels(device: torch.device) -> list[int]:
        failures = []
        for order, coarsest in product(orders, _COARSEST):
            sides = [coarsest * 2**i for i in reversed(range(len(order)))]
            maps = [torch.zeros(1, c, s, s, device=device) for c, s in zip(order, sides)]
            try:
                return [x.shape[1] for x in neck(tuple(maps))]
            except Exception as error:
                failures.append(error)
        raise failures[0]

    found = where_it_runs(neck, channels)
    neck.train()
    return found
