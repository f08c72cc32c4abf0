"""What is wrong with the data that a config names, said in one sentence."""

import json
import os
import os.path as osp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional, Union

IMAGES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
"""Extensions that mmpretrain takes for images."""

FOLDERS = ('CustomDataset', 'ImageNet', 'ImageNet21k')
"""Data sets of mmpretrain that read folders of images."""

CIFAR = {'CIFAR10': 'cifar-10-batches-py', 'CIFAR100': 'cifar-100-python'}
"""Data sets of mmpretrain that read one folder of files."""


def folder_problems(cfg: dict, loaders: Sequence[str]) -> Iterator[str]:
    """What is wrong with the image folders of classification data; cheap enough for every start.

    Args:
        cfg: The whole config.
        loaders: Names of the data loaders that are looked at.
    """
    for loader, dataset in _datasets(cfg, loaders):
        kind = str(dataset.get('type')).rpartition('.')[2]
        if '://' in str(dataset.get('data_root')) or dataset.get('backend_args'):
            continue
        problem = None
        if kind in FOLDERS and not dataset.get('lazy_init'):
            problem = _folder_problem(dataset, kind)
        elif kind in CIFAR:
            problem = _cifar_problem(dataset, kind)
        if problem:
            yield f'{loader}.dataset: {problem}'


def file_problems(cfg: dict, loaders: Sequence[str]) -> Iterator[str]:
    """What is wrong with the files of data sets, looked at after a failure.

    Args:
        cfg: The whole config.
        loaders: Names of the data loaders that are looked at.
    """
    for loader, dataset in _datasets(cfg, loaders):
        kind = str(dataset.get('type')).rpartition('.')[2]
        problem = None
        if 'Coco' in kind and dataset.get('ann_file'):
            path = osp.join(dataset.get('data_root') or '', dataset['ann_file'])
            classes = _named((dataset.get('metainfo') or {}).get('classes'))
            problem = _coco_problem(path, classes, trained_on=loader == 'train_dataloader')
        elif kind in CIFAR:
            problem = _cifar_problem(dict(dataset, download=False), kind)
        if problem:
            yield f'{loader}.dataset: {problem}'


def _datasets(cfg: dict, loaders: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Loaders and the configs of their data sets, without what wraps or joins them."""
    for loader in loaders:
        found = [(cfg.get(loader) or {}).get('dataset', {})]
        while found:
            dataset = found.pop(0)
            inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
            if inner:
                found = [*inner, *found]
            else:
                yield loader, dataset


def _named(classes: Union[str, Sequence[str], None]) -> Optional[Sequence[str]]:
    """Classes as mmengine reads them: a list, a file of them, or a single one."""
    if not isinstance(classes, str):
        return classes
    from mmengine.fileio import list_from_file

    return list_from_file(classes) if osp.isfile(classes) else [classes]


def _coco_problem(path: str, classes: Optional[Sequence[str]], trained_on: bool) -> Optional[str]:
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
    if trained_on and not content['annotations']:
        return f'{path} has no boxes'
    names = [category['name'] for category in content['categories']]
    if classes and not set(classes) & set(names):
        return (
            f'{path} has none of the classes {", ".join(classes)}: its categories are '
            f'{", ".join(names)}; check metainfo.classes'
        )
    return None


def _folder_problem(dataset: dict, kind: str) -> Optional[str]:
    """Of folders of images, with or without a list of them."""
    root, split = _path(dataset.get('data_root')), dataset.get('split') or ''
    prefix = dataset.get('data_prefix') or (split if kind != 'CustomDataset' else '')
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    folder = root / _path(prefix)
    where = 'check data_root and ' + ('split' if split and split == prefix else 'data_prefix')
    if not folder.is_dir():
        return f'there is no image folder {folder}; {where}'
    listed = dataset.get('ann_file')
    if not listed and split and (root / 'meta' / f'{split}.txt').is_file():
        listed = f'meta/{split}.txt'
    labelled = dataset.get('with_label', True) and split != 'test'
    if listed:
        return _list_problem(root / _path(listed), folder, labelled)
    extensions = tuple(e.lower() for e in dataset.get('extensions') or IMAGES)
    if not labelled:
        return None if _has_image(folder, extensions) else f'{folder} has no images; {where}'
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not folders:
        return (
            f'{folder} has no class folders: expected one for each class, with its images, such as '
            f'{folder / "cat" / "1.jpg"}; {where}. Images that lie together need an ann_file, with '
            f'a line "cat_1.jpg 0" for each'
        )
    if not any(_has_image(entry, extensions) for entry in folders):
        return (
            f'no class folder of {folder} ({folders[0].name}, ...) has an image with one of the '
            f'extensions {", ".join(extensions)}; {where}'
        )
    return _class_problem(dataset, kind, folder, len(folders))


def _list_problem(path: Path, folder: Path, labelled: bool) -> Optional[str]:
    """Of a file that lists images, and their labels."""
    if not path.is_file():
        return f'there is no annotation file {path}; check data_root and ann_file'
    with open(path, encoding='utf-8', errors='replace') as file:
        line = file.readline().rstrip('\n')
    if not line.strip():
        return f'{path} lists no images'
    name, _, label = line.strip().rpartition(' ') if labelled else (line, '', '0')
    if not name or not label.isdigit():
        return f'{path}: expected lines such as "cat/1.jpg 0", file and label, but got {line!r}'
    if not (folder / name).is_file():
        return (
            f'{path} lists {name}, but there is no file {folder / name}; check data_root and '
            f'data_prefix'
        )
    return None


def _class_problem(dataset: dict, kind: str, folder: Path, found: int) -> Optional[str]:
    """Of the number of class folders."""
    named = dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes')
    if isinstance(named, str) or (not named and kind != 'ImageNet'):
        return None  # a file that lists them, or as many as there are folders
    expected = len(named) if named else 1000
    if found == expected:
        return None
    said = 'metainfo.classes names' if named else 'ImageNet has'
    return (
        f'{folder} has {found} class folders, but {said} {expected} classes; for folders of your '
        f"own take type='CustomDataset' and set num_classes of the head and of data_preprocessor"
    )


def _cifar_problem(dataset: dict, kind: str) -> Optional[str]:
    prefix = dataset.get('data_prefix') or ''
    prefix = prefix.get('root', '') if isinstance(prefix, dict) else prefix
    folder = _path(dataset.get('data_root')) / _path(prefix) / CIFAR[kind]
    if folder.is_dir() or dataset.get('download', True):
        return None
    return (
        f'there is no folder {folder}; check data_root. With download=True it is downloaded, where '
        f'there is a network'
    )


def _path(value: Optional[str]) -> Path:
    return Path(osp.expanduser(value or ''))


def _has_image(folder: Path, extensions: tuple[str, ...]) -> bool:
    """Whether there is an image anywhere below a folder; looks no further than the first."""
    return any(
        name.lower().endswith(extensions)
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
