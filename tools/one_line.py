"""Distillation of a plain config from the command line: makes the config that one would write.

What `tools/train.py STUDENT_CONFIG --teacher TEACHER_CONFIG ...` and `tools/plan.py` share.
"""

import argparse
import ast
import copy
import difflib
import os
import os.path as osp
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from mm_tool import (
    PACKAGES,
    argument_parser,
    check_config,
    check_work_dir,
    required_packages,
)
from resumed import check_resumed

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

READ = ('--work-dir', '--resume', '--cfg-options', '--launcher')
"""Options of the training tools that the distillation depends on too."""

OF_DISTILLER = ('student', 'teacher', 'losses', 'terms', 'task_loss_weight', 'seed')
"""Parts of the Distiller's config that options may change."""

CHECK = 'distill_teacher'
"""Name of the hook that `--check-teacher` adds, among the default hooks."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a distillation of a plain config."""
    group = parser.add_argument_group('distillation of a plain CONFIG, without writing a file')
    group.add_argument('--teacher', help="the teacher's config: a file or 'mmdet::...py'")
    group.add_argument(
        '--teacher-checkpoint',
        metavar='FILE',
        help="its weights, file or URL (default: those published for 'mmdet::...py')",
    )
    group.add_argument(
        '--distill',
        nargs='+',
        metavar='NAME',
        help='methods: fmkt (default), pkd and cwd for any two detectors; wttm, ttm, kd, dkd, dist '
        'where both heads are of one kind; fmkt_cwd, wttm_boxes and kd_boxes too of GFL heads '
        '(default of two such: fmkt_cwd kd kd_boxes); of classifiers wttm (default), '
        'kd, dkd, dist, ttm, fmkt, fmkt_stages',
    )


def with_resolved_config(arguments: Sequence[str]) -> list[str]:
    """Arguments of a training tool, of which ours are replaced by the config that they describe.

    It is written to the work directory as `<student config>_distilled.py`. Arguments without ours
    come back as they are.

    Args:
        arguments: Those of the command line.

    Raises:
        SystemExit: If they describe no distillation; the message says why.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    add_options(own)
    own.add_argument(
        '--check-teacher',
        type=_count,
        metavar='N',
        help='evaluate the teacher on N validation images before training',
    )
    if {'-h', '--help'} & set(arguments):
        print(own.format_help())
        return list(arguments)
    asked, rest = own.parse_known_args(arguments)
    _refuse_misspelt(rest, [f'--{name.replace("_", "-")}' for name in vars(asked)])
    if all(value is None for value in vars(asked).values()):
        return list(arguments)
    _refuse_short(rest)
    hook = {}
    if asked.check_teacher is not None:
        hook = dict(type='mmkd_fm.TeacherCheckHook', num_images=asked.check_teacher)
    if asked.teacher is None and asked.distill is None and asked.teacher_checkpoint is None:
        options = [f'default_hooks.{CHECK}.{key}={value}' for key, value in hook.items()]
        return [*rest, '--cfg-options', *options]
    parser = argument_parser()
    add_options(parser)
    parser.add_argument('--check-teacher', type=_count)
    parser.set_defaults(work_dir=None)
    parsed = parser.parse_known_args(arguments)[0]
    try:
        path = _write(parsed, hook)
    except ValueError as error:
        sys.exit(f'error: {error}')
    replaced = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    replaced.add_argument('--work-dir')
    replaced.add_argument('--cfg-options', nargs='+')
    rest = replaced.parse_known_args(rest)[1]
    rest[rest.index(parsed.config)] = str(path)
    return [*rest, '--work-dir', str(path.parent)]


def _readable(text: str) -> str:
    """A config that Python reads: infinity and NaN are written as names, which it does not know."""
    lines = [line.encode() for line in text.split('\n')]
    names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    for node in sorted(names, key=lambda node: node.col_offset, reverse=True):
        if node.id in ('inf', 'nan'):
            line, start = lines[node.lineno - 1], node.col_offset
            number = f"float('{node.id}')".encode()
            lines[node.lineno - 1] = line[:start] + number + line[start + len(node.id) :]
    return b'\n'.join(lines).decode()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a number of images, 1 or more, got {text!r}')
    return int(text)


def _refuse_misspelt(rest: Sequence[str], names: Sequence[str]) -> None:
    """Stop at an option that looks like one of ours: the tool would be reached too late."""
    for option in (argument.partition('=')[0] for argument in rest):
        if option.startswith(('--teach', '--dist', '--check')):
            near = difflib.get_close_matches(option, names, n=1)
            hint = f'; did you mean {near[0]}?' if near else '.'
            sys.exit(f'error: unrecognized option {option}{hint} Ours are: {", ".join(names)}')


def _refuse_short(rest: Sequence[str]) -> None:
    """Stop at an option that the tool would know by its beginning, and that is looked at here."""
    for option in (argument.partition('=')[0] for argument in rest):
        whole = [name for name in READ if name.startswith(option)]
        if len(option) > 2 and whole and option not in READ:
            sys.exit(f'error: {option} is short for {" or ".join(whole)}; write it out')


def _write(arguments: argparse.Namespace, hook: dict) -> Path:
    """Write the config that the arguments describe; gives its path."""
    if arguments.config is None:
        raise ValueError("expected the student's config before --teacher and --distill")
    cfg = resolve(**described(arguments))
    _find(cfg.model.teacher, arguments.teacher)
    if hook:
        cfg.default_hooks[CHECK] = hook
    name = f'{Path(arguments.config).stem}_distilled'
    teacher = Path(arguments.teacher).stem
    default = osp.join('work_dirs', '_'.join([name, 'from', teacher, *cfg.model.losses]))
    # not the config's own: where a Runner has left it, that is the plain student's
    asked = arguments.work_dir or (arguments.cfg_options or {}).get('work_dir')
    cfg.work_dir = osp.abspath(asked or default)
    check_work_dir(cfg.work_dir)
    path = Path(cfg.work_dir, f'{name}.py')
    check_resumed(cfg, cfg.work_dir, arguments.resume)
    path.parent.mkdir(parents=True, exist_ok=True)
    # each process of a distributed training writes the same; none may read half of it
    part = path.with_suffix(f'.{os.getpid()}.part')
    try:
        part.write_text(_readable(cfg.pretty_text), encoding='utf-8')
        os.replace(part, path)
    except OSError as error:
        raise ValueError(
            f'{path} can not be written: {error}; choose another --work-dir'
        ) from error
    finally:
        part.unlink(missing_ok=True)
    print(f'distillation config: {path}')
    return path


def described(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `resolve` is given for parsed arguments."""
    return dict(
        student=arguments.config,
        teacher=arguments.teacher,
        checkpoint=arguments.teacher_checkpoint,
        names=arguments.distill,
        options=arguments.cfg_options,
    )


def resolve(
    student: str,
    teacher: Optional[str],
    checkpoint: Optional[str] = None,
    names: Optional[Sequence[str]] = None,
    options: Optional[dict] = None,
) -> 'Config':
    """The config of a distillation, complete in itself.

    Args:
        student: The plain student's config, a file or a name such as 'mmdet::...py'.
        teacher: The teacher's config, likewise; that of a file is taken over.
        checkpoint: The teacher's weights, a file or URL. None takes those published for a teacher
            that is a name.
        names: Methods; None takes the default.
        options: Changes of the resolved config, as of `--cfg-options`.

    Raises:
        ValueError: If there is no teacher, a name is unknown, no levels correspond, a part can't be
            built, or an option is for the plain student's config.
    """
    from mmengine.config import ConfigDict

    from one_line_methods import default_names, methods_of
    from plan_models import common_levels

    if teacher is None:
        raise ValueError("--distill needs a teacher: --teacher CONFIG, a file or 'mmdet::...py'")
    cfg = read_config(student)
    if 'model' not in cfg:
        raise ValueError(f'{student} has no model; give a complete config of the student')
    if 'student' in cfg.model:
        raise ValueError(
            f"{student} is a distillation's config already: run it without --teacher and "
            f"--distill, or give the plain student's"
        )
    of_teacher = read_config(teacher)
    if cfg.get('resume'):  # left there by a resumed training of the plain student
        cfg.merge_from_dict(dict(resume=False, load_from=None))
    if cfg.get('load_from') and 'load_from' not in (options or {}):
        print(f'the student starts from load_from={cfg.load_from}, as {student} says')
    methods = methods_of(cfg, of_teacher)
    chosen = methods.choose(names or default_names(cfg, of_teacher))
    # a hook that schedules weights goes with the terms that it schedules
    hooks = {
        name: hook
        for name, hook in methods.hooks.items()
        if {*hook.get('schedules', ())} <= {*chosen}
    }
    cfg.default_hooks = ConfigDict(cfg.get('default_hooks') or {}, **hooks)
    teacher_cfg = _teacher(teacher, of_teacher, checkpoint, cfg)
    cfg.model = ConfigDict(
        type='mmkd_fm.Distiller',
        student=cfg.model,
        teacher=teacher_cfg,
        losses={name: methods.losses[name] for name in chosen},
    )
    _merge(cfg, options or {})
    for name, levels in common_levels(cfg).items():
        default = methods.losses[name].get('levels')
        if name in chosen and cfg.model.losses[name].levels == default != levels:
            print(f'{name}: the levels {levels} of the student have a partner of the same stride')
            cfg.model.losses[name].levels = levels
    return cfg


def read_config(path: str) -> 'Config':
    """A config, by its file or a name such as 'mmdet::...py'.

    Raises:
        ValueError: If it, or one that it is based on, is not there.
    """
    from mmengine.config import Config
    from mmengine.hub import get_config

    if '::' in path and path.partition('::')[0] not in PACKAGES:
        raise ValueError(f'{path!r}: expected a name of {" or ".join(PACKAGES)} before "::"')
    with required_packages():
        try:
            if '::' in path:
                return get_config(path)
            check_config(path)
            return Config.fromfile(path)
        except FileNotFoundError as error:
            raise ValueError(
                f'there is no config {path!r}, or none it is based on: {error}'
            ) from error


def _teacher(config: str, cfg: 'Config', checkpoint: Optional[str], student: 'Config') -> dict:
    """Arguments of the FrozenTeacher; what the teacher's config imports, the student's does too."""
    from mmengine.config import ConfigDict
    from mmengine.hub import get_config

    from mmkd_fm.models.teacher import plain_model

    imports = cfg.get('custom_imports')
    if imports:
        own = student.get('custom_imports') or dict(imports=[])
        modules = [m for part in (own, imports) for m in _as_list(part['imports'])]
        student.custom_imports = dict(imports=list(dict.fromkeys(modules)))
    if '::' in config:
        if checkpoint is None:
            checkpoint = get_config(config, pretrained=True).get('model_path')
        return dict(config=config, checkpoint=checkpoint)
    if 'model' not in cfg:
        raise ValueError(f"{config} has no model; give the teacher's complete config")
    kept = {k: cfg[k] for k in ('data_preprocessor', 'default_scope') if k in cfg}
    return dict(config=ConfigDict(model=plain_model(cfg.model), **kept), checkpoint=checkpoint)


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _find(teacher: 'ConfigDict', config: str) -> None:
    """Let the checkpoint be found from any directory."""
    checkpoint = teacher.checkpoint
    if checkpoint is None:
        raise ValueError(
            f'there is no published checkpoint of {config}: give --teacher-checkpoint FILE'
        )
    if '://' in checkpoint:
        return
    teacher.checkpoint = osp.abspath(osp.expanduser(checkpoint))
    if not osp.isfile(teacher.checkpoint):
        raise ValueError(
            f'teacher checkpoint {checkpoint!r} does not exist; give --teacher-checkpoint FILE, '
            f'that of the trained teacher'
        )


def _merge(cfg: 'Config', options: dict) -> None:
    """Merge options into a resolved config, unless they are meant for the plain student's."""
    for key in options:
        top, _, rest = key.partition('.')
        if top == 'model' and rest.split('.')[0] not in OF_DISTILLER:
            raise ValueError(
                f'--cfg-options {key}: the model is the Distiller now, the student is in it; write '
                f'model.student.{rest} (or another of '
                f'{", ".join(f"model.{name}" for name in OF_DISTILLER)})'
            )
    cfg.merge_from_dict(copy.deepcopy(options))
