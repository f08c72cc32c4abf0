"""Loads what a training wrote: the student, and what was trained besides it."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmkd_fm.hooks.distill_state_hook import KEY


def load_trained(model: nn.Module, checkpoint: str, terms: Mapping[str, nn.Module]) -> dict:
    """Load a checkpoint into the model of its config.

    Args:
        model: The Distiller, or a plain model.
        checkpoint: File that the training wrote.
        terms: Distillation losses to load by their names, of those that the Distiller has; others
            stay as they are.

    Returns:
        The checkpoint's `meta`.

    Raises:
        ValueError: If the file holds no such losses or does not fit the config.
    """
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    terms = {name: loss for name, loss in terms.items() if loss.state_dict()}
    if terms and KEY not in loaded:
        raise ValueError(
            f'{checkpoint} has no distillation state, and what is trained besides the student '
            f"({', '.join(terms)}) is in none of the student's keys: {_lacking(terms)} exist in "
            f'training only. Exported students have none; give a checkpoint that the training '
            f'wrote, epoch_N.pth in its work dir, or look at the plain student, by its own config'
        )
    state = loaded.get(KEY, {})
    # where weights were averaged (EMA), the student's in this file are the averaged ones; with
    # them go the averaged extras, if these were averaged too (not with update_buffers)
    extras = next(iter(state.get('averaged_extras', {}).values()), state.get('extras', {}))
    try:
        model.load_state_dict(loaded.get('state_dict', loaded))
        for name, loss in terms.items():
            start = f'{name}.'
            own = {k[len(start) :]: v for k, v in extras.items() if k.startswith(start)}
            loss.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(
            f'{checkpoint} does not fit the config; give the config and the --cfg-options of its '
            f'training. {str(error)[:500]}'
        ) from error
    return loaded.get('meta', {})


def _lacking(terms: Mapping[str, nn.Module]) -> str:
    """What losses have trained, in words."""
    return ', '.join(
        f'the {"flows" if hasattr(loss, "flows") else "maps to the channels of the teacher"} of '
        f'losses.{name}'
        for name, loss in terms.items()
    )
