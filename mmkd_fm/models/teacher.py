"""The frozen teacher: built from its config, loaded strictly, never trained and never saved."""

import hashlib
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Optional, Union
from urllib.error import URLError

import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.taps import Records, Tap, read, record, versions_of
from mmkd_fm.models.teacher_cache import TeacherCache

# Keys that real zoo files hold besides the model's own.
_FOREIGN_PREFIXES = ('data_preprocessor.', 'ema_')

Images = Union[Tensor, Sequence[Tensor]]
"""Raw images, each of shape (3, H, W), or stacked."""


class FrozenTeacher:
    """A model beside the student, deliberately not an `nn.Module`.

    So it is reached neither by `init_weights`, `state_dict`, the optimizer, SyncBN conversion nor
    DDP. It is always in eval mode and without gradients; copies of its owner (EMA) share it, and do
    not move or cast it, and pickling drops it.

    Args:
        config: Config of the teacher: a name such as 'mmdet::retinanet/...py', a file, or a dict
            with the key `model`; of a distillation's config it is the student. Its `init_cfg` and
            its backbone's `pretrained` are never used, so nothing is downloaded for it.
        checkpoint: File or URL of its weights, read by `load`.
        input_scale: Size of its images over that of the student's, above 0: with 1.5 it sees them
            at one and a half times the resolution.
        cache: Gigabytes of memory for what it gave for views that come again, see `TeacherCache`;
            None keeps nothing.

    Raises:
        ValueError: If the config has no model, or doesn't say how the teacher sees images, or
            ``input_scale`` is no factor, or ``cache`` no size.

    Example:
        >>> teacher = FrozenTeacher('mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', 'r101.pth')
        >>> teacher.load(device='cpu')
    """

    def __init__(
        self,
        config: Union[str, dict],
        checkpoint: Optional[str] = None,
        input_scale: float = 1.0,
        cache: Optional[float] = None,
    ) -> None:
        _check_scale(input_scale)
        self.checkpoint = checkpoint
        self.input_scale = input_scale
        self.cache = None if cache is None else TeacherCache(cache)
        self.is_loaded = False
        self.owner: Callable[[], Any] = lambda: None
        cfg = _read_config(config)
        if 'model' not in cfg:
            got = config if isinstance(config, str) else f'with the keys {", ".join(cfg)}'
            raise ValueError(
                f'the teacher config {got} has no `model`; give a complete config, or of a model '
                f'alone teacher=dict(config=dict(model=dict(type=...), default_scope=...))'
            )
        model = plain_model(cfg.model)
        if 'pretrained' in (model.get('backbone') or {}):  # timm's is downloaded as it is built
            model['backbone'] = model['backbone'].copy()
            del model['backbone']['pretrained']
        if 'data_preprocessor' in cfg:  # mmpretrain keeps it at the top level
            model.setdefault('data_preprocessor', cfg.data_preprocessor)
        if model.get('data_preprocessor') is None:
            raise ValueError(
                'the teacher config has no `data_preprocessor`, so nothing says with which mean, '
                'std and channel order it was trained; give its own complete config, or, if it '
                "takes raw pixels, data_preprocessor=dict(type='DetDataPreprocessor') (of a "
                "classifier: type='ClsDataPreprocessor')"
            )
        with preserved_generators(), _scope(cfg.get('default_scope')):
            self.model: nn.Module = MODELS.build(model)
        self.model.requires_grad_(False)
        self.model.eval()

    def load(self, device: Union[str, torch.device]) -> None:
        """Read the weights, strictly, and move the teacher to ``device``.

        Raises:
            ValueError: If there is no checkpoint, it can't be read, or it doesn't hold exactly the
                teacher's parameters and buffers.
        """
        state = _read_state_dict(self.checkpoint)
        _load_strictly(self.model, state, self.checkpoint)
        self.model.to(device)
        self.is_loaded = True
        self._changed()

    def apply(self, fn) -> None:
        """Move or cast the teacher with its owner (`nn.Module._apply`), once it is loaded."""
        if self.is_loaded:
            self.model._apply(fn)
            self.model._set_device(next(self.model.parameters()).device)
            self._changed()

    def _changed(self) -> None:
        if self.cache is not None:
            self.cache.clear()

    def view(self, images: Images, resize: bool = True) -> Tensor:
        """Its own view of raw images: resized, normalised, ordered and padded its way.

        Args:
            images: The images, at the student's resolution.
            resize: Whether to resize them by `input_scale`; else the caller does so afterwards.

        Returns:
            Shape (N, 3, H, W).
        """
        if resize:
            images = rescale(images, self.input_scale)
        return self.model.data_preprocessor(dict(inputs=images), False)['inputs']

    @torch.no_grad()
    def forward(self, inputs: Tensor, paths: Iterable[str]) -> Records:
        """Run the teacher only as deep as the modules at ``paths`` need, and record them.

        Args:
            inputs: Its own view of the batch, shape (N, 3, H, W).
            paths: Module paths.
        """
        if self.cache is None:
            return self._run(inputs, paths)
        paths = sorted(paths)

        def outputs(view: Tensor) -> dict[str, Any]:
            records = self._run(view, paths)
            return {path: read(records, Tap(path), self.model) for path in paths}

        found = self.cache(inputs, outputs, salt=' '.join(paths))
        return {path: [(found[path], versions_of(found[path]))] for path in paths}

    def _run(self, inputs: Tensor, paths: Iterable[str]) -> Records:
        with record(self.model, paths, stop_early=True) as records:
            self.model(inputs, mode='tensor')
        return records

    @torch.no_grad()
    def predict(self, batch: dict[str, Any]) -> list:
        """Predictions in the teacher's own view, at its own resolution.

        Args:
            batch: What a data loader gives, changed in place.

        Returns:
            The samples with predictions, mapped to the original images.
        """
        scale = self.input_scale
        batch['inputs'] = rescale(batch['inputs'], scale)
        for sample in batch['data_samples'] if scale != 1 else ():
            if 'scale_factor' in sample:  # predictions are mapped back by it
                factor = tuple(scale * f for f in sample.scale_factor)
                shape = tuple(int(scale * side) for side in sample.img_shape)
                sample.set_metainfo(dict(scale_factor=factor, img_shape=shape))
        return self.model.test_step(batch)

    @property
    def num_classes(self) -> Optional[int]:
        """Number of classes of the last head; None where no head says it."""
        head = getattr(self.model, 'roi_head', self.model)
        for name in ('bbox_head', 'head', 'mask_head'):
            part = getattr(head, name, None)
            part = part[-1] if isinstance(part, nn.ModuleList) else part
            if part is not None:
                return getattr(part, 'num_classes', None)
        return None

    def fingerprint(self) -> str:
        """SHA-256 of all parameters and buffers: recognises the teacher wherever its file lies."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        return self

    def __reduce__(self):
        return _absent_teacher, ()


def rescale(images: Images, factor: float) -> Images:
    """Resize bilinearly, from the upper left corner on; smoothed where it shrinks.

    Args:
        images: As of `FrozenTeacher.view`; other sizes each, or stacked.
        factor: New size over old; 1 changes nothing.
    """
    if factor == 1:
        return images
    if not isinstance(images, Tensor):
        return [rescale(image[None], factor)[0] for image in images]
    # the factor itself, not that of the rounded sizes: a pixel is where it is in any batch
    return F.interpolate(images.float(), scale_factor=factor, mode='bilinear', antialias=factor < 1)


def _check_scale(scale: float) -> None:
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not number or not 0 < scale < math.inf:
        raise ValueError(
            f"teacher.input_scale is a factor above 0, such as 1.5, the size of the teacher's "
            f"images over that of the student's, but got {scale!r}; leave it out for the same size"
        )


def _absent_teacher() -> None:
    """What a pickled teacher becomes: it stays out of every file."""
    return None


@contextmanager
def _scope(name: Optional[str]):
    """Resolve unscoped type names in the teacher's own package."""
    if name is None:
        yield
    else:
        with DefaultScope.overwrite_default_scope(name):
            yield


def _read_config(config: Union[str, dict]) -> Config:
    if isinstance(config, dict):
        return Config(ConfigDict(config))
    if '::' in config:
        return get_config(config)
    if not os.path.isfile(os.path.expanduser(config)):
        raise ValueError(
            f"teacher config {config!r} does not exist; set model.teacher.config to the teacher's "
            f"config file, or to a name such as 'mmdet::retinanet/retinanet_r101_fpn_1x_coco.py'"
            f'{_looked_up(config)}'
        )
    return Config.fromfile(os.path.expanduser(config))


def plain_model(model: dict) -> dict:
    """A copy of a model's config; of a Distiller's that of its student, as its checkpoints are.

    A student without a preprocessor takes the Distiller's.

    Args:
        model: The `model` of a config.
    """
    plain = model.get('student', model).copy()
    if model.get('data_preprocessor') and not plain.get('data_preprocessor'):
        plain['data_preprocessor'] = model['data_preprocessor']
    return plain


def _looked_up(path: str) -> str:
    """Where a relative path leads to: elsewhere when a run is resumed in another directory."""
    if os.path.isabs(os.path.expanduser(path)):
        return ''
    return f'. It was looked up from {os.getcwd()}: give an absolute path to start from anywhere'


def _read_state_dict(checkpoint: Optional[str]) -> dict[str, Tensor]:
    remedy = 'set model.teacher.checkpoint to the file of the trained teacher'
    if not checkpoint:
        raise ValueError(f'the teacher has no checkpoint; {remedy}')
    try:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except FileNotFoundError as error:
        raise ValueError(
            f'teacher checkpoint {checkpoint!r} does not exist; {remedy}{_looked_up(checkpoint)}'
        ) from error
    except (URLError, OSError) as error:
        if '://' not in checkpoint:
            raise ValueError(f'teacher checkpoint {checkpoint!r}: {error}') from error
        raise ValueError(
            f'teacher checkpoint {checkpoint!r} can not be downloaded ({error}); download it '
            f'where there is a network and {remedy}'
        ) from error
    state: Any = loaded.get('state_dict', loaded)
    return _renamed(state, {name: name.removeprefix('module.') for name in state})


def _renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """What ``names`` lists under its new names, with the versions of the modules that saved it."""
    renamed = OrderedDict((new, state[name]) for name, new in names.items())
    versions = getattr(state, '_metadata', {})
    renamed._metadata = OrderedDict((k.removeprefix('module.'), v) for k, v in versions.items())
    return renamed


def _load_strictly(model: nn.Module, state: dict[str, Tensor], checkpoint: str) -> None:
    """Load ``state``, or say how it differs from ``model``."""
    own = model.state_dict()
    foreign = [k for k in state if k not in own and k.startswith(_FOREIGN_PREFIXES)]
    if foreign:
        print_log(
            f'teacher checkpoint {checkpoint}: ignored what is not of the model'
            + _listed('keys', foreign),
            'current',
        )
    state = _renamed(state, {k: k for k in state if k not in foreign})
    reshaped = [k for k, v in state.items() if k in own and v.shape != own[k].shape]
    # the model's own load hooks may rename old keys, so ask it for the rest
    fitting = _renamed(state, {k: k for k in state if k not in reshaped})
    result = model.load_state_dict(fitting, strict=False)
    missing = [k for k in result.missing_keys if k not in reshaped]
    if not (missing or reshaped or result.unexpected_keys):
        return
    shapes = [f'{k}: {tuple(state[k].shape)} instead of {tuple(own[k].shape)}' for k in reshaped]
    hint = 'it looks like another architecture'
    if reshaped and not missing and not result.unexpected_keys and len(reshaped) <= 4:
        hint = 'it looks like a model with another number of classes'
    raise ValueError(
        f'teacher checkpoint {checkpoint!r} does not fit the teacher config; {hint}. '
        f'Give the checkpoint that belongs to model.teacher.config.'
        + _listed('missing', missing)
        + _listed('unexpected', result.unexpected_keys)
        + _listed('of another shape', shapes)
    )


def _listed(what: str, keys: list[str], most: int = 6) -> str:
    if not keys:
        return ''
    more = f', ... ({len(keys)} in all)' if len(keys) > most else ''
    return f'\n  {what}: {", ".join(keys[:most])}{more}'
