"""Measures what taps give, on a built model, by one small forward that leaves no trace."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar, Union

import torch
from torch import Tensor, nn

from mmkd_fm.models.alignment import Tapped, measure
from mmkd_fm.models.head_logits import check_no_queries
from mmkd_fm.models.roi import find_stage
from mmkd_fm.models.taps import Records, Tap, Taps, find_module, read, record, tap_paths
from mmkd_fm.registry import placed

_SIZES = (128, 256, 384, 512, 224)
"""Sides of the images that models are measured with; the first that a model takes (SSD needs 300
pixels, group norms more than one value). All are multiples of all strides but the last, which is
for classifiers of that size alone."""

Measured = Union[Tapped, dict[str, Tapped]]
_Result = TypeVar('_Result')


def measure_taps(
    model: nn.Module, taps: dict[str, Taps], owner: str, scale: float = 1
) -> dict[str, Measured]:
    """Channels and strides at each tap; of box heads on RoIs what feeds them, without a forward.

    Args:
        model: The student or the teacher.
        taps: Of each term.
        owner: 'student' or 'teacher'.
        scale: Size of its images over that of the student's.

    Raises:
        ValueError: If a tap is no module that can be distilled, or the forward does not get there.
    """
    for path in tap_paths(taps.values()):
        with placed(f'the {owner}'):
            find_module(model, path)
            check_no_queries(model, path)
    stages = {path: find_stage(model, path, owner) for path in tap_paths(taps.values())}
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        paths = {path for path, stage in stages.items() if stage is None}
        records, size = where_it_runs(model, lambda device: _probe(model, paths, owner, device))
    finally:
        for module, mode in training.items():
            module.training = mode

    def tapped(tap: Tap) -> Tapped:
        module, stage = find_module(model, tap.path), stages[tap.path]
        levels = () if stage else measure(read(records, tap, model), size, scale)
        return Tapped(owner, tap, module, levels, stage)

    return {
        name: {part: tapped(tap) for part, tap in t.items()} if isinstance(t, dict) else tapped(t)
        for name, t in taps.items()
    }


def without_modules(measured: dict[str, Measured]) -> dict[str, Measured]:
    """What was measured, without references to the model."""
    return {
        name: without_modules(t) if isinstance(t, dict) else replace(t, module=nn.Identity())
        for name, t in measured.items()
    }


def where_it_runs(module: nn.Module, forward: Callable[[torch.device], _Result]) -> _Result:
    """What a forward gives on the CPU, or else on the GPU: some operators have no form for a CPU.

    Args:
        module: It is on the CPU, and is left there.
        forward: Called with the device that the module is on.
    """
    try:
        return forward(torch.device('cpu'))
    except Exception:
        if not torch.cuda.is_available():
            raise
    try:
        module.cuda()
        return forward(torch.device('cuda', torch.cuda.current_device()))
    finally:
        module.cpu()


@torch.no_grad()
def _probe(
    model: nn.Module, paths: set[str], owner: str, device: torch.device
) -> tuple[Records, int]:
    """What is recorded at ``paths`` for a blank image, and its side in pixels."""
    if not paths:
        return {}, _SIZES[0]
    found = None  # what a size gave by which some levels look alike
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    counts = dict.fromkeys([3 if mean is None else len(mean), 3])  # of channels: 1 of grey images
    for channels, size in product(counts, _SIZES):
        if found and size % (2 * found[1]):  # no multiple of the strides that are looked for
            continue
        image = torch.zeros(1, channels, size, size, device=device)
        with record(model, paths) as records:
            try:
                model(image, mode='tensor')  # to its end, so that a module called twice is seen
            except Exception as error:  # RPNs and queries need samples; often all is recorded then
                reason = error
                if not all(records.values()):
                    continue
        found = found or (records, size)
        if not any(_alike(output) for calls in records.values() for output, _ in calls):
            return records, size
    if found:
        return found
    missed = sorted(path for path, calls in records.items() if not calls)
    of_device = ' (where it has an operator that a CPU has not, build it where a GPU is)'
    raise ValueError(
        f'the {owner} ({type(model).__name__}) does not get as far as {", ".join(missed)} on a '
        f'blank image of {", ".join(map(str, _SIZES))} pixels without labels (of the last: '
        f'{type(reason).__name__}: {reason}). Such modules can not be '
        f"tapped; tap 'neck' or 'backbone', or of a two-stage detector 'roi_head.bbox_head'"
        + (of_device if 'cpu' in str(reason).lower() and device.type == 'cpu' else '')
    ) from reason


def _alike(output: Any) -> bool:
    """Whether several maps have a single location, so that their strides look the same."""
    if not isinstance(output, (list, tuple)):
        return False
    single = [m for m in output if isinstance(m, Tensor) and m.ndim == 4 and m[0, 0].numel() == 1]
    return len(single) > 1 or any(map(_alike, output))
