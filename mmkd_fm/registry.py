"""Registries of this package: `type='mmkd_fm.X'` in a config imports what it needs by itself."""

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


def build_part(cfg: dict, kind: str, **arguments: Any) -> Any:
    """Build a part of a distiller from its config.

    Args:
        cfg: Config with a `type`; our own types may be written without 'mmkd_fm.'.
        kind: What our types of this kind end in: 'Loss', 'Matching', 'Flow', 'MetaEncoder',
            'TimeEmbedding'.
        **arguments: Further constructor arguments.

    Raises:
        ValueError: If the type is unknown; the message lists the valid names.
    """
    name = cfg['type']
    if isinstance(name, str):
        if name in MODELS.module_dict:
            name = f'mmkd_fm.{name}'
        if MODELS.get(name) is None:
            valid = sorted(n for n in MODELS.module_dict if n.endswith(kind))
            raise ValueError(
                f'unknown {kind} {name!r}; valid names: '
                f'{", ".join(f"mmkd_fm.{n}" for n in valid)}, or any module of yours registered in '
                f'mmengine.registry.MODELS'
            )
    return MODELS.build(dict(cfg, type=name, **arguments))
