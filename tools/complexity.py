"""Parameters, GFLOPs and latency of a detector, as the tables of this project count them."""

import statistics
import time
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(model: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(p.numel() for p in model.parameters())


def gflops(model: nn.Module, image: Tensor) -> float:
    """Billions of multiply-adds of the network on ``image``, shape (N, 3, H, W), in eval mode.

    A multiply-add counts as one, as in mmdet's tables. Box decoding and NMS are not counted.
    """
    with torch.no_grad(), _plain_attention(), FlopCounterMode(display=False) as counter:
        model(image, mode='tensor')
    return counter.get_total_flops() / 2e9


def latency(model: nn.Module, image: Tensor, repeats: int = 10, warmup: int = 3) -> float:
    """Median seconds of the network's forward on ``image``, shape (N, 3, H, W), in eval mode."""
    seconds = []
    with torch.no_grad():
        for _ in range(warmup + repeats):
            synchronise(image.device)
            start = time.perf_counter()
            model(image, mode='tensor')
            synchronise(image.device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warmup:])


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
