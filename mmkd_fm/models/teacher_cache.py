"""Remembers what the teacher gave for an image that it sees again."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

GIGABYTE = 10**9
_OVERHEAD = 1000
"""Bytes that a kept tensor takes besides its values, about; of a classifier's logits most."""


class TeacherCache:
    """Outputs of the teacher, kept by the content of its view of an image.

    Pixels are the key, so that a view that an augmentation changed is another one: what is read is
    always what the teacher would give. It is worth its memory where views come again, as with flips
    alone on a small data set, and useless with random crops or scales.

    A missing view goes through the teacher alone, so that what is kept does not depend on which
    images were its neighbours in the batch.

    Args:
        gigabytes: Main memory for what is kept, above 0; each process keeps its own. Once it is
            full nothing new is kept.

    Raises:
        ValueError: If the size is not above 0.

    Example:
        >>> cache = TeacherCache(0.5)
        >>> pyramid = cache(images, run)     # run(images[i : i + 1]) for each that is new
    """

    def __init__(self, gigabytes: float) -> None:
        number = isinstance(gigabytes, (int, float)) and not isinstance(gigabytes, bool)
        if not number or not gigabytes > 0:
            raise ValueError(
                f'teacher.cache is the memory in gigabytes for what the teacher gave, above 0, but '
                f'got {gigabytes!r}; leave it out to keep nothing'
            )
        self.gigabytes = gigabytes
        self.clear()

    def clear(self) -> None:
        """Forget everything, where the same views would give something else from now on."""
        self.room = self.gigabytes * GIGABYTE
        self.kept: dict[bytes, Any] = {}
        self.hits = self.misses = 0
        self.full = False

    def __call__(self, inputs: Tensor, run: Callable[[Tensor], Any], salt: str = '') -> Any:
        """What ``run`` gives for ``inputs``.

        Args:
            inputs: Views of the batch, shape (N, 3, H, W).
            run: From views of shape (1, 3, H, W) to tensors, each with a first axis of length 1, or
                to nested lists, tuples and dicts of such.
            salt: Tells apart what different functions give for the same view.

        Returns:
            The same structure, each tensor with a first axis of length N.

        Raises:
            ValueError: If the function gives something else.
        """
        corner = inputs[0, 0, :1, :1]
        salt = f'{salt} {(corner @ corner).dtype}'  # autocast: other outputs for the same view
        return _stack([self._one(view, run, salt) for view in inputs.split(1)], inputs.device)

    def _one(self, view: Tensor, run: Callable[[Tensor], Any], salt: str) -> Any:
        digest = hashlib.blake2b(f'{salt} {tuple(view.shape)} {view.dtype}'.encode())
        digest.update(view.detach().cpu().contiguous().view(torch.uint8).numpy())
        key = digest.digest()
        if key in self.kept:
            self.hits += 1
            return self.kept[key]
        self.misses += 1
        output = _on_cpu(run(view))
        if not self.full:
            self._keep(key, output)
        return output

    def _keep(self, key: bytes, output: Any) -> None:
        self.room -= _bytes(output)
        self.full = self.room < 0
        if not self.full:
            self.kept[key] = output
            return
        share = self.hits / (self.hits + self.misses)
        print_log(
            f'teacher cache: {self.gigabytes:g} GB are full with {len(self.kept)} views; '
            f'{share:.0%} of the views so far had come before. Others are computed each time: '
            f'raise model.teacher.cache, or leave it out where hardly any view comes again, as '
            f'with random crops or scales',
            'current',
        )


def _on_cpu(output: Any) -> Any:
    """Copies of all tensors, off the device."""
    if isinstance(output, Tensor):
        if output.ndim == 0 or len(output) != 1:
            raise ValueError(
                f'teacher.cache keeps tensors whose first axis is that of the images, but of one '
                f'image the teacher gave the shape {tuple(output.shape)}; leave '
                f'model.teacher.cache out for this tap'
            )
        return output.detach().to('cpu', copy=True)
    if isinstance(output, dict):
        return {key: _on_cpu(part) for key, part in output.items()}
    if isinstance(output, (list, tuple)):
        return tuple(_on_cpu(part) for part in output)
    raise ValueError(
        f'teacher.cache keeps tensors, but the teacher gave {type(output).__name__}; leave '
        f'model.teacher.cache out for this tap'
    )


def _bytes(output: Any) -> int:
    if isinstance(output, Tensor):
        return output.numel() * output.element_size() + _OVERHEAD
    return sum(map(_bytes, output.values() if isinstance(output, dict) else output))


def _stack(outputs: Sequence[Any], device: torch.device) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs)).to(device)
    if isinstance(first, dict):
        return {key: _stack([output[key] for output in outputs], device) for key in first}
    return tuple(_stack(parts, device) for parts in zip(*outputs))
