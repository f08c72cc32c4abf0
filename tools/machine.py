"""The device that something is measured on: its name, and kernels that it shares with others."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

AVX2 = dict(
    ATEN_CPU_CAPABILITY='avx2',
    ONEDNN_MAX_CPU_ISA='AVX2',
    MKL_ENABLE_INSTRUCTIONS='AVX2',
)
"""Environment in which torch, oneDNN and MKL use no newer instructions than AVX2.

Kernels for other instructions add in another order, and trainings drift apart.
"""


def has_avx2() -> bool:
    """Whether the processor has these instructions, or newer ones."""
    return torch.backends.cpu.get_cpu_capability() in ('AVX2', 'AVX512')


def device_name(device: torch.device) -> str:
    """Model of the GPU or of the processor, as results state it."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
