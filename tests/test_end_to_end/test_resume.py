"""A run resumed at an epoch boundary is the uninterrupted run, bit for bit."""

import pytest

RUNS = {
    'retinanet': dict(),
    'retinanet-ema': dict(ema=True),
    'gfl': dict(kind='gfl'),  # with stochastic depth in the student
    'retinanet-worker': dict(ema=True),
}
OPTIONS = {'retinanet-worker': {'train_dataloader.num_workers': 1}}
COMPARED = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'distill_state')


@pytest.mark.slow
@pytest.mark.parametrize('name', RUNS)
def test_resume_equals_the_uninterrupted_run(name, distill_config, train, tmp_path, tools):
    cfg = distill_config(max_epochs=4, **RUNS[name])
    options = OPTIONS.get(name, {})
    straight = train(cfg, tmp_path / 'straight', **options)
    resumed = train(cfg, tmp_path / 'resumed', resume=straight / 'epoch_2.pth', **options)

    expected, got = (tools.load(run / 'epoch_4.pth') for run in (straight, resumed))
    assert [key for key in COMPARED if key in expected] == [key for key in COMPARED if key in got]
    for key in (key for key in COMPARED if key in expected):
        assert tools.differences(expected[key], got[key], key) == []
    assert ('ema_state_dict' in got) == bool(RUNS[name].get('ema'))

    expected, got = (tools.read_losses(run) for run in (straight, resumed))
    assert sorted(expected) == list(range(1, 17)) and sorted(got) == list(range(9, 17))
    assert tools.differences({i: expected[i] for i in got}, got) == []
    assert len({line['fmkt_steps'] for line in got.values()}) > 1  # several numbers were drawn
    assert 'not equal to the uninterrupted run' not in tools.read_log(resumed)
