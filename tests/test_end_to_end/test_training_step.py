"""What a training step does: clipping, accumulation, half precision, images without boxes."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS
from torch import nn
from torch.nn.utils import parameters_to_vector

from mmkd_fm.hooks import ClipApartHook
from mmkd_fm.models.distiller import EXTRAS


@MODELS.register_module()
class HugeExtraGradients(nn.Module):
    """A term with a parameter of its own: a huge gradient for that, none for the student."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Parameter(torch.ones(10))

    def forward(self, student, teacher):
        return 1e6 * self.extra.sum()


@pytest.fixture(scope='module')
def clipped_plain(plain_config, train, tmp_path_factory):
    """Work dir of the plain student, its gradients clipped hard."""
    return train(plain_config(), tmp_path_factory.mktemp('clipped'), **CLIP)


CLIP = {'optim_wrapper.clip_grad.max_norm': 0.5, 'optim_wrapper.optimizer.type': 'SGD'}


@pytest.mark.parametrize('apart', [True, False])
def test_extras_do_not_shrink_the_students_gradients(
    apart, clipped_plain, distill_config, train, tmp_path, tools
):
    cfg = distill_config()
    cfg.model.losses = dict(huge=dict(type='HugeExtraGradients', tap='neck'))
    if not apart:
        cfg.default_hooks.pop('distill_clip')
    work_dir = train(cfg, tmp_path, **CLIP)
    expected, got = (tools.load(d / 'epoch_1.pth')['state_dict'] for d in (clipped_plain, work_dir))
    assert (tools.differences(expected, got) == []) == apart
    expected, got = (
        [line['grad_norm'] for line in tools.read_losses(d).values()]
        for d in (clipped_plain, work_dir)
    )
    assert min(expected) > 0.5  # the clipping is at work
    assert (expected == got) == apart


@pytest.mark.parametrize('several', [False, True])
def test_extras_are_clipped_by_a_norm_of_their_own(several):
    """Student and extras move by the greatest norm each, not by one for both."""
    model = nn.ModuleDict({'student': nn.Linear(3, 2), EXTRAS: nn.Linear(2, 4)})
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    wrapper = OptimWrapper(sgd, clip_grad=dict(max_norm=0.5))
    whole = OptimWrapperDict(detector=wrapper) if several else wrapper
    ClipApartHook().before_train(SimpleNamespace(model=model, optim_wrapper=whole))
    before = {name: parameters_to_vector(part.parameters()) for name, part in model.items()}
    wrapper.update_params(sum(1e3 * vector.square().sum() for vector in before.values()))
    for name, part in model.items():
        moved = parameters_to_vector(part.parameters()) - before[name]
        assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_gradients_are_clipped_by_value_where_nothing_extra_has_one(
    plain_config, distill_config, train, tmp_path, tools
):
    configs = dict(plain=plain_config(), off=distill_config())
    for loss in configs['off'].model.losses.values():
        loss.loss_weight = 0
    for cfg in configs.values():
        cfg.optim_wrapper.clip_grad = dict(type='value', clip_value=1e-3)
    dirs = [train(cfg, tmp_path / name) for name, cfg in configs.items()]
    expected, got = (tools.load(d / 'epoch_1.pth')['state_dict'] for d in dirs)
    assert tools.differences(expected, got) == []


def prepared(make_runner, cfg, work_dir):
    """Model with its weights loaded, and one batch."""
    runner = make_runner(cfg, work_dir)
    runner.train_loop, runner.call_hook('before_run')
    runner._init_model_weights()
    return runner.model.train(), next(iter(runner.train_dataloader))


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_accumulated_gradients_are_the_mean(kind, distill_config, make_runner, tmp_path):
    cfg = distill_config(kind)
    cfg.model.student.backbone.drop_path_rate = 0.0
    if kind == 'retinanet':
        cfg.model.student.backbone.pop('drop_path_rate')
    updated = []
    for counts in (1, 2):
        model, batch = prepared(make_runner, cfg, tmp_path / str(counts))
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), counts)
        wrapper.initialize_count_status(model, 0, 2)
        before = {name: p.clone() for name, p in model.named_parameters()}
        for _ in range(counts):  # the same batch twice: the mean is that of one
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
            model.train_step(batch, wrapper)
        updated.append({name: p - before[name] for name, p in model.named_parameters()})
    assert sum(update.abs().sum() > 0 for update in updated[0].values()) > 50
    for name, update in updated[0].items():
        torch.testing.assert_close(updated[1][name], update, msg=name)


@pytest.mark.slow
def test_accumulation_halves_the_number_of_updates(distill_config, train, tmp_path, tools):
    work_dir = train(
        distill_config(losses='pkd'), tmp_path, **{'optim_wrapper.accumulative_counts': 2}
    )
    states = tools.load(work_dir / 'epoch_1.pth')['optimizer']['state'].values()
    assert {int(state['step']) for state in states} == {2}


@pytest.mark.parametrize('losses', ['fmkt-wttm', 'pkd'])
@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_bfloat16_autocast(kind, losses, distill_config, make_runner, tmp_path):
    model, batch = prepared(make_runner, distill_config(kind, losses), tmp_path)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms = model(**model.data_preprocessor(batch, True), mode='loss')
        total, logged = model.parse_losses(terms)
    total.backward()
    assert all(math.isfinite(value) for value in logged.values())
    assert all(
        terms[name].dtype == torch.float32
        for name in terms
        if name.startswith(('loss_fmkt', 'loss_wttm', 'loss_pkd'))
    )
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in gradients) and len(gradients) > 50


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='AmpOptimWrapper needs an accelerator')
def test_amp(distill_config, train, tmp_path, tools):
    train(
        distill_config(),
        tmp_path,
        **{'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'},
    )
    assert all(math.isfinite(line['loss']) for line in tools.read_losses(tmp_path).values())


@pytest.mark.slow
@pytest.mark.parametrize('boxes', [0, 2])
@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_images_without_boxes(kind, boxes, distill_config, train, data, tmp_path, tools):
    tools.sparse(data, boxes)
    work_dir = train(
        distill_config(kind),
        tmp_path,
        **{
            'train_dataloader.dataset.ann_file': 'sparse.json',
            'train_dataloader.dataset.filter_cfg': dict(filter_empty_gt=False),
        },
    )
    losses = tools.read_losses(work_dir)
    assert len(losses) == 4  # 10 images in batches of 3: the last is of one image
    assert all(math.isfinite(value) for line in losses.values() for value in line.values())
    state = tools.load(work_dir / 'epoch_1.pth')['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())
