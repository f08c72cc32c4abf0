"""LogitHistogramHook: when it draws, what, and that training doesn't notice."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmkd_fm.hooks import LogitHistogramHook
from mmkd_fm.hooks.logit_histogram_hook import draw

EPOCH = 4  # iterations
WORKER = Path(__file__).with_name('gloo_worker.py')


@HOOKS.register_module(name='ReadKeptValues', force=True)
class ReadKeptValues(Hook):
    """Reads what the WTTM term keeps, before and after the histograms are drawn."""

    seen = {}

    def __init__(self, key):
        self.values = self.seen.setdefault(key, {})

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = getattr(runner.model, 'module', runner.model).distill_losses['wttm']
        self.values[runner.iter + 1] = dict(loss.values)


@pytest.fixture
def drawn(make_runner, tmp_path):
    """Train with the hook; gives the runner and the iterations of each name that was drawn."""

    def run(cfg, **hook):
        cfg.default_hooks.distill_histograms = dict(type='mmkd_fm.LogitHistogramHook', **hook)
        cfg.custom_hooks = [
            *cfg.get('custom_hooks', []),
            dict(type='ReadKeptValues', key='before', priority='HIGH'),
            dict(type='ReadKeptValues', key='after', priority='LOW'),
        ]
        ReadKeptValues.seen = {}
        runner = make_runner(cfg, tmp_path)
        runner.train()
        images = {}
        for path in sorted(tmp_path.glob('*/vis_data/vis_image/*.png')):
            name, _, step = path.stem.rpartition('_')
            images.setdefault(name, {})[int(step)] = cv2.imread(str(path))
        return runner, images

    return run


def test_last_iteration_of_every_second_epoch(distill_config, drawn, tools, tmp_path):
    runner, images = drawn(distill_config(max_epochs=3, ema=True), interval=2)
    assert {name: list(steps) for name, steps in images.items()} == {'wttm_diagnostics': [8]}
    before, after = ReadKeptValues.seen['before'], ReadKeptValues.seen['after']
    assert [step for step, values in before.items() if values] == [2 * EPOCH]
    assert not any(after.values()) and len(after) == 3 * EPOCH
    kept = before[2 * EPOCH]
    monitors = {key[5:] for key in tools.read_losses(tmp_path)[8] if key.startswith('wttm_')}
    assert {'divergence', 'teacher_entropy', 'renyi_entropy', 'power_sum'} <= set(kept) <= monitors
    assert len({value.shape for value in kept.values()}) == 1
    assert all(v.ndim == 1 and not v.requires_grad and v.isfinite().all() for v in kept.values())
    assert kept['power_sum'].min() >= 1 - 1e-6 and kept['power_sum'].max() <= 2**0.3 + 1e-6
    assert np.array_equal(images['wttm_diagnostics'][8][..., ::-1], draw('wttm, iteration 8', kept))
    assert runner.model.distill_losses['wttm'].keep_values is False


def test_training_is_bit_equal_with_and_without(distill_config, drawn, train, tools, tmp_path):
    cfg = distill_config(ema=True)
    plain = train(cfg, tmp_path / 'plain')
    _, images = drawn(cfg, interval=3, by_epoch=False)
    assert {name: list(steps) for name, steps in images.items()} == {'wttm_diagnostics': [3]}
    without = tools.load(plain / 'epoch_1.pth')
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'distill_state'):
        assert tools.differences(tools.load(tmp_path / 'epoch_1.pth')[key], without[key]) == []


@pytest.mark.slow
def test_two_processes(distill_config, tools, tmp_path):
    cfg = distill_config(max_epochs=2)
    cfg.default_hooks.distill_histograms = dict(type='mmkd_fm.LogitHistogramHook')
    cfg.dump(tmp_path / 'config.py')
    launch = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2)
    tools.run_python(*launch, WORKER, tmp_path / 'config.py', cwd=tmp_path)
    drawn = [path.name for path in sorted(tmp_path.glob('*/vis_data/vis_image/*.png'))]
    assert drawn == ['wttm_diagnostics_2.png', 'wttm_diagnostics_4.png']
    ranks = [tools.load(tmp_path / f'rank{rank}.pth') for rank in range(2)]
    assert tools.differences(*ranks) == []


def test_says_why_it_draws_nothing(distill_config, plain_config, make_runner, tools, tmp_path):
    configs = dict(Distiller=distill_config(losses='pkd'), RetinaNet=plain_config())
    for model, cfg in configs.items():
        cfg.default_hooks.distill_histograms = dict(type='mmkd_fm.LogitHistogramHook')
        make_runner(cfg, tmp_path / model).train()
        terms = dict(Distiller='pkd', RetinaNet='none')[model]
        assert f'but {model} has the terms: {terms}. Add one' in tools.read_log(tmp_path / model)
        assert not list(tmp_path.glob(f'{model}/*/vis_data/vis_image'))


@pytest.mark.parametrize('interval', [0, -1, 1.5, None])
def test_bad_interval(interval):
    with pytest.raises(ValueError, match=r'interval must be a whole number from 1'):
        LogitHistogramHook(interval)


def test_a_panel_for_each_value_that_shows_its_distribution():
    values = dict(weight=torch.rand(500), entropy=torch.rand(500).bfloat16())
    image = draw('wttm', values)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert image.shape[1] == 2 * draw('wttm', dict(weight=values['weight'])).shape[1]
    assert np.array_equal(image, draw('wttm', {k: v.flip(0) for k, v in values.items()}))
    assert not np.array_equal(image, draw('wttm', {k: v**2 for k, v in values.items()}))


def test_values_that_hardly_differ_are_drawn():
    draw('wttm', dict(power=1 + 1e-7 * torch.rand(500), same=torch.ones(500)))


def test_no_samples_and_infinite_ones_are_left_out():
    some = torch.tensor([1.0, 2.0, float('inf'), float('nan')])
    picture = draw('wttm', dict(weight=some))
    assert np.array_equal(picture, draw('wttm', dict(weight=some[:2])))
    assert not np.array_equal(picture, draw('wttm', dict(weight=some[:0])))
