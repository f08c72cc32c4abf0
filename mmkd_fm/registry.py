"""Registries of this package: `type='mmkd_fm.X'` in a config imports what it needs by itself."""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from os import PathLike
from typing import Any, get_args

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from mmkd_fm import checkpoint as checkpoint  # installs the safe checkpoint loader

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmkd_fm', locations=['mmkd_fm.models'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmkd_fm', locations=['mmkd_fm.hooks'])
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='mmkd_fm', locations=['mmkd_fm.evaluation']
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmkd_fm',
    locations=['mmkd_fm.transforms'],
)


def build_part(cfg: dict, kind: str, *, beside: Iterable[str] = (), **arguments: Any) -> Any:
    """Build a part of a distiller from its config.

    Args:
        cfg: Config with a `type`; our own types may be written without 'mmkd_fm.'.
        kind: What our types of this kind end in: 'Loss', 'Matching', 'Flow', 'MetaEncoder',
            'TimeEmbedding'.
        beside: Options of the same part of the config that are not the module's.
        **arguments: Further constructor arguments.

    Raises:
        ValueError: If there is no type, it is unknown or lacks an option; the message lists the
            valid names.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        example = cfg if isinstance(cfg, str) else _names(kind)[0]
        raise ValueError(f'a {kind} is a dict such as dict(type={example!r}), but got {cfg!r}')
    name = cfg['type']
    if isinstance(name, str):
        if name in MODELS.module_dict:
            name = f'mmkd_fm.{name}'
        if MODELS.get(name) is None:
            raise ValueError(
                f'unknown {kind} {name!r}; valid names: {", ".join(_names(kind))}, or any module '
                f'of yours registered in mmengine.registry.MODELS'
            )
    made = MODELS.get(name) if isinstance(name, str) else name
    check_options(made, cfg, arguments, beside)
    return MODELS.build(dict(cfg, type=name, **arguments))


def _names(kind: str) -> list[str]:
    """Our types of a kind, in the order of the alphabet."""
    return sorted(f'mmkd_fm.{name}' for name in MODELS.module_dict if name.endswith(kind))


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Name the part of the config that is built inside where that is refused."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{place}: {error}') from error


def check_options(
    made: Any,
    options: Mapping[str, Any],
    given: Iterable[str] = (),
    beside: Iterable[str] = (),
) -> None:
    """Refuse options that a class would answer with a TypeError.

    Args:
        made: The class; another callable, or a class of others with ``**kwargs``, takes any.
        options: Its config, or that part of it.
        given: Names of the arguments that no config gives.
        beside: Names of options that stand beside those of the class; listed with them.

    Raises:
        ValueError: If it lacks one, or one of ours is given a value of another kind.
    """
    if not inspect.isclass(made):
        return
    kinds: dict[str, Any] = {name: None for name in beside}
    for base in made.__mro__:
        if '__init__' not in vars(base):
            continue
        _, *parameters = inspect.signature(base.__init__).parameters.values()
        ours = base.__module__.startswith('mmkd_fm.')
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                kinds.setdefault(parameter.name, parameter.annotation if ours else None)
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
        if not ours:
            return  # ours hand them on to the next class, others may use them
    valid = [name for name in kinds if name not in given]
    for name, value in options.items():
        if name in ('type', '_scope_'):
            continue
        if name in kinds:
            _check_kind(made, name, value, kinds[name])
        elif name not in given:
            near = difflib.get_close_matches(name, valid, n=1)
            raise ValueError(
                f'{made.__name__} has no option {name!r}'
                + (f'; did you mean {near[0]!r}?' if near else '.')
                + f' It has: {", ".join(valid) or "none"}'
            )


_PLAIN = {int: Integral, float: Real, bool: bool, str: (str, PathLike), type(None): type(None)}


def _check_kind(made: type, name: str, value: Any, annotation: Any) -> None:
    """Refuse text for a number and the like; which numbers are valid is up to the class."""
    expected = get_args(annotation) or (annotation,)
    if not all(kind in _PLAIN for kind in expected):
        return
    is_plain = isinstance(value, tuple(_PLAIN[kind] for kind in expected))
    if not is_plain or (isinstance(value, bool) and bool not in expected):
        kinds = ' or '.join('None' if kind is type(None) else kind.__name__ for kind in expected)
        raise ValueError(f'{made.__name__}: expected {name} to be {kinds}, got {value!r}')
