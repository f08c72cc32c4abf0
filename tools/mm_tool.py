"""Runs the tools that are installed with mmdet or mmpretrain, and explains what users run into."""

import argparse
import os
import os.path as osp
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = {
    'mmdet': ('mmdet', 'pip install "mmdet>=3.3,<4"'),
    'mmpretrain': (
        'mmpretrain torchvision',
        'pip install "mmpretrain>=1.2", or: pip install ".[imagenet]"; then tools/doctor.py '
        'names the torchvision for your torch: pip install --no-deps torchvision==... pillow',
    ),
}
"""Package whose tools are run -> modules that it needs, and how to get them."""

CONFIGS = ('.py', '.json', '.yaml', '.yml')
"""What files of configs end in."""

HELP = "Configs of mmpretrain are run with mmpretrain's tool: CONFIG --help\n"


def run(name: str, loaders: Sequence[str]) -> None:
    """Run the tool of that name with the arguments of this process.

    It is that of the config's package, with its own arguments. What it would only answer with a
    KeyError deep inside ends with one clear message.

    Args:
        name: Name of the script.
        loaders: Names of the data loaders that it reads.
    """
    with explained(loaders) as cfg:
        package = tool_package(cfg)
        script = Path(find_spec(package).origin).parent / '.mim' / 'tools' / name
        if not script.is_file():
            remedy = PACKAGES[package][1]
            sys.exit(f'error: {script} is missing; install {package} as a wheel: {remedy}')
        if cfg is None and {'-h', '--help'} & set(sys.argv):
            print(HELP)
        runpy.run_path(str(script), run_name='__main__')


def tool_package(cfg: Optional['Config']) -> str:
    """The package whose tools run a config: mmpretrain if it says so, else mmdet.

    Args:
        cfg: The config; None, if it can't be read, takes what is installed, mmdet first.

    Raises:
        SystemExit: If the package is not installed.
    """
    package = package_of(cfg) if cfg is not None else None
    if package not in PACKAGES:
        package = next((name for name in PACKAGES if not _absent(name)), 'mmdet')
    _require(package)
    return package


def package_of(cfg: dict) -> Optional[str]:
    """The package of a config: its `default_scope`, or where it has none that of its model.

    Configs in pure Python have none; of a Distiller the student's class says it, or one of its
    bases.

    Args:
        cfg: The config.

    Returns:
        Its name; None if nothing says it.
    """
    if cfg.get('default_scope'):
        return cfg['default_scope']
    model = cfg.get('model') or {}
    student = model.get('student')
    kind = (student if isinstance(student, dict) else model).get('type')
    modules = [base.__module__ for base in kind.__mro__] if isinstance(kind, type) else [str(kind)]
    return next((top for top in (m.partition('.')[0] for m in modules) if top in PACKAGES), None)


@contextmanager
def explained(loaders: Sequence[str] = (), logs: bool = True) -> Iterator[Optional['Config']]:
    """Check the arguments of this process before, and explain what fails inside.

    Args:
        loaders: Names of the config's data loaders that are read.
        logs: Whether the tool writes to the work directory.

    Yields:
        The config with the options of the command line; None if there is none, or it can't be read.
    """
    make_importable()
    import mmkd_fm.registry  # noqa: F401 (plain configs too are then read by the safe loader)
    from data_problems import file_problems, folder_problems
    from model_problems import model_problem
    from resumed import check_resumed

    arguments, cfg = argument_parser().parse_known_args()[0], None
    trains = 'train_dataloader' in loaders
    if arguments.config is not None:
        check_config(arguments.config)
        cfg = _read(arguments)
        default = osp.join('work_dirs', Path(arguments.config).stem)
        work_dir = arguments.work_dir or (cfg or {}).get('work_dir') or default
        if logs:
            check_work_dir(work_dir)
        if cfg is not None and 'model' not in cfg:
            sys.exit(f'error: {arguments.config} has no model; give a complete config')
        problem = model_problem(cfg) if cfg is not None else None
        if problem:
            sys.exit(f'error: {arguments.config}: {problem}')
        resumed = osp.expanduser(arguments.resume or 'auto')
        if resumed != 'auto' and '://' not in resumed and not osp.isfile(resumed):
            sys.exit(f'error: --resume: there is no file {resumed}; without one the last is taken')
        if cfg is not None and trains:
            try:
                check_resumed(cfg, work_dir, arguments.resume)
            except ValueError as error:
                sys.exit(f'error: {error}')
    if arguments.no_validate:
        loaders = [name for name in loaders if name != 'val_dataloader']
    if cfg is not None:
        for problem in folder_problems(cfg, loaders):
            sys.exit(f'error: {problem}')
    try:
        yield cfg
    except (KeyError, AssertionError, TypeError, AttributeError, ValueError, OSError) as error:
        for problem in file_problems(cfg, loaders) if cfg is not None else ():
            # both are said: it may have failed for another reason
            sys.exit(f'error: {problem}\n(what failed: {type(error).__name__}: {error})')
        raise


def make_importable() -> None:
    """Let a clone work without being installed."""
    if sys.path[0] != str(ROOT):
        sys.path[0:1] = [str(ROOT), str(ROOT / 'tools')]


def argument_parser() -> argparse.ArgumentParser:
    """Those of the tools' arguments that are looked at here; parse it with `parse_known_args`."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('config', nargs='?')
    parser.add_argument('--work-dir')
    parser.add_argument('--no-validate', action='store_true')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    for option in ('--launcher', '--local_rank', '--local-rank', '--out', '--show-dir'):
        parser.add_argument(option)  # their values are not the config
    parser.add_argument('--resume', nargs='?', const='auto')
    return parser


def check_config(path: str) -> None:
    """Stop if there is no config file, or it is none."""
    if not osp.isfile(path):
        sys.exit(
            f'error: there is no config file {path!r}; see configs/, or run '
            f'`mim download mmdet --config NAME --dest .` for one of mmdet'
        )
    if not path.endswith(CONFIGS):
        sys.exit(
            f'error: expected a config, {" or ".join(CONFIGS)}, got {path!r}; weights are given '
            f'after it, those of a teacher by --teacher-checkpoint'
        )


def check_checkpoint(arguments: Sequence[str]) -> None:
    """Stop if the second positional argument is no file, nor has the prefix of a URL or backend."""
    parser = argument_parser()
    parser.add_argument('checkpoint', nargs='?')
    for option in ('--wait-time', '--interval', '--out-item'):
        parser.add_argument(option)  # their values are no checkpoint
    path = parser.parse_known_args(arguments)[0].checkpoint
    if path is not None and '://' not in path and not osp.isfile(path):
        sys.exit(f'error: there is no checkpoint {path!r}; give a file or URL of trained weights')


def check_work_dir(path: str) -> None:
    """Stop before the models are built if nothing can be saved; makes nothing."""
    remedy = 'choose another --work-dir'
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        what = f'{folder} is a file'
        sys.exit(f'error: the work directory can not be made ({what}: {path!r}); {remedy}')
    if not os.access(folder, os.W_OK | os.X_OK):
        sys.exit(f'error: the work directory {path!r} is not writable; {remedy}')


def _read(arguments: argparse.Namespace) -> Optional['Config']:
    """The config, None if it can't be read: its own error, met by the tool, says best why."""
    from mmengine.config import Config

    try:
        with required_packages():
            cfg = Config.fromfile(arguments.config, import_custom_modules=False)
            cfg.merge_from_dict(arguments.cfg_options)
    except Exception:
        return None
    return cfg


@contextmanager
def required_packages() -> Iterator[None]:
    """Say how to get mmdet or mmpretrain where a config inside has a base of theirs."""
    try:
        yield
    except ModuleNotFoundError as error:
        for package in PACKAGES:
            if str(error).startswith((f'{package} ', f"No module named '{package}")):
                _require(package)
        raise


def _absent(package: str) -> list[str]:
    return [name for name in PACKAGES[package][0].split() if find_spec(name) is None]


def _require(package: str) -> None:
    if _absent(package):
        absent, remedy = ' and '.join(_absent(package)), PACKAGES[package][1]
        sys.exit(f'error: {absent} not installed, which this config needs; {remedy}')
