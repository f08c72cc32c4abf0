"""Names of the classes that a model was trained with, from its checkpoint or its config."""

from collections.abc import Sequence
from typing import Any, Optional, Union

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.hub import get_config
from mmengine.registry import DATASETS
from mmengine.runner.checkpoint import CheckpointLoader

from mmkd_fm import checkpoint as checkpoint  # installs the safe checkpoint loader


def class_names(source: Union[str, dict]) -> Optional[list[str]]:
    """Names of the classes that a model was trained with, in the order of its logits.

    Args:
        source: A config (a file, a name such as 'mmdet::retinanet/...py', or a dict), or a
            checkpoint (any other file, a URL, or what was read from it).

    Returns:
        None if the source does not say.

    Raises:
        FileNotFoundError: If there is no such file.

    Example:
        >>> class_names('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')[:2]
        ['person', 'bicycle']
    """
    if isinstance(source, str) and '::' in source:
        source = get_config(source)
    elif isinstance(source, str) and source.endswith(('.py', '.json', '.yaml', '.yml')):
        source = Config.fromfile(source)
    elif isinstance(source, str):
        source = CheckpointLoader.load_checkpoint(source, map_location='cpu')
    if 'train_dataloader' in source:
        classes = _of_config(source)
    else:
        meta = source.get('meta') or {}
        classes = classes_of(meta.get('dataset_meta') or meta)  # directly in meta in older files
    return None if classes is None else list(classes)


def classes_of(metainfo: Union[dict, Sequence[dict], None]) -> Optional[Sequence[str]]:
    """Classes that the `metainfo` of a data set names.

    Args:
        metainfo: A dict; of a `ConcatDataset` whose parts differ mmdet makes a list of theirs.

    Returns:
        None if it names none, or the parts name others.
    """
    parts = metainfo if isinstance(metainfo, (list, tuple)) else [metainfo or {}]
    named = [part.get('classes', part.get('CLASSES')) for part in parts]  # upper case in older
    return named[0] if named and all(classes == named[0] for classes in named) else None


def _of_config(config: dict) -> Optional[Sequence[str]]:
    """Classes of the training data set of a config."""
    dataset: Any = config['train_dataloader']['dataset']
    while 'dataset' in dataset or 'datasets' in dataset:  # wrappers
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    classes = dataset.get('metainfo', {}).get('classes') or dataset.get('classes')
    if isinstance(classes, str):
        return list_from_file(classes)
    return classes or dataset_classes(dataset['type'], config.get('default_scope'))


def dataset_classes(kind: Union[str, type], scope: Optional[str] = None) -> Optional[Sequence[str]]:
    """Classes that a type of data set has of itself.

    Args:
        kind: The type or its name, such as 'mmdet.CocoDataset'.
        scope: Where to look for a name without one; None takes the default scope.

    Returns:
        None if there is no such type or it has none.
    """
    if isinstance(kind, str):
        scope, _, kind = kind.rpartition('.') if '.' in kind else (scope, '', kind)
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return getattr(kind, 'METAINFO', {}).get('classes')
