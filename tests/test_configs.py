"""Every file under configs/ parses, builds, says what it is, and takes a training step."""

import ast
import copy
import re
import textwrap
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.utils import get_installed_path

ROOT = Path(__file__).parents[1] / 'configs'
FILES = sorted(
    p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*.py') if '_base_' not in p.parts
)
README = (ROOT / 'README.md').read_text(encoding='utf-8')
CLASSIFIERS = ('cifar10/', 'cifar100/', 'imagenet/')
COCO = [f for f in FILES if f.endswith('_coco.py')]
# of full size: seconds to build
LARGE = (*COCO, 'imagenet/', 'cifar100/wttm_resnet50_')
# pairs whose data everybody has; bccd, cifar10 and the demo are examples
MODEL_INDEX = ('cifar100/', 'imagenet/', *COCO)

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
    assert len(FILES) >= 75
    assert len(COCO) >= 24


@files
def test_scheduled_weights_are_of_listed_terms(file):
    cfg = parse(file)
    schedules = cfg.default_hooks.get('weights', {}).get('schedules', {})
    # but on CIFAR-10, whose tables compare it with a constant weight
    expected = ['fmkt'] if file.startswith(('cifar100/wttm', 'imagenet/wttm')) else []
    assert set(expected) <= set(schedules) <= set(cfg.model.get('losses', ()))


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
def test_distillation_adds_its_hooks_in_at_most_twenty_lines(file):
    cfg = parse(file)
    if cfg.model.type not in ('mmkd_fm.Distiller', 'mmkd_fm.OnlineDistiller'):
        assert not {'distill_state', 'distill_teacher'} & set(cfg.default_hooks)
        return
    assert cfg.default_hooks.distill_state.type == 'mmkd_fm.DistillStateHook'
    assert cfg.default_hooks.checkpoint.type == 'CheckpointHook'  # the base's are kept
    if is_distillation(cfg):  # without a teacher the flow is the config's own
        assert 1 <= len(code_lines(ROOT / file)) <= 20


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


coco = pytest.mark.parametrize('file', COCO)


@cache
def zoo():
    """Box AP and checkpoint of each config of mmdet's model zoo."""
    found = {}
    for file in Path(get_installed_path('mmdet'), '.mim/configs').glob('*/metafile.yml'):
        content = yaml.safe_load(file.read_text(encoding='utf-8'))
        for model in content.get('Models', []) if isinstance(content, dict) else content:
            name = model['Config'].removeprefix('configs/')
            for result in model.get('Results') or ():
                if result['Task'] == 'Object Detection' and 'Weights' in model:
                    found[name] = (result['Metrics'].get('box AP'), model['Weights'])
    return found


def source(file):
    return (ROOT / file).read_text(encoding='utf-8')


def plain_student(file):
    """Name of the student's config in mmdet, the first base."""
    return re.search(r"'mmdet::(.+?)'", source(file))[1]


def teacher_of(file):
    return parse(file).model.teacher.config.removeprefix('mmdet::')


@coco
def test_published_numbers_are_those_of_the_model_zoo(file):
    teacher, checkpoint = zoo()[teacher_of(file)]
    student, _ = zoo()[plain_student(file)]
    found = re.search(r'teacher ([\d.]+), plain\s+student ([\d.]+)\.', source(file))
    assert [float(number) for number in found.groups()] == [teacher, student]
    assert parse(file).model.teacher.checkpoint == checkpoint
    assert teacher > student
    row = next(line for line in README.splitlines() if f'`{file}`' in line)
    assert f'({teacher:.1f})' in row.split('|')[2]
    assert f'({student:.1f})' in row.split('|')[3]


@coco
def test_coco_pairs_train_the_plain_student(file):
    """In everything but the model; with the schedule and the images that the docstring says."""
    pair, plain = parse(file), get_config(f'mmdet::{plain_student(file)}')
    assert without_scope(pair.model.student) == without_scope(plain.model)
    kept = ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'custom_hooks')
    for part in kept:
        assert without_scope(pair.get(part)) == without_scope(plain.get(part))
    first = ast.get_docstring(ast.parse(source(file))).splitlines()[0]
    schedule, gpus, images = re.search(r', ([^,]+), (\d+) GPUs x (\d+) images\.$', first).groups()
    assert int(images) == plain.train_dataloader.batch_size
    base = plain.auto_scale_lr.base_batch_size
    assert int(gpus) * int(images) == (256 if 'rtmdet_' in plain_student(file) else base)
    epochs = re.fullmatch(r'(\d+) epochs|(?:multi-scale )?([12])x schedule', schedule)
    assert plain.train_cfg.max_epochs == int(epochs[1] or 12 * int(epochs[2]))


@coco
def test_teacher_and_student_see_images_of_the_same_size(file):
    """What a teacher is tested at is what it was made for."""

    def resize(cfg):
        steps = [step for step in cfg.test_pipeline if step['type'] == 'Resize']
        return [(tuple(step.scale), step.keep_ratio) for step in steps]

    teacher = get_config(f'mmdet::{teacher_of(file)}')
    assert resize(teacher) == resize(get_config(f'mmdet::{plain_student(file)}'))
    assert len(resize(teacher)) == 1


@coco
def test_name_says_the_methods(file):
    """WTTM where the class scores of both correspond, and FM-KT everywhere."""
    model = parse(file).model
    method, teacher = file.split('/')[1].split('_')[:2]
    assert method == ('fmkt-wttm' if len(model.terms) > 1 else 'fmkt')
    types = {str(model.losses[term].type).removeprefix('mmkd_fm.') for term in model.terms}
    assert types == ({'FMKTLoss', 'WTTMLoss'} if method == 'fmkt-wttm' else {'FMKTLoss'})
    assert teacher in teacher_of(file)
    teacher_type = get_config(f'mmdet::{teacher_of(file)}').model.type
    if method == 'fmkt-wttm':
        assert teacher_type == model.student.type
    stages = model.student.get('roi_head', {}).get('num_stages')
    if stages:
        taps = [model.losses[term].tap for term in model.terms[1:]]
        assert taps == [f'roi_head.bbox_head.{i}' for i in range(stages)]


# one pair of each, with WTTM where there is one
FAMILIES = {file.split('/')[0]: file for file in reversed(COCO)}


@pytest.mark.slow
@pytest.mark.parametrize('file', FAMILIES.values(), ids=FAMILIES)
def test_each_family_takes_a_step(file, mmdet_scope):
    """With all methods that can be chosen, in training mode, and a teacher of random weights."""
    from mmengine.logging import MessageHub
    from mmengine.model import revert_sync_batchnorm

    if file.startswith('paa/'):
        pytest.importorskip('sklearn', reason='PAA needs scikit-learn to train')
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0))  # as the Runner does
    cfg = copy.deepcopy(parse(file))
    if 'num_queries' in cfg.model.student:
        cfg.model.student.num_queries = 100  # not more than there are locations
    cfg.model.student.backbone.init_cfg = None
    model = revert_sync_batchnorm(build(cfg, terms=None)).train()
    model.student.init_weights()  # some parameters are what the memory held until then
    model.teacher.is_loaded = True  # as if its random weights had been read
    batch = detection_batch(128, masks=cfg.model.student.type == 'MaskRCNN')
    with torch.no_grad():
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
    for name in model.distill_losses:
        assert losses[f'loss_{name}'].isfinite()
        assert losses[f'loss_{name}'] > 0


def detection_batch(side, masks):
    """A raw batch of two images with three boxes each."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(0)
    meta = dict(img_shape=(side, side), ori_shape=(side, side), batch_input_shape=(side, side))
    images, samples = [], []
    for i in range(2):
        corner = rng.random((3, 2), dtype='float32') * (side - 48)
        objects = InstanceData(
            bboxes=torch.from_numpy(np.hstack([corner, corner + 48])),
            labels=torch.from_numpy(rng.integers(0, 80, 3)),
        )
        if masks:
            objects.masks = BitmapMasks(np.ones((3, side, side), np.uint8), side, side)
        sample = DetDataSample(metainfo=dict(meta, img_id=i, scale_factor=(1.0, 1.0)))
        sample.gt_instances = objects
        images.append(torch.from_numpy(rng.integers(0, 256, (3, side, side), dtype=np.uint8)))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def test_model_index_lists_the_pairs():
    """Each with its epochs, and no results, since none was run."""
    index = yaml.safe_load((ROOT.parent / 'model-index.yml').read_text(encoding='utf-8'))
    found = {path.relative_to(ROOT.parent).as_posix() for path in ROOT.glob('*/metafile.yml')}
    assert set(index['Import']) == found
    listed = []
    for path in index['Import']:
        content = yaml.safe_load((ROOT.parent / path).read_text(encoding='utf-8'))
        collections = {collection['Name'] for collection in content['Collections']}
        for model in content['Models']:
            file = model['Config'].removeprefix('configs/')
            assert model['In Collection'] in collections
            assert model['Name'] == Path(file).stem
            assert Path(file).parent == Path(path).parent.relative_to('configs')
            assert model['Metadata']['Epochs'] == parse(file).train_cfg.max_epochs
            assert not {'Results', 'Weights'} & set(model)
            listed.append(file)
    distilled = [f for f in FILES if f.startswith(MODEL_INDEX) and is_distillation(parse(f))]
    assert sorted(listed) == sorted(distilled)


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


def test_the_readmes_example_is_the_shipped_pair(tmp_path):
    (tmp_path / '_base_').symlink_to(ROOT / '_base_')
    file = tmp_path / 'mine' / 'mine.py'
    file.parent.mkdir()
    text = (ROOT.parent / 'README.md').read_text(encoding='utf-8')
    (block,) = (b for b in re.findall(r'```python\n(.*?)```', text, re.DOTALL) if '_base_ =' in b)
    file.write_text(textwrap.dedent(block))
    ours, shipped = (
        Config.fromfile(f)
        for f in (file, ROOT / 'retinanet/fmkt-wttm_retinanet_r101_retinanet_r50_2x_coco.py')
    )
    chosen = {name: shipped.model.losses[name] for name in shipped.model.pop('terms')}
    assert ours.model == dict(shipped.model, losses=chosen)
    assert ours.default_hooks == shipped.default_hooks
