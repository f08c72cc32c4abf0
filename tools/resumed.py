"""Whether a resumed training goes on with what its work directory was trained with.

Asked before a Runner is made: that replaces the config there, and reads the checkpoint afterwards.
"""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


def check_resumed(path: Path, cfg: Config) -> None:
    """Refuse other terms or another teacher than the checkpoints in a work directory are of.

    Args:
        path: The config that lies there, if one does.
        cfg: That of the training that would go on.

    Raises:
        ValueError: If they differ in that.
    """
    from mmengine.config import Config

    if not (path.is_file() and (path.parent / 'last_checkpoint').is_file()):
        return
    try:
        before = Config.fromfile(path, import_custom_modules=False)
    except Exception:  # a broken one tells nothing, and is written anew
        return
    if not all('losses' in (config.get('model') or {}) for config in (before, cfg)):
        return
    remedy = 'go on with the same, or name another --work-dir'
    terms = [_terms(config.model) for config in (before, cfg)]
    if set(terms[0]) != set(terms[1]):
        old, new = (' '.join(names) or 'no term' for names in terms)
        raise ValueError(
            f'--resume: {path.parent} was trained with {old}, not with {new}; {remedy}'
        )
    teachers = [config.model.get('teacher') or {} for config in (before, cfg)]
    if differ(*(str(teacher.get('checkpoint')) for teacher in teachers)):
        old, new = (teacher.get('checkpoint') for teacher in teachers)
        raise ValueError(
            f'--resume: {path.parent} was trained with the teacher {old}, not with {new}; {remedy}'
        )


def differ(old: str, new: str) -> bool:
    """Whether two checkpoints are sure to differ: one that is no file any more may have moved."""
    if old == new:
        return False
    files = [Path(path).is_file() for path in (old, new)]
    return all(files) and not filecmp.cmp(old, new, shallow=False)


def _terms(model: dict) -> list[str]:
    """Names of the terms that a Distiller's config uses."""
    names = model.get('terms') or list(model['losses'])
    names = [names] if isinstance(names, str) else names
    return [name for name in names if (model['losses'].get(name) or {}).get('loss_weight', 1) != 0]
