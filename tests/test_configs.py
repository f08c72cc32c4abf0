"""Every file under configs/ parses, builds, says what it is, and takes a training step."""

import ast
import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

ROOT = Path(__file__).parents[1] / 'configs'
FILES = sorted(
    p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*.py') if '_base_' not in p.parts
)
CLASSIFIERS = ('cifar10/', 'cifar100/', 'imagenet/')
# of full size: seconds to build
LARGE = ('retinanet/', 'gfl/', 'imagenet/', 'cifar100/wttm_resnet50_')

# (teacher, student): TTM's (gamma, beta), WTTM's, and WTTM's gamma without cross-entropy, of
# arXiv 2402.11148
CIFAR100 = {
    ('wrn40-2', 'wrn16-2'): ((0.1, 101), (0.1, 4), 0.2),
    ('wrn40-2', 'wrn40-1'): ((0.1, 76), (0.1, 3), 0.5),
    ('resnet56', 'resnet20'): ((0.3, 7), (0.3, 1.5), 0.6),
    ('resnet110', 'resnet20'): ((0.2, 8), (0.2, 2), 0.4),
    ('resnet110', 'resnet32'): ((0.1, 33), (0.1, 1.5), 0.4),
    ('resnet32x4', 'resnet8x4'): ((0.1, 100), (0.1, 3), 0.5),
    ('vgg13', 'vgg8'): ((0.1, 45), (0.1, 2.25), 0.2),
    ('vgg13', 'mobilenetv2'): ((0.2, 16), (0.2, 3), None),
    ('resnet50', 'mobilenetv2'): ((0.2, 20), (0.2, 5), None),
    ('resnet50', 'vgg8'): ((0.1, 70), (0.1, 2), None),
    ('resnet32x4', 'shufflenetv1'): ((0.2, 12), (0.2, 1.4), None),
    ('resnet32x4', 'shufflenetv2'): ((0.4, 40), (0.4, 16), None),
    ('wrn40-2', 'shufflenetv1'): ((0.3, 8), (0.3, 3), None),
}
IMAGENET = {
    ('resnet34', 'resnet18'): (0.8, 1.6),
    ('resnet50', 'resnet18'): (0.8, 1.6),
    ('resnet101', 'resnet18'): (0.8, 1.6),
    ('resnet152', 'resnet18'): (0.8, 1.6),
    ('resnet50', 'mobilenetv1'): (0.7, 3.5),
}
METHODS = ('kd', 'dkd', 'dist', 'ttm', 'wttm', 'fmkt', 'fmkt_stages')


@pytest.fixture(scope='module', autouse=True)
def metafiles_are_read_once():
    """mmengine reads all metafiles of a package anew for each base in it: half of our time."""
    from mmengine.config import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', cache(utils.load))
        yield


@cache
def parse(file):
    if file.startswith(CLASSIFIERS):
        pytest.importorskip('mmpretrain.models')
    return Config.fromfile(ROOT / file)


def cifar100(teacher, student):
    return f'cifar100/wttm_{teacher}_{student}_cifar100.py'


def imagenet(teacher, student, method='wttm', batch='8xb32'):
    return f'imagenet/{method}_{teacher}_{student}_{batch}_in1k.py'


def is_distillation(cfg):
    return cfg.model.type == 'mmkd_fm.Distiller'


def code_lines(path):
    """Lines of a file that are neither blank, comment nor docstring."""
    text = path.read_text(encoding='utf-8')
    first = ast.parse(text).body[0]
    body = text.splitlines()[first.end_lineno :]
    return [line for line in body if line.strip() and not line.strip().startswith('#')]


def build(cfg, **changes):
    """Build the model as the Runner does."""
    from mmengine.registry import MODELS

    model = copy.deepcopy(dict(cfg.model, **changes))
    if 'data_preprocessor' in cfg:  # mmpretrain keeps it there
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model)


files = pytest.mark.parametrize('file', FILES)


def test_there_are_configs():
    assert len(FILES) >= 50


@files
def test_docstring_says_what_it_is(file):
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding='utf-8')))
    assert docstring
    assert len(docstring.splitlines()[0]) > 10
    assert file.rpartition('/')[2] in docstring  # its command


@files
def test_file_parses(file):
    cfg = parse(file)
    assert {'model', 'train_dataloader', 'optim_wrapper', 'default_hooks'} <= set(cfg)
    assert cfg.default_scope == ('mmpretrain' if file.startswith(CLASSIFIERS) else 'mmdet')


@files
def test_distillation_adds_at_most_twenty_lines(file):
    cfg = parse(file)
    if is_distillation(cfg):
        assert 1 <= len(code_lines(ROOT / file)) <= 20
        assert cfg.default_hooks.distill_state.type == 'mmkd_fm.DistillStateHook'
        assert cfg.default_hooks.checkpoint.type == 'CheckpointHook'  # the base's are kept


@pytest.mark.parametrize(
    'file',
    [pytest.param(f, marks=pytest.mark.slow) if f.startswith(LARGE) else f for f in FILES],
)
def test_model_builds_and_its_taps_exist(file, mmdet_scope):
    cfg = parse(file)
    if not is_distillation(cfg):
        assert type(build(cfg)).__name__ == cfg.model.type.split('.')[-1]
        return
    model = build(cfg, terms=None)  # all that can be chosen
    assert list(model.distill_losses) == list(cfg.model.losses)
    assert set(cfg.model.get('terms') or ()) <= set(cfg.model.losses)
    assert not model.teacher.is_loaded
    student = sum(p.numel() for p in model.student.parameters())
    assert sum(p.numel() for p in model.teacher.model.parameters()) > student
    for name, loss in model.distill_losses.items():
        expected = cfg.model.losses[name].get('levels')
        if expected is not None:
            assert [i for i, _ in loss.pairs] == expected
    published = cfg.model.teacher.checkpoint
    assert published.endswith('.pth')


@pytest.mark.parametrize('pair', CIFAR100)
def test_cifar100_pairs_have_the_published_numbers(pair):
    file = cifar100(*pair)
    ttm, wttm, gamma_alone = CIFAR100[pair]
    losses = parse(file).model.losses
    assert (losses.ttm.gamma, losses.ttm.loss_weight) == ttm
    assert (losses.wttm.gamma, losses.wttm.loss_weight) == wttm
    assert list(losses) == list(METHODS)
    text = (ROOT / file).read_text(encoding='utf-8')
    alone = f'model.task_loss_weight=0 model.losses.wttm.gamma={gamma_alone}\n'
    assert (alone in text) == (gamma_alone is not None)
    assert ('task_loss_weight' in text) == (gamma_alone is not None)


@pytest.mark.parametrize('pair', IMAGENET)
def test_imagenet_pairs_have_the_published_numbers(pair):
    losses = parse(imagenet(*pair)).model.losses
    assert (losses.wttm.gamma, losses.wttm.loss_weight) == IMAGENET[pair]
    assert list(losses) == list(METHODS)


def test_every_pair_is_in_the_tables():
    tabled = {cifar100(*p) for p in CIFAR100} | {
        imagenet(*p, method) for p in IMAGENET for method in ('wttm', 'fmkt-head')
    }
    others = {  # gamma and beta are not published
        imagenet('deit3-small', 'deit-tiny', method, '4xb256') for method in ('wttm', 'fmkt-head')
    }
    written = {f for f in FILES if f.startswith(('cifar100/', 'imagenet/')) and f.count('_') > 2}
    plain = {'imagenet/mobilenetv1_8xb32_in1k.py'}
    assert written - plain == tabled | others


def without_scope(value):
    """A part of a config without the keys by which mmengine remembers where it was written."""
    if isinstance(value, dict):
        return {k: without_scope(v) for k, v in value.items() if k != '_scope_'}
    return [without_scope(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('pair', CIFAR100)
def test_cifar100_pairs_train_the_plain_student(pair):
    """The student, its recipe and the teacher are those of the plain configs."""
    pair_cfg = parse(cifar100(*pair))
    teacher, student = (f'{name}_cifar100' for name in pair)
    plain = parse(f'cifar100/{student}.py')
    assert pair_cfg.model.student == plain.model
    for part in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
        assert pair_cfg[part] == plain[part]
    assert Path(pair_cfg.model.teacher.config) == ROOT / f'cifar100/{teacher}.py'
    epochs = parse(f'cifar100/{teacher}.py').train_cfg.max_epochs
    assert pair_cfg.model.teacher.checkpoint == f'work_dirs/{teacher}/epoch_{epochs}.pth'


def test_cifar100_is_the_protocol_of_crd():
    for file in (f for f in FILES if f.startswith('cifar100/')):
        cfg = parse(file)
        slow = any(name in file.split('/')[1] for name in ('mobilenet', 'shufflenet'))
        assert cfg.optim_wrapper.optimizer == dict(
            type='SGD', lr=0.01 if slow else 0.05, momentum=0.9, weight_decay=5e-4
        )
        assert cfg.train_dataloader.batch_size == 64
        assert cfg.param_scheduler.milestones == [150, 180, 210]
        assert cfg.train_cfg.max_epochs == 240


@pytest.mark.parametrize(
    ('file', 'plain'),
    [
        (imagenet('resnet152', 'resnet18'), 'mmpretrain::resnet/resnet18_8xb32_in1k.py'),
        (imagenet('resnet50', 'mobilenetv1'), 'imagenet/mobilenetv1_8xb32_in1k.py'),
        (
            imagenet('deit3-small', 'deit-tiny', batch='4xb256'),
            'mmpretrain::deit/deit-tiny_4xb256_in1k.py',
        ),
    ],
)
def test_imagenet_pairs_train_the_plain_student(file, plain):
    from mmengine.hub import get_config

    pair_cfg = parse(file)
    plain_cfg = get_config(plain) if '::' in plain else parse(plain)
    assert without_scope(pair_cfg.model.student) == without_scope(plain_cfg.model)
    for part in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
        assert without_scope(pair_cfg[part]) == without_scope(plain_cfg[part])


def step(cfg, path, side, images=4, **changes):
    """One forward and backward of the Distiller in training, with a teacher of random weights."""
    from mmpretrain.structures import DataSample

    torch.manual_seed(0)
    model = build(cfg, **changes)
    torch.save(dict(state_dict=model.teacher.model.state_dict()), path / 'teacher.pth')
    model.teacher.checkpoint = str(path / 'teacher.pth')
    model.load_teacher()
    model.train()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 3, side, side), dtype=np.uint8)
    batch = dict(
        inputs=list(torch.from_numpy(pixels)),
        data_samples=[DataSample().set_gt_label(i) for i in range(images)],
    )
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert all(value.isfinite() for value in losses.values())
    model.parse_losses(losses)[0].backward()
    return model, losses


def assert_student_learns(model):
    for name, parameter in model.student.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # vectors: the bias of a convolution before a batch norm changes nothing
        assert parameter.grad.any() or parameter.ndim == 1, name


@pytest.mark.parametrize('method', METHODS)
def test_each_method_trains(method, tmp_path):
    """With the distillation loss alone, so that the gradients are the method's."""
    cfg = copy.deepcopy(parse(cifar100('resnet56', 'resnet20')))
    cfg.merge_from_dict({'model.terms': [method]})  # as --cfg-options does
    model, losses = step(cfg, tmp_path, 32, task_loss_weight=0)
    assert list(model.distill_losses) == [method]
    assert losses[f'loss_{method}'] > 0
    assert losses['loss'] == 0
    if method == 'fmkt_stages':  # the classifier stands behind the stages
        assert not any(p.grad.any() for p in model.student.head.parameters())
        for parameter in model.student.head.parameters():
            parameter.grad = torch.ones_like(parameter)
    assert_student_learns(model)
    extras = [p for p in model.distill_losses.parameters() if p.grad is not None]
    assert bool(extras) == method.startswith('fmkt')
    assert not extras or any(p.grad.any() for p in extras)


@pytest.mark.parametrize(
    'pair', {student: (teacher, student) for teacher, student in reversed(CIFAR100)}.values()
)
def test_each_cifar100_student_trains(pair, tmp_path):
    model, losses = step(parse(cifar100(*pair)), tmp_path, 32)
    assert {name for name in losses if 'loss' in name} == {'loss', 'loss_wttm'}
    assert losses['loss_wttm'] > 0
    assert_student_learns(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    'file',
    [
        imagenet(*pair, method, batch)
        for *pair, batch in (
            ('resnet34', 'resnet18', '8xb32'),
            ('resnet50', 'mobilenetv1', '8xb32'),
            ('deit3-small', 'deit-tiny', '4xb256'),
        )
        for method in ('wttm', 'fmkt-head')
    ],
)
def test_imagenet_students_train(file, tmp_path):
    cfg = parse(file)
    model, losses = step(cfg, tmp_path, 64)
    (term,) = cfg.model.terms
    assert losses[f'loss_{term}'] > 0
    flowed = {
        id(p) for name, p in model.student.named_parameters() if name.startswith('head.flow.')
    }
    assert bool(flowed) == ('fmkt-head' in file)
    assert (losses['loss'] == 0) == bool(flowed)
    for name, parameter in model.student.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # the velocity is zero at the start: what is before its last layer learns from step two on
        assert parameter.grad.any() or parameter.ndim == 1 or id(parameter) in flowed, name


@pytest.mark.slow
@pytest.mark.parametrize('method', ['kd', 'dist', 'ttm', 'fmkt'])
def test_methods_of_the_transformer_take_mixed_labels(method, tmp_path):
    cfg = parse(imagenet('deit3-small', 'deit-tiny', batch='4xb256'))
    assert 'dkd' not in cfg.model.losses
    model, losses = step(cfg, tmp_path, 64, terms=[method])
    assert model.data_preprocessor.batch_augments is not None
    assert losses[f'loss_{method}'] > 0
    assert_student_learns(model)
