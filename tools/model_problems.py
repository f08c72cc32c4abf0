"""What is wrong with the model of a config, said in one sentence before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

OURS = ('Distiller', 'OnlineDistiller')
"""Models of this package that a Runner trains."""


def model_problem(cfg: Config) -> str | None:
    """Why the model of a config can't be built, for what registries answer with a bare error."""
    from mmkd_fm.registry import MODELS, check_options

    model = cfg.get('model') or {}
    kind = model.get('type')
    if isinstance(kind, type):
        kind = f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
    if kind in OURS:
        scope = cfg.get('default_scope') or 'mmengine'
        return f'model.type={kind!r} would be one of {scope}; write type="mmkd_fm.{kind}"'
    if kind not in [f'mmkd_fm.{name}' for name in OURS]:
        return None
    try:
        check_options(MODELS.get(kind), model)
    except ValueError as error:
        return (
            f"model: {error}. What is the student's own, of a config that this one is based on, "
            f'goes with model=dict(_delete_=True, type={kind!r}, student={{{{_base_.model}}}}, ...)'
        )
    return None
