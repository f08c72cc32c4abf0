"""Runs the tools that are installed with mmdet, and explains the errors that users meet."""

import argparse
import json
import os
import os.path as osp
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[1]


def run(name: str) -> None:
    """Run mmdet's tool of that name with the arguments of this process.

    What mmdet would only answer with a KeyError deep inside ends with one clear message.
    """
    with explained():
        import mmdet

        script = Path(mmdet.__file__).parent / '.mim' / 'tools' / name
        if not script.is_file():
            sys.exit(f'{script} is missing; install mmdet as a wheel: pip install "mmdet>=3.3,<4"')
        runpy.run_path(str(script), run_name='__main__')


@contextmanager
def explained() -> Iterator[None]:
    """Check the arguments of this process before, and explain what fails inside."""
    sys.path[0:1] = [str(ROOT), str(ROOT / 'tools')]  # a clone works without being installed
    import mmkd_fm.registry  # noqa: F401 (plain configs too are then read by the safe loader)

    arguments = _arguments()
    if arguments.config is not None:
        _check_paths(arguments)
    try:
        yield
    except (KeyError, AssertionError, TypeError, AttributeError, ValueError, OSError):
        for problem in _annotation_problems(arguments):
            sys.exit(f'error: {problem}')
        raise


def _arguments() -> argparse.Namespace:
    """Those of mmdet's arguments that are looked at here."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('config', nargs='?')
    parser.add_argument('--work-dir', default='work_dirs')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_known_args()[0]


def _check_paths(arguments: argparse.Namespace) -> None:
    """Stop before the models are built if there is no config, or nothing can be saved."""
    if not osp.isfile(arguments.config):
        sys.exit(
            f'error: there is no config file {arguments.config!r}; see configs/, or run '
            f'`mim download mmdet --config NAME --dest .` for one of mmdet'
        )
    remedy = 'choose another --work-dir'
    try:
        os.makedirs(arguments.work_dir, exist_ok=True)
    except OSError as error:
        sys.exit(f'error: the work directory can not be made ({error}); {remedy}')
    if not os.access(arguments.work_dir, os.W_OK):
        sys.exit(f'error: the work directory {arguments.work_dir!r} is not writable; {remedy}')


def _annotation_problems(arguments: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the COCO annotation files of the config, looked at after a failure."""
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(arguments.config)
        cfg.merge_from_dict(arguments.cfg_options)
    except Exception:  # the config itself fails, which its own error says best
        return
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(loader) or {}).get('dataset', {})
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        if 'Coco' not in str(dataset.get('type')) or not dataset.get('ann_file'):
            continue
        path = osp.join(dataset.get('data_root') or '', dataset['ann_file'])
        problem = _coco_problem(path, (dataset.get('metainfo') or {}).get('classes'))
        if problem:
            yield f'{loader}.dataset: {problem}'


def _coco_problem(path: str, classes: Optional[Sequence[str]]) -> Optional[str]:
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
    if not content['annotations']:
        return f'{path} has no boxes'
    names = [category['name'] for category in content['categories']]
    if classes and not set(classes) & set(names):
        return (
            f'{path} has none of the classes {", ".join(classes)}: its categories are '
            f'{", ".join(names)}; check metainfo.classes'
        )
    return None
