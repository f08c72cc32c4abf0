"""Registries of this package: `type='mmkd_fm.X'` in a config imports what it needs by itself."""

import difflib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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
    check_options(made, [key for key in cfg if key not in ('type', '_scope_')], arguments, beside)
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
    made: Any, options: Iterable[str], given: Iterable[str] = (), beside: Iterable[str] = ()
) -> None:
    """Refuse options that a class would answer with a TypeError.

    Args:
        made: The class; another callable, or a class of others with ``**kwargs``, takes any.
        options: Names in its config.
        given: Names of the arguments that no config gives.
        beside: Names of options that stand beside those of the class; listed with them.

    Raises:
        ValueError: If it lacks one.
    """
    if not inspect.isclass(made):
        return
    valid: list[str] = []
    for base in made.__mro__:
        if '__init__' not in vars(base):
            continue
        _, *parameters = inspect.signature(base.__init__).parameters.values()
        valid += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
        if not base.__module__.startswith('mmkd_fm.'):
            return  # ours hand them on to the next class, others may use them
    valid = [name for name in dict.fromkeys([*beside, *valid]) if name not in given]
    for name in options:
        if name not in valid and name not in given:
            near = difflib.get_close_matches(name, valid, n=1)
            raise ValueError(
                f'{made.__name__} has no option {name!r}'
                + (f'; did you mean {near[0]!r}?' if near else '.')
                + f' It has: {", ".join(valid) or "none"}'
            )
