"""Taps: named module outputs of a model, recorded during one forward.

Modules are tapped by wrapping their `forward` on the instance, not by forward hooks: mmdet calls
`head.forward(x)` directly in places, which hooks never see.
"""

import difflib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

TAP_OPTIONS = ('tap', 'index', 'teacher_tap', 'teacher_index')
"""Names under which a term's config says what it taps."""


@dataclass(frozen=True)
class Tap:
    """Which output to read.

    Attributes:
        path: Module path from the model's root, such as 'neck' or 'bbox_head'.
        index: Item of the module's output, where that is a tuple: 0 is the classification scores
            of a dense head. None takes the whole output.
    """

    path: str
    index: Optional[int] = None

    def __str__(self) -> str:
        return self.path if self.index is None else f'{self.path}[{self.index}]'


Taps = Union[Tap, dict[str, Tap]]
"""What one loss reads: a tap, or several by name."""


def make_taps(
    path: Union[str, dict[str, str]], index: Union[int, dict[str, int], None] = None
) -> Taps:
    """A tap for a path, or for each path of a dict, with the same index or with those of a dict.

    Raises:
        ValueError: If a path is no text, or the indices have names that the paths have not.
    """
    names = path if isinstance(path, dict) else {}
    if not all(isinstance(p, str) for p in (names.values() or [path])):
        raise ValueError(
            f"a tap is the path of a module, such as 'neck', or a dict of names and paths, got "
            f'{path!r}'
        )
    if isinstance(index, dict) and not set(index) <= set(names):
        raise ValueError(
            f'index={index} names other outputs than tap={path!r}; give a dict of paths with the '
            f'same names'
        )
    if not isinstance(path, dict):
        return Tap(path, index)
    indices = index if isinstance(index, dict) else dict.fromkeys(path, index)
    return {name: Tap(p, indices.get(name)) for name, p in path.items()}


def tap_paths(taps: Iterable[Taps]) -> set[str]:
    """All module paths in ``taps``."""
    return {
        tap.path for some in taps for tap in (some.values() if isinstance(some, dict) else [some])
    }


class _AllRecorded(Exception):
    """Ends a forward early: everything that was asked for has been recorded."""


Records = dict[str, list[tuple[Any, tuple[int, ...]]]]


def find_module(model: nn.Module, path: str) -> nn.Module:
    """The submodule at ``path``.

    Raises:
        ValueError: If there is none; the message suggests near names.
    """
    module, walked = model, ''
    for name in path.split('.'):
        # named_children() names a shared module once
        children = {name: child for name, child in module._modules.items() if child is not None}
        if name not in children:
            near = difflib.get_close_matches(name, children, n=1)
            inside = f"'{walked}' of {type(model).__name__}" if walked else type(model).__name__
            raise ValueError(
                f'tap {path!r}: no module {name!r} in {inside}'
                + (f'; did you mean {near[0]!r}?' if near else ';')
                + f' Modules there: {", ".join(children) or "none"}'
            )
        module, walked = children[name], f'{walked}.{name}'.lstrip('.')
    return module


def tensors(output: Any) -> list[Tensor]:
    """All tensors in what a module gave."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in tensors(item)]
    return []


def containers_of(output: Any) -> Any:
    """The same tensors in lists and tuples of our own: a head may replace items of its own."""
    if type(output) in (list, tuple):
        return type(output)(containers_of(item) for item in output)
    return output


def versions_of(output: Any) -> tuple[int, ...]:
    """How often each tensor in what a module gave was modified in place."""
    return tuple(tensor._version for tensor in tensors(output))


@contextmanager
def record(
    model: nn.Module,
    paths: Iterable[str],
    stop_early: bool = False,
    inputs: Iterable[str] = (),
) -> Iterator[Records]:
    """Record the outputs of the modules at ``paths`` while the context is open.

    Args:
        model: Model whose modules are tapped; it is left as it was on exit, also after an error.
        paths: Module paths.
        stop_early: End the forward as soon as every module has given an output, so that nothing
            behind the deepest tap is computed.
        inputs: Paths of modules whose arguments are recorded instead, in their order.

    Yields:
        For each path the list of its outputs, or arguments, one per call; read them with `read`.
        Calls without gradients don't count beside others: samplers that mine hard examples (OHEM,
        PISA) try a box head on all candidates first.

    Example:
        >>> with record(detector, ['neck']) as records:
        ...     detector(images)
        >>> pyramid = read(records, Tap('neck'), detector)
    """
    inputs = set(inputs)
    records: Records = {path: [] for path in {*paths, *inputs}}
    graded: dict[str, list[bool]] = {path: [] for path in records}
    modules = {path: find_module(model, path) for path in records}
    originals = {module: module.__dict__.get('forward') for module in modules.values()}

    def tapped(path: str, forward):
        @torch.compiler.disable(recursive=False)  # traced tensors have other versions
        @wraps(forward, updated=())  # not what marks it as compiled
        def call(*args, **kwargs):
            output = forward(*args, **kwargs)
            kept = containers_of(_ordered(forward, args, kwargs) if path in inputs else output)
            records[path].append((kept, versions_of(kept)))
            graded[path].append(torch.is_grad_enabled())
            if stop_early and all(records.values()):
                raise _AllRecorded
            return output

        return call

    for path, module in modules.items():
        module.forward = tapped(path, module.forward)
    try:
        yield records
    except _AllRecorded:
        pass
    finally:
        for module, original in originals.items():
            del module.forward
            if original is not None:
                module.forward = original
        for path in records:
            if any(graded[path]):
                records[path][:] = [c for c, g in zip(records[path], graded[path]) if g]


def _ordered(forward, args: tuple, kwargs: dict) -> tuple:
    """Arguments in the order of the signature, those too that were given by their names."""
    return inspect.signature(forward).bind(*args, **kwargs).args if kwargs else args


def read(records: Records, tap: Taps, model: nn.Module) -> Any:
    """What ``tap`` recorded; a dict for a dict of taps.

    Raises:
        ValueError: If the module was not called exactly once, or its output has no such item.
        RuntimeError: If its output was modified in place after it was recorded.
    """
    if isinstance(tap, dict):
        return {name: read(records, one, model) for name, one in tap.items()}
    calls, name = records[tap.path], type(model).__name__
    if len(calls) != 1:
        times = f'called {len(calls)} times' if calls else 'never called'
        parent, _, tapped = tap.path.rpartition('.')
        module = find_module(model, parent) if parent else model
        raise ValueError(
            f'tap {str(tap)!r}: the module was {times} in one forward of {name}, but once is '
            f'expected; tap another module'
            + ('' if calls else f", or call it in {name}._forward, which mode='tensor' runs")
            + '. Neighbours: '
            + (', '.join(n for n, _ in module.named_children() if n != tapped) or 'none')
        )
    output, versions = calls[0]
    if versions != versions_of(output):
        raise RuntimeError(
            f'tap {str(tap)!r}: {name} modified the output in place after it was recorded; '
            f'tap the module that uses it, or set inplace=False there'
        )
    if tap.index is None:
        return output
    if not isinstance(output, (list, tuple)) or not -len(output) <= tap.index < len(output):
        got = f'{len(output)} items' if isinstance(output, (list, tuple)) else type(output).__name__
        raise ValueError(
            f'tap {str(tap)!r}: index {tap.index} is out of range, the output of {tap.path!r} in '
            f'{name} is {got}'
        )
    return output[tap.index]
