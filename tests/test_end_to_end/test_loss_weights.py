"""Scheduled weights follow their schedules, in a resumed run too."""

import pytest
from mmengine.optim import LinearParamScheduler

from mmkd_fm.hooks.loss_weight_hook import LossWeightHook, Schedule

WARM_UP = dict(type='LinearParamScheduler', start_factor=0.25, begin=0, end=1)
END = dict(type='MultiStepParamScheduler', milestones=[6], gamma=0, by_epoch=False)
DECAY = dict(type='CosineAnnealingParamScheduler', T_max=2, eta_min=0)


def scheduled(cfg, **schedules):
    """The config with the hook."""
    cfg.custom_hooks = [dict(type='mmkd_fm.LossWeightHook', schedules=schedules)]
    return cfg


@pytest.mark.parametrize(
    ('configs', 'expected'),
    [
        ([WARM_UP], [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0]),  # an epoch of four iterations
        ([dict(WARM_UP, type=LinearParamScheduler)], [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0]),
        ([dict(END, type='mmengine.MultiStepParamScheduler')], [4.0] * 6 + [0.0]),
        ([DECAY], [4.0, 3.847759, 3.414214, 2.765367, 2.0, 1.234633, 0.585786]),
        ([WARM_UP, END], [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 0.0]),
    ],
)
def test_schedule_multiplies_the_weight(configs, expected):
    whole, skipping = (Schedule(4.0, configs, epoch_length=4) for _ in range(2))
    assert [whole.at(i) for i in range(7)] == pytest.approx(expected, abs=1e-6)
    assert whole.at(6) == skipping.at(6)  # as when a run is resumed


@pytest.mark.slow
def test_weights_scale_the_losses_and_a_resumed_run_has_those_of_the_whole(
    distill_config, train, tmp_path, tools
):
    cfg = distill_config(max_epochs=3, ema=False)
    plain = train(cfg, tmp_path / 'plain')
    cfg = scheduled(
        cfg,
        fmkt=dict(theta_weight=WARM_UP, loss_weight=WARM_UP),
        wttm=dict(loss_weight=[END]),
        task_loss_weight=dict(WARM_UP, start_factor=0.5),
    )
    straight = train(cfg, tmp_path / 'straight')
    resumed = train(cfg, tmp_path / 'resumed', resume=straight / 'epoch_1.pth')

    constant, lines, again = (tools.read_losses(run) for run in (plain, straight, resumed))
    factors = dict(loss_fmkt=0.25, loss_wttm=1, loss_cls=0.5, loss_bbox=0.5)
    for name, factor in factors.items():  # of the same weights, in the first iteration
        assert lines[1][name] == pytest.approx(factor * constant[1][name], rel=1e-5)
    for name, whole in {'fmkt.weight': 2, 'fmkt.theta_weight': 1}.items():
        rising = [whole * share for share in [0.25, 0.5, 0.75] + [1.0] * 9]
        assert [line[name] for line in lines.values()] == pytest.approx(rising)
    # mmengine would log means of what has "loss" in its name
    assert {'task_weight', 'wttm.weight'} <= set(lines[1])
    assert not [name for name in lines[1] if name.endswith('loss_weight')]
    assert [line['loss_wttm'] == 0 for line in lines.values()] == [False] * 6 + [True] * 6
    given = [
        [name in line for line in lines.values()] for name in ('wttm_divergence', 'fmkt_steps')
    ]
    assert given == [[True] * 6 + [False] * 6, [True] * 12]  # no old values of what has ended
    assert tools.differences({i: lines[i] for i in again}, again) == [] and min(again) == 5
    expected, got = (tools.load(run / 'epoch_3.pth') for run in (straight, resumed))
    assert tools.differences(expected['state_dict'], got['state_dict']) == []


def test_schedules_of_what_is_not_used_are_left_out(distill_config, make_runner, tmp_path):
    cfg = scheduled(
        distill_config(),
        wttm=dict(loss_weight=END),
        fmkt=dict(loss_weight=END, source_weight=END),
        pkd=dict(loss_weight=END),
    )
    cfg.model.losses.pkd = dict(type='mmkd_fm.PKDLoss', tap='neck')
    cfg.model.losses.wttm.loss_weight = 0
    cfg.model.terms = ['wttm', 'fmkt']
    runner = make_runner(cfg, tmp_path)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, LossWeightHook))
    hook.before_train(runner)
    assert [name for name, *_ in hook.scheduled] == ['fmkt.loss_weight']


def test_the_task_s_weight_can_be_scheduled_without_any_term(distill_config, make_runner, tmp_path):
    """As in a control run of the same config with all weights 0."""
    cfg = scheduled(distill_config(), task_loss_weight=WARM_UP)
    for name in cfg.model.losses:
        cfg.model.losses[name].loss_weight = 0
    runner = make_runner(cfg, tmp_path)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, LossWeightHook))
    hook.before_train(runner)
    assert [name for name, *_ in hook.scheduled] == ['task_loss_weight']


REFUSED = {
    'no such weight; this model has: fmkt.loss_weight': dict(fkmt=dict(loss_weight=END)),
    'no such weight; this model has': dict(wttm=dict(theta_weight=END)),
    'wttm.loss_weight: a factor of 0 at the start': dict(
        wttm=dict(loss_weight=dict(WARM_UP, start_factor=0))
    ),
    'wttm.loss_weight: end should be larger': dict(wttm=dict(loss_weight=dict(WARM_UP, end=0))),
    "task_loss_weight: expected .*'LinearLr'.*types: ConstantParamScheduler, Cos": dict(
        task_loss_weight=dict(type='LinearLr')
    ),
    "wttm.loss_weight: LinearParamScheduler has no option 'strat_factor'; did you mean": dict(
        wttm=dict(loss_weight=dict(WARM_UP, strat_factor=0.1))
    ),
    'wttm: expected a dict of weights': dict(wttm=0.5),
    'wttm.loss_weight: expected the config of a scheduler': dict(
        wttm=dict(loss_weight='LinearParamScheduler')
    ),
}


@pytest.mark.parametrize('message', REFUSED)
def test_refuses_what_is_no_schedule_before_the_first_step(
    message, distill_config, make_runner, tmp_path
):
    with pytest.raises(ValueError, match=message):
        make_runner(scheduled(distill_config(), **REFUSED[message]), tmp_path).train()
    assert not list(tmp_path.glob('*.pth'))
