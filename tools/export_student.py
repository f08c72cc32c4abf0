"""Export a distilled student as a plain model: a config and a checkpoint without this package.

python tools/export_student.py CONFIG CHECKPOINT OUT_DIR [--nfe N]

The checkpoints of a zero-cost student are those of the plain model already; this strips the
training state and writes the config that they belong to. A student with a FlowNeck or a FlowClsHead
becomes the plain model too (NFE 0) if it was trained for that, or keeps its flow with `--nfe N`.
"""

import argparse
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

from mm_tool import explained, package_of

PARTS = {'neck': [1, 2, 4], 'head': 8}
"""Where a flow may stand in a model, and its default steps; what it wraps has the same name."""

SHARED = ('custom_hooks', 'val_evaluator', 'test_evaluator')
"""Lists in a config where what is ours stands beside what is not."""

PROBE_SIZE = 128  # pixels, a multiple of all strides


def main() -> None:
    """Write OUT_DIR/CONFIG.py and OUT_DIR/student.pth, and check that one fits the other."""
    from mmengine.config import Config
    from mmengine.runner.checkpoint import CheckpointLoader, save_checkpoint

    from mmkd_fm.models.teacher import plain_model

    arguments = _parse()
    folder = Path(arguments.out_dir)
    config, checkpoint = folder / Path(arguments.config).name, folder / 'student.pth'
    refuse_overwriting(config, arguments.config)
    refuse_overwriting(checkpoint, arguments.checkpoint)
    if not Path(arguments.checkpoint).is_file() and '://' not in arguments.checkpoint:
        raise SystemExit(f'error: there is no checkpoint {arguments.checkpoint!r}')
    if arguments.nfe < 0:
        raise SystemExit(f'error: --nfe: expected 0 or more, got {arguments.nfe}')
    if folder.exists() and not folder.is_dir():
        raise SystemExit(f'error: {folder} is a file; choose another OUT_DIR')
    cfg = Config.fromfile(arguments.config)
    cfg.merge_from_dict(arguments.cfg_options)
    if 'model' not in cfg:
        raise SystemExit(f'error: {arguments.config} has no model; give a complete config')
    enter_scope(cfg)
    try:
        loaded = CheckpointLoader.load_checkpoint(arguments.checkpoint, map_location='cpu')
    except (OSError, UnpicklingError) as error:  # they say what is wrong with it
        raise SystemExit(f'error: {error}') from error
    state = dict(loaded.get('state_dict', loaded))
    cfg.model = plain_model(cfg.model)
    if arguments.nfe:
        set_steps(cfg.model, arguments.nfe)
    else:
        state = unwrap(cfg.model, state)
    drop_own_weights(cfg, arguments.checkpoint)
    strip(cfg)
    try:
        check(cfg, state)
    except RuntimeError as error:  # says which keys
        raise SystemExit(
            f'error: {arguments.checkpoint} does not fit the student of {arguments.config}, give '
            f'the config and the --cfg-options of its training: {shorten(str(error), 400)}'
        ) from error
    text = cfg.dump()  # fails, if it does, before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding='utf-8')
    meta = {k: v for k, v in loaded.get('meta', {}).items() if k in ('dataset_meta', 'epoch')}
    save_checkpoint(dict(state_dict=state, meta=meta), str(checkpoint))
    print(f'written, and loaded strictly: {config} {checkpoint}')
    kept = sorted(set(own_types(list(cfg.values()))))
    if kept:
        print(f'the exported config needs this package, mmkd_fm, for {", ".join(kept)}')


def _parse() -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description='Export a distilled student: a plain config and a plain checkpoint.'
    )
    parser.add_argument('config', help='config that the student was trained with')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('out_dir', help='folder for the config and student.pth')
    parser.add_argument(
        '--nfe', type=int, default=0, metavar='N', help='keep the flow, with N steps (default: 0)'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args()


def refuse_overwriting(written: Path, read: str) -> None:
    """Refuse to write over what is read, or over a distillation's config, as a work dir has one.

    The training could not be resumed then.

    Raises:
        SystemExit: If both are one file, or there is such a config.
    """
    if written.resolve() == Path(read).resolve() or is_distillation(written):
        raise SystemExit(f'error: {written} would be overwritten; choose another OUT_DIR')


def is_distillation(path: Path) -> bool:
    """Whether there is a config of a distillation; one that can't be read is none."""
    from mmengine.config import Config

    if path.suffix != '.py' or not path.is_file():
        return False
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except Exception:  # any that a config's own code raises
        return False
    return 'student' in (cfg.get('model') or {})


def flows(model: dict) -> list[str]:
    """Parts of a model config that carry a flow.

    Raises:
        SystemExit: If it is one of several necks.
    """
    for part in PARTS:
        if isinstance(model.get(part), (list, tuple)) and any(map(is_flow, model[part])):
            raise SystemExit(
                f'error: {part} is a list with a flow in it, which is not exported; put the list '
                f'into the FlowNeck'
            )
    return [part for part in PARTS if is_flow(model.get(part))]


def is_flow(part: Any) -> bool:
    """Whether a part of a model config is one of our wrappers."""
    kind = part.get('type', '') if isinstance(part, dict) else ''
    name = kind.__name__ if isinstance(kind, type) else kind
    return name.rpartition('.')[2] in ('FlowNeck', 'FlowClsHead')


def numbers_of_steps(part: str, wrapper: dict) -> list[int]:
    """Those that a flow at a part of a model is trained with."""
    steps = (wrapper.get('flow') or {}).get('num_steps', PARTS[part])
    return list(steps) if isinstance(steps, (list, tuple)) else [steps]


def set_steps(model: dict, nfe: int) -> None:
    """Set the number of steps at inference.

    Raises:
        SystemExit: If the student has no flow.
    """
    if not flows(model):
        raise SystemExit('error: this student has no flow at inference; leave out --nfe')
    for part in flows(model):
        model[part]['nfe'] = nfe


def unwrap(model: dict, state: dict) -> dict:
    """Take the flows out of a model config, in place, and out of its state.

    Raises:
        SystemExit: If the head never saw features without the flow.
    """
    for part in flows(model):
        wrapper, inner = model[part], f'{part}.{part}.'
        num_steps = numbers_of_steps(part, wrapper)
        if 0 not in num_steps:
            listed = ', '.join(map(str, num_steps))
            raise SystemExit(
                f'error: this student was trained with {listed} flow steps: its head never read '
                f'features without the flow. Export it with the flow, --nfe 1, or train with 0 '
                f'among num_steps'
            )
        model[part] = wrapper[part]
        if part == 'head' and not model.get('neck') and gives_maps(model['backbone']):
            model['neck'] = dict(type='GlobalAveragePooling')  # FlowClsHead pools by itself
        state = {
            key.replace(inner, f'{part}.', 1) if key.startswith(inner) else key: value
            for key, value in state.items()
            if key.startswith(inner) or not key.startswith(f'{part}.')
        }
    return state


def gives_maps(backbone: dict) -> bool:
    """Whether the last feature of a backbone, given by its config, is a map."""
    import torch

    from mmkd_fm.registry import MODELS

    model = MODELS.build(dict(backbone, init_cfg=None))
    model.eval()
    with torch.no_grad():
        return model(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))[-1].ndim == 4


def own_types(value: Any) -> Iterator[str]:
    """Names of this package, such as its types, anywhere in a part of a config."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from own_types(item)
    elif isinstance(value, type):
        yield from own_types(f'{value.__module__}.{value.__name__}')
    elif isinstance(value, str) and (value == 'mmkd_fm' or value.startswith('mmkd_fm.')):
        yield value


def is_own(value: Any) -> bool:
    """Whether there is a name of this package in a part of a config."""
    return any(own_types(value))


def strip(cfg: dict) -> None:
    """Drop what only distillation needs from a config, in place.

    Of imports, hooks and metrics only those that are ours go, and of an InMemory its wrapping. Any
    other part that names a type of this package and that no Runner takes is a variable of the
    config, such as the losses to choose from. The work dir was that of the distillation, and so
    is what was resumed there.
    """
    from mmengine.runner import Runner

    of_runner = inspect.signature(Runner).parameters
    cfg.pop('work_dir', None)
    if cfg.get('resume'):  # a test would look for a training's state
        cfg.update(resume=False, load_from=None)
    for name in [n for n in cfg if n != 'model' and is_own(cfg[n])]:
        part = without_in_memory(cfg.pop(name))
        if name == 'custom_imports':
            imports = [item for item in _as_list(part['imports']) if not is_own(item)]
            cfg[name] = dict(part, imports=imports)
        elif name == 'default_hooks':
            # dict.items: a ConfigDict's own imports lazy objects, which could not be written then
            cfg[name] = {key: hook for key, hook in dict.items(part) if not is_own(hook)}
        elif name in SHARED:
            cfg[name] = [item for item in _as_list(part) if not is_own(item)]
        elif name in of_runner or not is_own(part):
            cfg[name] = part


def drop_own_weights(cfg: dict, checkpoint: str) -> None:
    """Drop a `load_from` of the training's own weights from its config, in place, and say so.

    A test of mmdet's leaves it in the work dir: the plain student would start from them.
    """
    found = cfg.get('load_from')
    if not found:
        return
    path, work_dir = Path(found).resolve(), cfg.get('work_dir')
    of_run = work_dir and path.parent == Path(work_dir).resolve()
    if of_run or path == Path(checkpoint).resolve():
        cfg['load_from'] = None
        print(f'load_from={found}, weights of this training, is not in the exported config')


def without_in_memory(part: Any) -> Any:
    """A part of a config with the steps of each InMemory in its place."""
    if isinstance(part, dict):
        return type(part)({key: without_in_memory(value) for key, value in dict.items(part)})
    if not isinstance(part, (list, tuple)):
        return part
    items: list = []
    for item in map(without_in_memory, part):
        kind = next(own_types(item.get('type')), '') if isinstance(item, dict) else ''
        items.extend(item['transforms'] if kind.endswith('.InMemory') else [item])
    return type(part)(items)


def _as_list(part: Any) -> list:
    return list(part) if isinstance(part, (list, tuple)) else [part]


def enter_scope(cfg: dict) -> None:
    """Make the config's package the one that unscoped types are looked for in."""
    from mmengine.registry import init_default_scope

    scope = package_of(cfg) or 'mmdet'
    init_default_scope(scope)
    importlib.import_module(f'{scope}.models')


def check(cfg: dict, state: dict) -> None:
    """Build the exported student and load its state strictly."""
    from mmkd_fm.registry import MODELS

    model = MODELS.build(dict(cfg.model, init_cfg=None))
    model.load_state_dict(state, strict=True)


if __name__ == '__main__':
    with explained(logs=False):
        main()
