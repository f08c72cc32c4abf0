"""Imports the stack and runs mmcv's compiled operators, for doctor.py.

It runs as a process of its own, because a broken extension can end the process. Every result is a
line of JSON; what is about to be tried is announced first, so that a crash has a culprit.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

MARK = '@doctor '
ROOT = Path(__file__).resolve().parents[1]

# module -> what has to work before it is worth trying
MODULES = {
    'pkg_resources': (),
    'numpy': (),
    'cv2': ('numpy',),
    'pycocotools.mask': ('numpy',),
    'torch': (),
    'torchvision': ('torch',),
    'mmengine': ('torch',),
    'mmcv': ('mmengine', 'cv2'),
    'mmcv.ops': ('mmcv',),
    'mmdet.models': ('mmcv.ops',),
    'mmpretrain.models': ('mmcv', 'torchvision'),
    'mmkd_fm': ('torch',),
}


def nms(torch, ops, device):
    """Two boxes on top of each other and one apart."""
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4], [5, 5, 9, 9]], dtype=torch.float32)
    scores = torch.tensor([0.9, 0.8, 0.7])
    _, kept = ops.nms(boxes.to(device), scores.to(device), 0.5)
    return kept.tolist() == [0, 2]


def roi_align(torch, ops, device):
    """A constant map gives a constant."""
    rois = torch.tensor([[0.0, 0, 0, 4, 4]], device=device)
    out = ops.roi_align(torch.ones(1, 1, 8, 8, device=device), rois, (2, 2))
    return bool((out == 1).all())


def deform_conv2d(torch, ops, device):
    """Without offsets it is a convolution."""
    x = torch.ones(1, 1, 5, 5, device=device)
    weight = torch.ones(1, 1, 3, 3, device=device)
    out = ops.deform_conv2d(x, torch.zeros(1, 18, 3, 3, device=device), weight, 1, 0)
    return bool((out == 9).all())


def sigmoid_focal_loss(torch, ops, device):
    """Logits 0 and gamma 2: -(1 - p)^2 log p at p = 0.5, times alpha."""
    target = torch.zeros(1, dtype=torch.long, device=device)
    loss = ops.sigmoid_focal_loss(torch.zeros(1, 1, device=device), target, 2.0, 0.25)
    return abs(float(loss) - 0.25 * 0.25 * 0.693147) < 1e-5


OPS = (nms, roi_align, deform_conv2d, sigmoid_focal_loss)
GPU_ONLY = {'sigmoid_focal_loss'}  # on the CPU mmdet uses a form of its own, in plain PyTorch


def say(**message) -> None:
    """One line for doctor.py."""
    print(MARK + json.dumps(message), flush=True)


def short(error: BaseException) -> str:
    """The error in one line, without the pages that numpy writes."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text}'[:400]


def probe_imports() -> set[str]:
    """Imports all modules that are there; returns those that work."""
    works = set()
    for name, needs in MODULES.items():
        if not works.issuperset(needs):
            continue
        say(trying={'module': name})
        try:
            if importlib.util.find_spec(name.split('.')[0]) is None:
                continue
            importlib.import_module(name)
        except BaseException as error:
            say(module=name, error=short(error))
        else:
            works.add(name)
            say(module=name, error='')
    return works


def probe_ops() -> None:
    """Runs every operator on every device at hand."""
    import torch
    from mmcv import ops

    say(fact='mmcv_cuda', value=ops.get_compiling_cuda_version())
    for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
        for op in OPS:
            if device == 'cpu' and op.__name__ in GPU_ONLY:
                continue
            say(trying={'op': op.__name__, 'device': device})
            try:
                error = '' if op(torch, ops, device) else 'wrong result'
            except BaseException as caught:
                error = short(caught)
            say(op=op.__name__, device=device, error=error)


def probe_torch() -> None:
    """The build of torch and the GPU."""
    import torch

    say(fact='torch_build', value=torch.__version__)
    say(fact='torch_cuda', value=torch.version.cuda or '')
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        text = f'{torch.cuda.device_count()} x {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB'
        say(fact='gpu', value=f'{text}, sm_{gpu.major}{gpu.minor}')


def run_probe() -> list[dict]:
    """Runs this file as a process; returns what it said, and what it was at if it crashed."""
    result = subprocess.run(
        [sys.executable, str(Path(__file__))], capture_output=True, text=True, errors='replace'
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith(MARK)]
    messages = [json.loads(line[len(MARK) :]) for line in lines]
    if result.returncode != 0 and not messages:
        raise RuntimeError(f'{__file__} does not start:\n{result.stderr[-800:]}')
    if result.returncode != 0 and 'trying' in messages[-1]:
        error = f'the process ended with code {result.returncode}'
        messages.append({**messages[-1]['trying'], 'error': error})
    return messages


def main() -> None:
    """Tries everything."""
    here = str(ROOT / 'tools')  # holds names such as `test`, which are not meant by anyone here
    sys.path[:] = [place for place in sys.path if place != here] + [str(ROOT)]
    works = probe_imports()
    if 'torch' in works:
        probe_torch()
    if 'mmcv.ops' in works:
        probe_ops()
    if 'mmkd_fm' in works:
        say(fact='mmkd_fm', value=sys.modules['mmkd_fm'].__version__)


if __name__ == '__main__':
    main()
