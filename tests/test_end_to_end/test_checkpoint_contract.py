"""Every file that is saved is an ordinary checkpoint of the plain student."""

import pytest
import torch
from mmdet.apis import inference_detector, init_detector


@pytest.fixture(scope='module')
def saved(distilled, tools):
    return tools.load(distilled.work_dir / 'epoch_2.pth')


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return (
        [t for item in items for t in tensors(item)]
        if isinstance(value, (dict, list, tuple))
        else []
    )


def keys(value):
    if isinstance(value, (list, tuple)):
        return [k for item in value for k in keys(item)]
    return (
        [k for key in value for k in (str(key), *keys(value[key]))]
        if isinstance(value, dict)
        else []
    )


@pytest.mark.parametrize('name', ['state_dict', 'ema_state_dict'])
def test_keys_are_the_plain_students(name, saved, plain, tools):
    expected = tools.load(plain.work_dir / 'epoch_1.pth')[name]
    assert list(saved[name]) == list(expected)
    assert [t.shape for t in saved[name].values()] == [t.shape for t in expected.values()]


def test_only_the_distillation_state_is_added(saved, plain, tools):
    assert set(saved) - set(tools.load(plain.work_dir / 'epoch_1.pth')) == {'distill_state'}


def test_no_teacher_in_the_file(saved, distilled, tools):
    teacher = tools.load(distilled.cfg.model.teacher.checkpoint)['state_dict']
    weights = {tuple(t.flatten().tolist()) for t in teacher.values() if t.numel() > 3}
    assert len(weights) > 50
    assert not any(tuple(t.flatten().tolist()) in weights for t in tensors(saved))
    named = [key for key in keys(saved) if 'teacher' in key.lower()]
    assert [key for key in named if not key.startswith('train/')] == ['teacher']  # but for the log
    assert isinstance(saved['distill_state']['teacher'], str)  # a fingerprint


def test_plain_mmdet_gives_the_same_boxes(saved, distilled, plain_config, data, build):
    file = str(distilled.work_dir / 'epoch_2.pth')
    cfg, image = plain_config(), str(data / 'images' / 'val_0.png')
    build(cfg.model).load_state_dict(saved['state_dict'], strict=True)
    expected = inference_detector(init_detector(cfg, file, device='cpu'), image).pred_instances

    distiller = build(distilled.cfg.model).eval()
    distiller.load_state_dict(saved['state_dict'], strict=True)
    distiller.cfg = cfg
    got = inference_detector(distiller, image).pred_instances
    assert len(got) > 10
    for key in ('bboxes', 'scores', 'labels'):
        assert torch.equal(got[key], expected[key])


@pytest.mark.slow
def test_runner_test_gives_the_same_metrics(distilled, plain_config, make_runner, tmp_path):
    options = dict(load_from=str(distilled.work_dir / 'epoch_2.pth'))
    absent = {'model.teacher.checkpoint': str(tmp_path / 'absent.pth')}  # is not needed
    got = make_runner(distilled.cfg, tmp_path / 'distilled', **options, **absent).test()
    assert got == make_runner(plain_config(), tmp_path / 'plain', **options).test()
    assert 'coco/bbox_mAP' in got


def test_load_from_a_plain_checkpoint(distill_config, plain, make_runner, tmp_path, tools):
    file = plain.work_dir / 'epoch_1.pth'
    runner = make_runner(
        distill_config(), tmp_path, load_from=str(file), **{'optim_wrapper.optimizer.lr': 0.0}
    )
    runner.train()
    parameters = dict(runner.model.named_parameters())
    expected = tools.load(file)['state_dict']
    compared = [name for name in expected if name in parameters]
    assert len(compared) > 50
    assert all(torch.equal(expected[name], parameters[name]) for name in compared)


def test_load_from_a_checkpoint_that_fits_nowhere(distill_config, make_runner, tmp_path):
    torch.save(dict(state_dict={'net.weight': torch.ones(1)}), tmp_path / 'other.pth')
    runner = make_runner(distill_config(), tmp_path, load_from=str(tmp_path / 'other.pth'))
    with pytest.raises(ValueError, match="none of the student's .* keys"):
        runner.train()
    assert not list(tmp_path.glob('epoch_*.pth'))


def test_ema_has_no_second_teacher(distilled, make_runner, tmp_path, build):
    runner = make_runner(distilled.cfg, tmp_path)
    runner.call_hook('before_run')
    ema = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    assert ema.module.teacher is runner.model.teacher
    student = sum(p.numel() for p in build(distilled.cfg.model.student).parameters())
    extras = sum(p.numel() for p in runner.model.distill_losses.parameters())
    assert sum(p.numel() for p in ema.parameters()) == student + extras
    own = {p.data_ptr() for p in runner.model.parameters()}
    assert not own & {p.data_ptr() for p in ema.parameters()}


@pytest.mark.slow
def test_save_best_with_ema(distill_config, make_runner, tmp_path, tools, build):
    cfg = distill_config(ema=True, losses='pkd', max_epochs=2)
    runner = make_runner(cfg, tmp_path, **{'default_hooks.checkpoint.save_best': 'coco/bbox_mAP'})
    runner.train()
    best = tools.load(next(tmp_path.glob('best_*.pth')))
    build(cfg.model.student).load_state_dict(best['state_dict'], strict=True)
    same = tools.load(tmp_path / f'epoch_{best["meta"]["epoch"]}.pth')
    for key in ('state_dict', 'ema_state_dict', 'distill_state'):
        assert tools.differences(best[key], same[key]) == []
