"""Runs the tools that are installed with mmdet, and explains the errors that users meet."""

import json
import os
import os.path as osp
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[1]


def run(name: str) -> None:
    """Run mmdet's tool of that name with the arguments of this process.

    Bad input ends with one clear message and exit status 1; other errors pass through unchanged.
    """
    sys.path[0:1] = [str(ROOT)]  # a clone works without being installed
    import mmdet

    import mmkd_fm.registry  # noqa: F401 (also plain configs are then read by the safe loader)

    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / name
    if not script.is_file():
        sys.exit(f'{script} is missing; install mmdet as a wheel: pip install "mmdet>=3.3,<4"')
    _check_config_argument()
    _check_work_dir(_argument('--work-dir'))
    try:
        runpy.run_path(str(script), run_name='__main__')
    except (KeyError, AssertionError, TypeError, AttributeError, ValueError, OSError) as error:
        for problem in _annotation_problems():
            sys.exit(f'error: {problem}')
        if isinstance(error, (ValueError, OSError)):
            if os.environ.get('MMKD_FM_TRACEBACK'):
                raise
            sys.exit(f'error: {error}\n(set MMKD_FM_TRACEBACK=1 for the traceback)')
        raise


def _argument(name: str) -> Optional[str]:
    for i, argument in enumerate(sys.argv):
        if argument.startswith(f'{name}='):
            return argument.split('=', 1)[1]
        if argument == name and i + 1 < len(sys.argv):
            return sys.argv[i + 1]
    return None


def _check_config_argument() -> None:
    if len(sys.argv) > 1 and not sys.argv[1].startswith('-') and not osp.isfile(sys.argv[1]):
        sys.exit(
            f'error: there is no config file {sys.argv[1]!r}; see configs/, or run '
            f'`mim download mmdet --config NAME --dest .` for one of mmdet'
        )


def _check_work_dir(work_dir: Optional[str]) -> None:
    """Stop before the models are built if nothing can be saved."""
    try:
        os.makedirs(work_dir or 'work_dirs', exist_ok=True)
        writable = os.access(work_dir or 'work_dirs', os.W_OK)
    except OSError as error:
        sys.exit(f'error: the work directory can not be made: {error}; choose another --work-dir')
    if not writable:
        sys.exit(
            f'error: the work directory {work_dir!r} is not writable; choose another --work-dir'
        )


def _annotation_problems() -> Iterator[str]:
    """What is wrong with the COCO annotation files of the config, looked at after a failure."""
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(sys.argv[1])
    except Exception:  # the config itself fails, which its own error says best
        return
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(loader) or {}).get('dataset', {})
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        if 'Coco' not in str(dataset.get('type')) or not dataset.get('ann_file'):
            continue
        path = osp.join(dataset.get('data_root') or '', dataset['ann_file'])
        problem = _coco_problem(path)
        if problem:
            yield f'{loader}.dataset: {problem}'


def _coco_problem(path: str) -> Optional[str]:
    if not osp.isfile(path):
        return f'there is no annotation file {path}; check data_root and ann_file'
    try:
        with open(path) as file:
            content = json.load(file)
    except ValueError as error:
        return f'{path} is not JSON ({error})'
    keys = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in keys):
        got = ', '.join(content) if isinstance(content, dict) else type(content).__name__
        return f'{path} is not a COCO annotation file: lists {", ".join(keys)} expected, got {got}'
    if not content['images']:
        return f'{path} lists no images'
    return None
