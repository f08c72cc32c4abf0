"""Schedule the weights of terms."""

import copy
from collections.abc import Sequence
from typing import Union

import torch
from mmengine.hooks import Hook
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmkd_fm.hooks.unwrapped_model import unwrapped_model
from mmkd_fm.models.terms import WEIGHTS
from mmkd_fm.registry import HOOKS, check_options, placed

TASK = 'task_loss_weight'


@HOOKS.register_module()
class LossWeightHook(Hook):
    """Schedules weights of terms with the schedulers that MMEngine has for parameters.

    They multiply the weight of the config, as those of `param_scheduler` do the learning rate:
    `LinearParamScheduler` is a warm-up, `CosineAnnealingParamScheduler` a decay, and
    `MultiStepParamScheduler` with ``gamma=0`` ends distillation: a term whose weights are all 0 is
    not computed, and with none left the teacher does not run, unless the student has a flow of its
    own that a term trains. `begin`, `end` and milestones are epochs, followed in iterations, unless
    ``by_epoch=False``. The weights are a function of the iteration, so that a resumed run has those
    of the uninterrupted one. They are logged, `loss_weight` as `<term>.weight`, `task_loss_weight`
    as `task_weight`. Schedules of a weight of 0 and of a term that the config lists but does not
    use are left out: `terms` still chooses.

    Args:
        schedules: For each term a dict of its weights (`loss_weight`, `theta_weight` and what else
            it has), with the config of the scheduler, or of several, of each. The weight of the
            student's own losses is `task_loss_weight`, beside the terms.

    Raises:
        ValueError: When training begins, if a name is unknown, a schedule starts at 0 (as it
            multiplies, it would stay there), or a scheduler refuses its arguments.

    Example:
        >>> rise = dict(type='LinearParamScheduler', start_factor=0.001, begin=0, end=1)
        >>> default_hooks = dict(_base_.distill_hooks, weights=dict(
        ...     type='mmkd_fm.LossWeightHook', schedules=dict(fmkt=dict(theta_weight=rise))))
    """

    priority = 'VERY_HIGH'  # before hooks that look at the model

    def __init__(self, schedules: dict[str, Union[dict, Sequence[dict]]]) -> None:
        self.schedules = {}
        for name, weights in schedules.items():
            if not isinstance(weights, dict) and name != TASK:
                raise ValueError(
                    f'LossWeightHook: schedules.{name}: expected a dict of weights, such as '
                    f"dict(loss_weight=dict(type='LinearParamScheduler', ...)), got {weights!r}"
                )
            named = {TASK: weights} if name == TASK else weights
            self.schedules.update(
                {weight if name == TASK else f'{name}.{weight}': named[weight] for weight in named}
            )

    def before_train(self, runner) -> None:
        """Find the weights and build their schedules."""
        model = unwrapped_model(runner)
        weights, unused = _weights(model), getattr(model, 'unused_terms', ())
        self.scheduled = []
        terms = [f'{name}_' for name in getattr(model, 'distill_losses', ())]
        self.logged_as = tuple(f'train/{start}{term}' for term in terms for start in ('', 'loss_'))
        for name, configs in self.schedules.items():
            if name.partition('.')[0] in unused:
                continue
            with placed(f'LossWeightHook: schedules.{name}'):
                if name not in weights:
                    raise ValueError(
                        f'there is no such weight; this model has: {", ".join(weights) or "none"}'
                    )
                owner, option = weights[name]
                configs = [configs] if isinstance(configs, (dict, str)) else configs
                schedule = Schedule(getattr(owner, option), configs, len(runner.train_dataloader))
            if getattr(owner, option):
                self.scheduled.append((name, owner, option, schedule))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Set the weights of this iteration."""
        for name, owner, option, schedule in self.scheduled:
            value = schedule.at(runner.iter)
            setattr(owner, option, value)
            # of what has "loss" in its name mmengine logs the mean of the last iterations
            logged = name.replace('loss_weight', 'weight')
            runner.message_hub.update_scalar(f'train/{logged}', value)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Take out of the log what a term no longer gives: its last value would stay there."""
        if not self.scheduled or outputs is None:
            return
        scalars = runner.message_hub.log_scalars
        for key in [key for key in scalars if key.startswith(self.logged_as)]:
            if key.partition('/')[2] not in outputs:
                del scalars[key]


class Schedule:
    """A number that MMEngine's schedulers change, as a function of the iteration.

    Args:
        value: The number that they multiply.
        configs: Of the schedulers.
        epoch_length: Iterations of an epoch.
    """

    def __init__(self, value: float, configs: Sequence[dict], epoch_length: int) -> None:
        self.step = 0
        # schedulers steer an optimizer's groups: one of nothing, that has this number alone
        nothing = nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([dict(params=[nothing], value=value)], lr=0.0)
        self.group = optimizer.param_groups[0]
        self.schedulers = []
        for config in configs:
            check_scheduler(config)
            config = dict(copy.deepcopy(config), optimizer=optimizer, param_name='value')
            if config.get('by_epoch', True):
                config.update(convert_to_iter_based=True, epoch_length=epoch_length)
            self.schedulers.append(PARAM_SCHEDULERS.build(config))
        optimizer.step()  # schedulers warn if none came before theirs

    def at(self, iteration: int) -> float:
        """The number at this iteration, which is none before the last one that was asked for."""
        while self.step < iteration:
            for scheduler in self.schedulers:
                scheduler.step()
            self.step += 1
        return float(self.group['value'])


def check_scheduler(config: dict) -> None:
    """Refuse what MMEngine would build no scheduler of a number from, or one that ends in NaN.

    Raises:
        ValueError: If it has no known type, an unknown option, or a factor of 0 at its start.
    """
    valid = sorted(
        name
        for name in PARAM_SCHEDULERS.module_dict
        if name.endswith('ParamScheduler') and not name.startswith('ReduceOnPlateau')  # of a metric
    )
    name = config.get('type') if isinstance(config, dict) else None
    name = getattr(
        name, '__name__', str(name).rpartition('.')[2]
    )  # configs of pure Python: a class
    if name not in valid:
        raise ValueError(
            f'expected the config of a scheduler, got {config!r}; types: {", ".join(valid)}'
        )
    made = PARAM_SCHEDULERS.get(name)
    check_options(made, config)
    if 0 in (config.get('start_factor'), config.get('factor')):
        raise ValueError(
            'a factor of 0 at the start can not be multiplied up again; take a small one, such as '
            'start_factor=0.001'
        )


def _weights(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The weights that a model has: their owners and options by name."""
    found = {
        f'{name}.{option}': (loss, option)
        for name, loss in getattr(model, 'distill_losses', {}).items()
        for option in WEIGHTS
        if hasattr(loss, option)
    }
    return {**found, TASK: (model, TASK)} if hasattr(model, TASK) else found
