"""A run resumed at an epoch boundary is the uninterrupted run, bit for bit."""

import random
import shutil

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

RUNS = {
    'retinanet': dict(),
    'retinanet-ema': dict(ema=True),
    'any-nfe': dict(losses='any-nfe', ema=True),
    'gfl': dict(kind='gfl'),  # with stochastic depth in the student
    'worker': dict(ema=True),
    'no-seed': dict(seed=None),
    'no-seed-worker': dict(seed=None),
    'cache': dict(ema=True),
}
WORKER = {
    'train_dataloader.num_workers': 1,
    'train_dataloader.batch_sampler': dict(type='AspectRatioBatchSampler'),
}
LOAD = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(80, 64), keep_ratio=False),
]
CACHE = {  # views come again, and some of them don't fit
    'model.teacher.cache': 5e-4,
    'train_dataloader.dataset.pipeline': [
        dict(type='mmkd_fm.InMemory', transforms=LOAD),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ],
}
OPTIONS = {'worker': WORKER, 'no-seed-worker': WORKER, 'cache': CACHE}
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
    logs = [tools.read_log(run) for run in (straight, resumed)]
    assert 'not equal to the uninterrupted run' not in logs[1]
    assert ['teacher cache: 0.0005 GB are full' in log for log in logs] == [name == 'cache'] * 2


BY_ITER = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 3}
INEXACT = {
    'persistent_workers=True, whose augmentations continue': {
        'train_dataloader.num_workers': 1,
        'train_dataloader.persistent_workers': True,
    },
    'the checkpoint is not of an epoch boundary': BY_ITER,
    # saved before the first epoch, of 4 iterations, is counted: it is trained again
    'the checkpoint is not of an epoch boundary, and': {
        **BY_ITER,
        'default_hooks.checkpoint.interval': 4,
    },
    'the gradients of the last 1 iterations, accumulated': {'optim_wrapper.accumulative_counts': 3},
    'IterBasedTrainLoop augments the data that it skips anew': {
        **BY_ITER,
        'log_processor.by_epoch': False,
        'train_cfg': dict(type='IterBasedTrainLoop', max_iters=5),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize('reason', INEXACT)
def test_warns_where_equality_can_not_hold(reason, distill_config, train, tmp_path, tools):
    cfg, options = distill_config(losses='pkd', max_epochs=2), dict(INEXACT[reason])
    cfg.train_cfg = options.pop('train_cfg', cfg.train_cfg)
    first = train(cfg, tmp_path / 'first', **options)
    resumed = train(cfg, tmp_path / 'resumed', resume=min(first.glob('*_[134].pth')), **options)
    assert f'resume is not equal to the uninterrupted run: {reason}' in tools.read_log(resumed)
    assert tools.read_losses(resumed)  # it trains on nevertheless


@HOOKS.register_module()
class DrawInValidation(Hook):
    """Draws from all generators, as a random test-time transform would."""

    def after_val_epoch(self, runner, metrics=None):
        random.random(), np.random.random(), torch.rand(1)


@pytest.mark.slow
def test_validation_leaves_no_trace(distill_config, train, tmp_path, tools):
    cfg = distill_config('gfl', losses='pkd', max_epochs=2)
    often = train(cfg, tmp_path / 'often', custom_hooks=[dict(type='DrawInValidation')])
    late = train(cfg, tmp_path / 'late', **{'train_cfg.val_interval': 2})
    assert 'Epoch(val) [1]' in tools.read_log(often)
    assert 'Epoch(val) [1]' not in tools.read_log(late)
    first, second = (tools.load(run / 'epoch_2.pth') for run in (often, late))
    for key in ('state_dict', 'optimizer', 'distill_state'):
        assert tools.differences(first[key], second[key], key) == []


@pytest.mark.slow
def test_the_teacher_may_move(distilled, train, tmp_path, tools):
    moved = shutil.copy(distilled.cfg.model.teacher.checkpoint, tmp_path / 'elsewhere.pth')
    resumed = train(
        distilled.cfg,
        tmp_path / 'resumed',
        resume=distilled.work_dir / 'epoch_1.pth',
        **{'model.teacher.checkpoint': str(moved)},
    )
    expected, got = (tools.load(run / 'epoch_2.pth') for run in (distilled.work_dir, resumed))
    assert tools.differences(expected['state_dict'], got['state_dict']) == []


def test_another_teacher_is_refused(distilled, make_runner, teacher_model, write_teacher, tmp_path):
    other = write_teacher(teacher_model('retinanet'), seed=2)['checkpoint']
    runner = make_runner(
        distilled.cfg,
        tmp_path,
        resume=distilled.work_dir / 'epoch_1.pth',
        **{'model.teacher.checkpoint': other},
    )
    with pytest.raises(ValueError, match='trained with another teacher'):
        runner.train()
    assert not list(tmp_path.glob('epoch_*.pth'))


def test_the_config_that_a_resumed_run_leaves_can_be_tested(distilled, make_runner, tmp_path):
    """It says resume=True, and tools for testing only replace the checkpoint."""
    file = distilled.work_dir / 'epoch_2.pth'
    resumed = make_runner(distilled.cfg, tmp_path / 'resumed', resume=file)
    assert not resumed.model.teacher.is_loaded
    left, plain = resumed.test(), make_runner(distilled.cfg, tmp_path, load_from=str(file)).test()
    assert left == plain and 'coco/bbox_mAP' in left


@pytest.mark.parametrize('terms', [['fmkt'], ['wttm'], ['wttm', 'fmkt']], ids='-'.join)
def test_other_losses_are_refused(distilled, make_runner, tmp_path, terms):
    """Those without parameters too, and another order: the optimizer's state goes by places."""
    file = distilled.work_dir / 'epoch_1.pth'
    runner = make_runner(distilled.cfg, tmp_path, resume=file, **{'model.terms': terms})
    with pytest.raises(ValueError, match=f'with the losses fmkt, wttm, this config has {terms[0]}'):
        runner.train()
    assert not list(tmp_path.glob('epoch_*.pth'))


def test_a_flow_of_another_shape_is_refused(distilled, make_runner, tmp_path):
    options = {'model.losses.fmkt.flow': dict(meta_encoder=dict(type='mmkd_fm.ConvMetaEncoder'))}
    file = distilled.work_dir / 'epoch_1.pth'
    runner = make_runner(distilled.cfg, tmp_path, resume=file, **options)
    with pytest.raises(ValueError, match='they differ in fmkt.flows.*start a new distillation'):
        runner.train()


def test_a_plain_checkpoint_can_not_be_resumed(distilled, plain, make_runner, tmp_path):
    runner = make_runner(distilled.cfg, tmp_path, resume=plain.work_dir / 'epoch_1.pth')
    with pytest.raises(ValueError, match='use load_from'):
        runner.train()
    assert not list(tmp_path.glob('epoch_*.pth'))


@pytest.mark.slow
def test_averaged_extras_are_restored(distilled, make_runner, tmp_path, tools):
    file = distilled.work_dir / 'epoch_2.pth'
    runner = make_runner(distilled.cfg, tmp_path, resume=file)
    runner.train()  # nothing is left to train
    ema = next(hook.ema_model.module for hook in runner.hooks if hasattr(hook, 'ema_model'))
    state = tools.load(file)['distill_state']
    averaged = state['averaged_extras']['EMAHook']
    assert tools.differences(averaged, dict(ema.distill_losses.state_dict())) == []
    assert tools.differences(state['extras'], averaged) != []


@pytest.mark.slow
@pytest.mark.parametrize(
    ('ema', 'averaged'),
    [(dict(update_buffers=True), [False, False]), (dict(begin_epoch=2), [False, True])],
    ids=['buffers', 'late'],
)
def test_extras_that_are_not_averaged(
    ema, averaged, distill_config, make_runner, train, tmp_path, tools
):
    """Extras that EMAHook leaves untrained are not saved, and a resume does without them."""
    cfg = distill_config(max_epochs=2, ema=True)
    cfg.custom_hooks[0].update(ema)
    runner = make_runner(cfg, tmp_path / 'straight')
    initial = {k: v.clone() for k, v in runner.model.distill_losses.state_dict().items()}
    runner.train()
    saved = [tools.load(tmp_path / 'straight' / f'epoch_{i}.pth') for i in (1, 2)]
    for content, expected in zip(saved, averaged):
        state = content['distill_state']
        assert list(state['averaged_extras']) == ['EMAHook'] * expected
        for extras in (state['extras'], *state['averaged_extras'].values()):
            assert len(tools.differences(initial, extras)) == len(initial)

    resumed = train(cfg, tmp_path / 'resumed', resume=tmp_path / 'straight' / 'epoch_1.pth')
    got = tools.load(resumed / 'epoch_2.pth')
    for key in COMPARED:
        assert tools.differences(saved[1][key], got[key], key) == []


def test_another_runner_in_the_process_changes_nothing(
    distill_config, make_runner, tmp_path, tools
):
    """Flows follow the run they are in: of mmengine's hubs the one made last is the current one."""
    cfg = distill_config(losses='fmkt-wttm')
    for others in (False, True):
        runner = make_runner(cfg, tmp_path / f'{others}')
        if others:
            make_runner(cfg, tmp_path / 'never trained')
        runner.train()
    expected, got = (tools.load(tmp_path / f'{others}' / 'epoch_1.pth') for others in (False, True))
    assert tools.differences(expected['state_dict'], got['state_dict']) == []
    steps = {line['fmkt_steps'] for line in tools.read_losses(tmp_path / 'False').values()}
    assert len(steps) > 1
