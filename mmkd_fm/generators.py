"""Random generators of a process: read, write, and leave as they were."""

import random
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def generator_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's CPU generator and that of the current CUDA device.

    Each process trains on one device; the others it sees may be absent where it is resumed.
    """
    state = dict(python=random.getstate(), numpy=np.random.get_state(), torch=torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_generator_state(state: dict[str, Any]) -> None:
    """Restore what `generator_state` returned; CUDA's on the current device, whichever it was."""
    random.setstate(_as_tuples(state['python']))
    np.random.set_state(tuple(state['numpy']))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextmanager
def preserved_generators():
    """Leave all generators as they were, whatever is drawn inside."""
    state = generator_state()
    try:
        yield
    finally:
        set_generator_state(state)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value
