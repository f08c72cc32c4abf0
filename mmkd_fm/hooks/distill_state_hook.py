"""Keep what an exact resume needs besides the plain student's checkpoint."""

import logging
import math
from functools import partial
from typing import Any, Optional

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from mmkd_fm.generators import generator_state, set_generator_state
from mmkd_fm.hooks.unwrapped_model import unwrapped_model
from mmkd_fm.models.distiller import Distiller
from mmkd_fm.models.flow import Flow
from mmkd_fm.registry import HOOKS

KEY = 'distill_state'


@HOOKS.register_module()
class DistillStateHook(Hook):
    """Saves and restores the extras, the random generators and the teacher's fingerprint.

    They lie under a key of their own; the rest of the file is a plain student checkpoint.
    Validation leaves the generators as it found them, so that a run resumed at an epoch boundary
    continues as the uninterrupted run would.

    Example:
        >>> default_hooks = dict(distill_state=dict(type='mmkd_fm.DistillStateHook'))
    """

    priority = 'NORMAL'  # before CheckpointHook (VERY_LOW), which the generators are gathered for

    def __init__(self) -> None:
        self._loaded: Optional[dict[str, Any]] = None
        self._generators: Optional[list] = None
        self._before_val: Optional[dict[str, Any]] = None
        self._fingerprint: Optional[str] = None

    def before_run(self, runner) -> None:
        """Tell the Distiller that its state is kept."""
        _distiller(runner).state_is_kept = True

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the checkpoint, and on resume load the extras.

        Raises:
            ValueError: If it is of another model, of another teacher, or can't be resumed from.
        """
        model = _distiller(runner)
        # the config that a resumed run leaves says "resume" to a test too
        trains = not isinstance(runner._train_loop, (dict, type(None)))  # built by Runner.train
        if not (runner._resume and trains):
            _check_keys(model, checkpoint)
            return
        if KEY not in checkpoint:
            raise ValueError(
                'this checkpoint has no distillation state, so training can not be resumed from '
                'it; to start a new distillation from its weights use load_from: '
                '--cfg-options load_from=CHECKPOINT, without --resume'
            )
        self._loaded = state = checkpoint[KEY]
        if model.teacher is not None and state['teacher'] != model.teacher.fingerprint():
            raise ValueError(
                'the checkpoint was trained with another teacher (its weights differ); give the '
                'same teacher to resume, or start a new distillation with load_from'
            )
        _check_terms(model, state)
        model.distill_losses.load_state_dict(state['extras'])
        for name, averaged in _averaged(runner).items():
            if name in state['averaged_extras']:  # else EMAHook starts anew, and says so
                averaged.distill_losses.load_state_dict(state['averaged_extras'][name])

    def before_train(self, runner) -> None:
        """Restore the generators, last of all that a resume does; name the run to the flows."""
        model = _distiller(runner)
        for flow in [module for module in model.modules() if isinstance(module, Flow)]:
            flow.run = runner.message_hub.instance_name
        teacher = model.teacher
        self._fingerprint = teacher.fingerprint() if teacher is not None else None
        if self._loaded is None:
            return
        for reason in _inexact(runner, self._loaded):
            runner.logger.log(
                logging.WARNING, f'resume is not equal to the uninterrupted run: {reason}'
            )
        _set_seeds(runner, self._loaded['sampler_seed'])
        if len(self._loaded['generators']) == get_world_size():
            set_generator_state(self._loaded['generators'][get_rank()])
        self._loaded = None

    def before_val(self, runner) -> None:
        """Remember the generators."""
        self._before_val = generator_state()

    def after_val(self, runner) -> None:
        """Put the generators back."""
        set_generator_state(self._before_val)

    def after_train_epoch(self, runner) -> None:
        """Gather the generators of all ranks, as only rank 0 saves."""
        self._generators = all_gather_object(generator_state())

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add the state under its own key."""
        model = _distiller(runner)
        checkpoint[KEY] = dict(
            terms=list(model.distill_losses),
            extras=_to_cpu(model.distill_losses.state_dict()),
            averaged_extras={
                name: _to_cpu(averaged.distill_losses.state_dict())
                for name, averaged in _averaged(runner, with_extras=True).items()
            },
            generators=self._generators or [generator_state()],
            processes=get_world_size(),
            sampler_seed=getattr(_sampler(runner), 'seed', None),
            teacher=self._fingerprint,
        )


def _distiller(runner) -> Distiller:
    model = unwrapped_model(runner)
    model = getattr(model, 'module', model)  # a TTA model
    if any(isinstance(inner, Distiller) for inner in model.modules() if inner is not model):
        raise TypeError(
            f'the Distiller must be the outermost model, but it is a part of '
            f'{type(model).__name__}, which is not supported; distil its plain detector'
        )
    if not isinstance(model, Distiller):
        raise TypeError(
            f'DistillStateHook needs a model of type mmkd_fm.Distiller, but got '
            f'{type(model).__name__}; remove default_hooks.distill_state from plain configs'
        )
    return model


def _averaged(runner, with_extras: bool = False) -> dict[str, Distiller]:
    """The averaged copies that hooks such as EMAHook keep; maybe only those with trained extras.

    With `update_buffers`, and before it begins, the hook looks at `state_dict` alone, which leaves
    out the extras: those of its copy stay as they were before training.
    """
    models = {type(h).__name__: h.ema_model for h in runner.hooks if hasattr(h, 'ema_model')}
    return {
        name: model.module
        for name, model in models.items()
        if not with_extras or (not model.update_buffers and model.steps > 0)
    }


def _to_cpu(state: dict) -> dict:
    return {name: tensor.cpu() for name, tensor in state.items()}


def _check_terms(model: Distiller, state: dict) -> None:
    """Refuse to resume with other losses, or with extras of other shapes."""
    terms = list(model.distill_losses)
    own = {name: tensor.shape for name, tensor in model.distill_losses.state_dict().items()}
    saved = {name: tensor.shape for name, tensor in state['extras'].items()}
    if terms == state['terms'] and own == saved:  # the optimizer's state is found by its place
        return
    other = [name for name in sorted({*own, *saved}) if own.get(name) != saved.get(name)]
    differ = f', and they differ in {other[0]}' if other else ''
    raise ValueError(
        f'the checkpoint was trained with the losses {", ".join(state["terms"]) or "none"}, this '
        f'config has {", ".join(terms) or "none"}{differ}; resume with the same losses in the same '
        f'order, or start a new distillation with load_from'
    )


def _check_keys(model: Distiller, checkpoint: dict) -> None:
    """A checkpoint that fits nowhere would leave the student untrained without a word."""
    state = checkpoint.get('state_dict', checkpoint)
    own = model.state_dict()
    loaded = {key[7:] if key.startswith('module.') else key for key in state}
    if not loaded & set(own):
        raise ValueError(
            f"the checkpoint has none of the student's {len(own)} keys: it starts with "
            f'{", ".join(list(state)[:3])}, the student with {", ".join(list(own)[:3])}. Give a '
            f'checkpoint of the plain student'
        )


def _sampler(runner) -> Any:
    loader = runner.train_dataloader
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def _set_seeds(runner, sampler_seed: Optional[int]) -> None:
    """Seed sampler and workers as in the resumed run: without a seed in the config they differ."""
    if sampler_seed is not None:
        _sampler(runner).seed = sampler_seed
    worker_init_fn = runner.train_dataloader.worker_init_fn
    if isinstance(worker_init_fn, partial) and 'seed' in worker_init_fn.keywords:
        worker_init_fn.keywords['seed'] = runner.seed


def _inexact(runner, state: dict) -> list:
    """Why this resume can not be bit-equal."""
    reasons = []
    loader = runner.train_dataloader
    if getattr(loader, 'persistent_workers', False):
        reasons.append(
            'persistent_workers=True, whose augmentations continue from epoch to epoch; set '
            'train_dataloader.persistent_workers=False where that matters'
        )
    augments = getattr(_distiller(runner).data_preprocessor, 'batch_augments', None)
    # mmpretrain's draw from the global generators alone, mmdet's are modules with a state
    if isinstance(augments, nn.ModuleList):
        reasons.append('batch augmentations, whose state (the next image size, say) is not saved')
    accumulated = runner.iter % getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    if accumulated:
        reasons.append(
            f'the gradients of the last {accumulated} iterations, accumulated but not applied yet, '
            f'are not saved; resume from where the iterations are a multiple of accumulative_counts'
        )
    cached = _cached(runner)
    if cached:
        reasons.append(
            f'{", ".join(cached)}, whose cached images are not saved; resume from where '
            f'PipelineSwitchHook has taken them out, or where that matters use transforms without '
            f'a cache'
        )
    if state['processes'] != get_world_size():
        reasons.append(
            f'the checkpoint is of {state["processes"]} processes, this run has {get_world_size()}'
        )
    elif isinstance(runner.train_loop, IterBasedTrainLoop):
        reasons.append(
            'IterBasedTrainLoop augments the data that it skips anew; train with '
            'EpochBasedTrainLoop where that matters'
        )
    elif runner.iter != runner.epoch * len(loader):
        reasons.append(
            'the checkpoint is not of an epoch boundary, and data loaders restart their epoch'
        )
    return reasons


def _cached(runner) -> list[str]:
    """Transforms that mix in images seen before, unless the pipeline is switched at once."""
    if any(getattr(hook, 'switch_epoch', math.inf) <= runner.epoch for hook in runner.hooks):
        return []
    pipeline = getattr(runner.train_dataloader.dataset, 'pipeline', None)
    transforms = getattr(pipeline, 'transforms', [])
    return [type(t).__name__ for t in transforms if hasattr(t, 'results_cache')]
