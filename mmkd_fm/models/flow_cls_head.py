"""FlowClsHead: a classification head that reads the transported feature."""

import copy
from collections.abc import Sequence
from typing import Any, Optional, Union

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.flow import Flow, check_inference, is_pretrained, rename_plain
from mmkd_fm.registry import MODELS, build_part

Feats = Union[Tensor, Sequence[Tensor]]


def as_map(feats: Feats) -> Tensor:
    """The last feature as a map, shape (N, C, H, W); a vector (N, C) becomes a map of 1x1.

    Raises:
        ValueError: If it is neither.
    """
    x = feats[-1] if isinstance(feats, (list, tuple)) else feats
    if not isinstance(x, Tensor) or x.ndim not in (2, 4):
        got = f'shape {tuple(x.shape)}' if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f'the last feature must be a map (N, C, H, W) or a vector (N, C), but got {got}; '
            f"choose another tap, or another out_type of a transformer, such as 'cls_token'"
        )
    return x if x.ndim == 4 else x[:, :, None, None]


def pool(x: Tensor) -> Tensor:
    """Global average, shapes (N, C, H, W) to (N, C); that of a 1x1 map is exact."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


@MODELS.register_module()
class FlowClsHead(BaseModule):
    """A classification head of mmpretrain with a flow before it (FM-KT, arXiv 2402.02012).

    It stands in the student's config: what it adds runs at inference too. The flow starts from the
    feature that the head is given. FM-KT transports maps: leave `GlobalAveragePooling` out of the
    student, and the pooling happens here, behind the flow. Behind a pooling neck the flow
    transports vectors, for which `MLPMetaEncoder` wastes less than a 3x3 convolution does.

    The logits are those of the mean estimate; for a head that is affine this is the mean of the
    logits of all steps. Alone it trains like any head; an `FMKTLogitLoss` with ``flow='head'``
    draws its flow to a teacher, an `OnlineFMKTLogitLoss` to its own mean.

    Args:
        head: Config of the head. Its `loss` and `predict` must be those of mmpretrain's `ClsHead`.
        flow: Arguments of `Flow`; here `ConvMetaEncoder`, `MLPTimeEmbedding` and 8 steps unless
            given.
        nfe: Number of steps at inference, 0 or more; with 0 it is the plain head.
        solver: Solver at inference: 'euler', or 'midpoint' and 'heun', which evaluate the network
            twice a step.
        in_channels: Channels of the feature; None takes those of the head.
        init_cfg: As for mmengine's `BaseModule`.

    Raises:
        ValueError: If the head is of another kind, its channels are unknown, or `nfe` or `solver`
            is out of range.

    Example:
        >>> head = dict(
        ...     type='mmkd_fm.FlowClsHead',
        ...     head=dict(type='LinearClsHead', num_classes=10, in_channels=512), nfe=8)
    """

    def __init__(
        self,
        head: dict,
        flow: Optional[dict] = None,
        nfe: int = 8,
        solver: str = 'euler',
        in_channels: Optional[int] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        check_inference(nfe, solver)
        self.nfe = nfe
        self.solver = solver
        self.supervised = False  # set by a loss that reads the transport
        self.head = MODELS.build(head)
        _check_head(self.head)
        channels = in_channels or getattr(self.head, 'in_channels', None)
        if not isinstance(channels, int):
            raise ValueError(
                f'{type(self.head).__name__} does not say the channels of the feature it takes: '
                f'in_channels is {channels!r}. Give them to FlowClsHead: in_channels=512'
            )
        with preserved_generators():  # the student's own weights are drawn as without the flow
            self.flow: Flow = build_part(dict(FLOW, **(flow or {})), 'Flow', channels=channels)
        self._start = copy.deepcopy(self.flow.state_dict())

    def init_weights(self) -> None:
        """Initialise the wrapped head; its flow begins as built, unless `init_cfg` loads it."""
        super().init_weights()
        if not is_pretrained(self.init_cfg):
            self.flow.load_state_dict(self._start)

    def forward(self, feats: Feats) -> Tensor:
        """Logits of the transported feature, shape (N, classes).

        Args:
            feats: What the wrapped head takes; of several the last is transported: a map
                (N, C, H, W) or a vector (N, C).

        Raises:
            ValueError: In training, if 0 is among the numbers of steps and no loss reads the flow.
        """
        return self.head(self._carry(feats))

    def classify(self, x: Tensor) -> Tensor:
        """Logits of the wrapped head, shape (N, classes), for ``x`` of shape (N, C, H, W)."""
        return self.head((pool(x),))

    def pre_logits(self, feats: Feats) -> Tensor:
        """What the wrapped head calls so, of the transported feature."""
        return self.head.pre_logits(self._carry(feats))

    # the head's own, but through the forward of this module, so that its logits can be tapped

    def loss(self, feats: Feats, data_samples: list, **kwargs: Any) -> dict[str, Tensor]:
        """The wrapped head's losses, for mmpretrain's data samples."""
        return self.head._get_loss(self(feats), data_samples, **kwargs)

    def predict(self, feats: Feats, data_samples: Optional[list] = None) -> list:
        """The wrapped head's predictions, as mmpretrain's data samples."""
        return self.head._get_predictions(self(feats), data_samples)

    def _carry(self, feats: Feats) -> tuple[Tensor, ...]:
        """What the wrapped head is given."""
        drawn = steps = self.nfe
        if self.training:
            drawn, steps = self.flow.draw_for_head(self.supervised)
        x = as_map(feats)
        # called with 0 steps too, where it does nothing, so that it can be tapped
        transported = self.flow(
            x,
            steps,
            solver='euler' if self.training else self.solver,
            keep_steps=self.training and self.supervised,
        )
        others = feats[:-1] if isinstance(feats, (list, tuple)) else ()
        carried = transported.endpoint if drawn else x
        # at inference as without the flow, so that half-precision heads can read it
        return (*others, pool(carried if self.training else carried.to(x.dtype)))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        """Accept a checkpoint of the plain student: its head is the wrapped one."""
        rename_plain(self, state_dict, prefix, 'head')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'head':
                raise
            return getattr(self.head, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # what a hook replaces in the wrapped head alone, such as its loss, is replaced there
        head = self.__dict__.get('_modules', {}).get('head')
        if _has(head, name) and not _has(self, name):
            setattr(head, name, value)
        else:
            super().__setattr__(name, value)


FLOW = dict(
    type='mmkd_fm.Flow',
    meta_encoder=dict(type='mmkd_fm.ConvMetaEncoder'),
    time_embedding=dict(type='mmkd_fm.MLPTimeEmbedding'),
    num_steps=8,
)
"""What FM-KT takes for logits."""


def _has(module: Optional[nn.Module], name: str) -> bool:
    """Whether a module itself has an attribute or a child of this name."""
    return module is not None and (name in vars(module) or name in module._modules)


def _check_head(head: Any) -> None:
    """Refuse heads whose loss is not a function of the logits that `forward` gives."""
    from mmpretrain.models import ClsHead  # detectors need no mmpretrain

    same = isinstance(head, ClsHead) and all(
        getattr(type(head), name) is getattr(ClsHead, name) for name in ('loss', 'predict')
    )
    if not same:
        raise ValueError(
            f'FlowClsHead wraps heads with the loss and predict of ClsHead, such as LinearClsHead, '
            f'StackedLinearClsHead or VisionTransformerClsHead, but got {type(head).__name__}; '
            f'keep that head, and use FMKTLogitLoss with a flow of its own'
        )
