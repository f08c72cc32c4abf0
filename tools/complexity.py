"""Parameters, GFLOPs and latency of a model, as the tables of this project count them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(p.numel() for p in model.parameters())


def gflops(model: nn.Module, image: Tensor, samples: list | None = None) -> float:
    """Billions of multiply-adds of the network on ``image``, shape (N, 3, H, W), in eval mode.

    Box decoding and NMS are not counted.

    Args:
        model: The network.
        image: Its input.
        samples: The N data samples, which heads of two stages and of queries read.
    """
    return call_gflops(lambda: model(image, samples, mode='tensor'))


def call_gflops(call: Callable[[], Any]) -> float:
    """Billions of multiply-adds of the matrix products and convolutions in ``call()``.

    A multiply-add counts as one, as in mmdet's tables.
    """
    with torch.no_grad(), _plain_attention(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2e9


def latency(
    model: nn.Module,
    image: Tensor,
    samples: list | None = None,
    repeats: int = 10,
    warmup: int = 3,
) -> float:
    """Median seconds of the network's forward; the arguments are those of `gflops`."""
    seconds = []
    with torch.no_grad():
        for _ in range(warmup + repeats):
            start = now(image.device)
            model(image, samples, mode='tensor')
            seconds.append(now(image.device) - start)
    return statistics.median(seconds[warmup:])


def now(device: torch.device) -> float:
    """Seconds on a clock once all that was launched on ``device`` is done.

    With one thread of the CPU it is processor time, to which other processes add nothing.
    """
    synchronise(device)
    alone = device.type == 'cpu' and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def synchronise(device: torch.device) -> None:
    """Wait until all that was launched on ``device`` is done."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


@contextmanager
def _plain_attention():
    """Attention by matrix products, which are counted; not all fused kernels are."""
    if not hasattr(torch.nn, 'attention'):
        with torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False):
            yield
    else:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
