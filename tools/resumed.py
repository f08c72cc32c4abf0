"""Whether a resumed training goes on with the terms and the teacher of its checkpoint.

Asked before a Runner is made: that replaces the config in the work directory, and reads the
checkpoint afterwards.
"""

from __future__ import annotations

import os.path as osp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


def check_resumed(cfg: Config, work_dir: str, asked: str | None) -> None:
    """Refuse other terms than a checkpoint's, another teacher, and plain ones for distilled ones.

    Args:
        cfg: Of the training that would go on.
        work_dir: Where the last checkpoint is looked for.
        asked: The file that `--resume` names; 'auto' is the last one, None what the config says.

    Raises:
        ValueError: If they differ in that.
    """
    path = checkpoint_of(cfg, work_dir, asked)
    if path is None:
        return
    from mmengine.runner.checkpoint import CheckpointLoader

    from mmkd_fm.hooks.distill_state_hook import KEY
    from mmkd_fm.models.terms import choose_terms

    try:
        state = CheckpointLoader.load_checkpoint(path, map_location='cpu').get(KEY)
    except Exception:  # the Runner, which can't read it either, says best why
        return
    distils = 'student' in cfg.model
    start = f'To start anew from its weights use --cfg-options load_from={path}, without --resume'
    if state is None and distils:
        raise ValueError(
            f'--resume: {path} has no distillation state, so no distillation can go on from it. '
            f'{start}'
        )
    if state is None:
        return
    if not distils:
        raise ValueError(
            f'--resume: {path} is of a distillation with {_listed(state["terms"])}, which a plain '
            f'config would not go on with: give the config of the distillation, or the same '
            f'--teacher and --distill as before. {start}'
        )
    used = choose_terms(cfg.model.get('losses', {}), cfg.model.get('terms'))
    terms = [name for name, loss in used.items() if loss.get('loss_weight', 1) != 0]
    if terms != state['terms']:  # the optimizer's state is found by its place
        raise ValueError(
            f'--resume: {path} was trained with {_listed(state["terms"])}, not with '
            f'{_listed(terms)}; go on with the same, in that order, or name another --work-dir. '
            f'{start}'
        )
    if terms and state.get('teacher') and _fingerprint(cfg) not in (state['teacher'], None):
        teacher = cfg.model.teacher.get('checkpoint')
        raise ValueError(
            f'--resume: {path} was trained with another teacher than {teacher}: its weights '
            f'differ; give the same, wherever its file lies now, or name another --work-dir. '
            f'{start}'
        )


def _fingerprint(cfg: Config) -> str | None:
    """That of the teacher of a config; None if it can't be built, which training says best."""
    from mmengine.utils import import_modules_from_strings

    from mmkd_fm.models.teacher import FrozenTeacher
    from plan_models import quiet, scope_of

    try:
        import_modules_from_strings(**cfg.get('custom_imports', dict(imports=None)))
        with scope_of(cfg), quiet():
            teacher = FrozenTeacher(**cfg.model.teacher)
            teacher.load('cpu')
    except Exception:
        return None
    return teacher.fingerprint()


def checkpoint_of(cfg: Config, work_dir: str, asked: str | None) -> str | None:
    """The file that a training would go on from; None if there is none, or none on this disk."""
    from mmengine.runner import find_latest_checkpoint

    if asked not in (None, 'auto'):
        path = osp.expanduser(asked)
    elif asked is None and not cfg.get('resume'):
        return None
    else:
        last = osp.join(work_dir, 'last_checkpoint')
        latest = find_latest_checkpoint(work_dir) if osp.isfile(last) else None
        path = (cfg.get('load_from') if asked is None else None) or latest
    return path if path is not None and osp.isfile(path) else None


def _listed(terms: list[str]) -> str:
    return ' '.join(terms) or 'no term'
