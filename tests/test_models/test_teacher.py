import copy
import os
import pickle
import re
from collections import Counter, OrderedDict

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import ResNet
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from torch import nn

from mmkd_fm.models.taps import Tap, read
from mmkd_fm.models.teacher import FrozenTeacher, plain_model

SWIN = dict(
    type='SwinTransformer', embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2),
    window_size=4, drop_path_rate=0.5, out_indices=(0, 1, 2, 3))  # fmt: skip


@pytest.fixture(scope='module')
def written(retinanet, write_teacher):
    """Arguments of a RetinaNet teacher."""
    return write_teacher(retinanet(), seed=1)


@pytest.fixture
def teacher(written):
    loaded = FrozenTeacher(**written)
    loaded.load('cpu')
    return loaded


@pytest.fixture
def state(written):
    return torch.load(written['checkpoint'])['state_dict']


@pytest.fixture
def load_state(written, tmp_path):
    """Load a teacher from a changed state: `load_state(state)`."""

    def load(state, **others):
        path = tmp_path / 'changed.pth'
        torch.save(dict(state_dict=state, **others), path)
        teacher = FrozenTeacher(written['config'], str(path))
        teacher.load('cpu')
        return teacher

    return load


def neck(teacher, inputs):
    return read(teacher.forward(inputs, ['neck']), Tap('neck'), teacher.model)


def test_loaded_weights_are_those_of_the_file(teacher, state):
    assert all(
        torch.equal(value, state[name]) for name, value in teacher.model.state_dict().items()
    )


def test_features_are_those_of_the_plain_model(teacher, written, build, state):
    plain = build(written['config']['model'])
    plain.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    expected = plain.eval().extract_feat(images)
    assert all(torch.equal(a, b) for a, b in zip(neck(teacher, images), expected))


def test_no_gradient_is_recorded(teacher):
    inputs = torch.randn(1, 3, 64, 64, requires_grad=True)
    assert not any(level.requires_grad for level in neck(teacher, inputs))
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not any(module.training for module in teacher.model.modules())


@pytest.mark.parametrize('scale', [0.5, 1.5])
def test_features_at_another_resolution_are_those_of_the_plain_model(
    distiller, teachers, build, raw_batch, scale
):
    plain = build(teachers['retinanet']['config']['model']).eval()
    plain.load_state_dict(torch.load(teachers['retinanet']['checkpoint'])['state_dict'])
    model = distiller(
        teacher=dict(teachers['retinanet'], input_scale=scale),
        losses=dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck')),
    )
    batch = raw_batch()
    resized = [
        F.interpolate(x[None].float(), scale_factor=scale, mode='bilinear', antialias=scale < 1)
        for x in batch['inputs']
    ]
    data = plain.data_preprocessor(dict(inputs=[x[0] for x in resized]), False)
    expected = plain.extract_feat(data['inputs'])
    views = model.data_preprocessor(copy.deepcopy(batch), True)
    got = neck(model.teacher, views['teacher_inputs'])
    assert all(torch.equal(a, b) for a, b in zip(got, expected))


# only what the taps need is computed


def small_yolox():
    model = get_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py').model
    model.backbone.update(deepen_factor=0.1, widen_factor=0.125)
    model.neck.update(in_channels=[32, 64, 128], out_channels=16)
    model.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16)
    return model


def small_faster_rcnn():
    model = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    model.backbone.update(depth=18, base_channels=8, stem_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.roi_head.bbox_roi_extractor.out_channels = 16
    model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=3)
    return model


@pytest.fixture
def three_teachers(retinanet):
    """Config of a small teacher by name."""
    return {'retinanet': retinanet, 'yolox': small_yolox, 'faster_rcnn': small_faster_rcnn}


# what turns outputs into boxes, losses or targets
COSTLY = ('predict', 'predict_by_feat', 'loss', 'loss_by_feat', 'loss_and_predict', 'get_targets')


def count_calls(model):
    """Calls of each module's forward, and of the methods that a teacher never needs."""
    calls = Counter()

    def counted(owner, attribute, name):
        function = getattr(owner, attribute)

        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        setattr(owner, attribute, call)

    for path, module in model.named_modules():
        counted(module, 'forward', path)
        for method in filter(lambda name: hasattr(module, name), COSTLY):
            counted(module, method, f'{path}.{method}()')
    return calls


def of_heads(calls):
    return {name: n for name, n in calls.items() if 'head' in name or name.endswith('()')}


@pytest.mark.parametrize('kind', ['retinanet', 'yolox', 'faster_rcnn'])
def test_a_step_runs_the_teacher_once_and_no_deeper_than_its_neck(
    kind, three_teachers, write_teacher, distiller, raw_batch, loss_of
):
    teacher = write_teacher(three_teachers[kind]())
    losses = dict(
        pkd=dict(type='mmkd_fm.PKDLoss', tap='neck'),
        mse=dict(type='mmkd_fm.MSELoss', tap='backbone', levels=[1, 2], teacher_tap='backbone'),
    )
    if kind == 'yolox':  # its levels begin at stride 8
        losses['pkd']['levels'] = [0, 1, 2]
    if kind == 'faster_rcnn':  # its last level is the student's last but one
        losses['pkd']['levels'] = [0, 1, 2, 3]
    model = distiller(teacher=teacher, losses=losses)
    calls = count_calls(model.teacher.model)
    for step in (1, 2):
        loss_of(model, raw_batch())
        assert calls['backbone'] == calls['neck'] == calls[''] == step
        assert set(calls.values()) <= {step, 2 * step}  # necks call some modules for two levels
        assert of_heads(calls) == {}


@pytest.mark.parametrize('kind', ['retinanet', 'yolox'])
def test_logits_need_the_heads_forward_alone(
    kind, three_teachers, write_teacher, distiller, raw_batch, loss_of, iteration
):
    iteration(0)  # the batch augmentation of YOLOX asks for it
    config = three_teachers[kind]()
    losses = dict(
        kd=dict(type='mmkd_fm.KDLoss', tap='bbox_head', index=0, form='bernoulli', temperature=2),
        pkd=dict(type='mmkd_fm.PKDLoss', tap='neck'),
    )
    model = distiller(student=config, teacher=write_teacher(config), losses=losses)
    calls = count_calls(model.teacher.model)
    loss_of(model, raw_batch())
    assert calls['backbone'] == calls['neck'] == calls['bbox_head'] == 1
    assert not any(name.endswith('()') for name in calls)


def test_building_reads_no_file_and_draws_nothing(retinanet, generators):
    config = retinanet()
    config['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='no/such/file.pth')
    before = generators()
    built = FrozenTeacher(dict(model=config, default_scope='mmdet'), 'no/such/teacher.pth')
    assert generators() == before
    assert not built.is_loaded


def test_a_backbone_that_downloads_as_it_is_built_is_not_asked_to(written):
    class Downloading(ResNet):
        def __init__(self, *args, pretrained=False, **kwargs):
            assert not pretrained
            super().__init__(*args, **kwargs)

    config = copy.deepcopy(written['config'])
    config['model']['backbone'].update(type=Downloading, pretrained=True)
    given = copy.deepcopy(config)
    FrozenTeacher(config, written['checkpoint']).load('cpu')
    assert config == given


def test_pretrained_backbones_are_ignored_on_loading(retinanet, written):
    config = copy.deepcopy(written['config'])
    config['model']['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='no/such/file.pth')
    teacher = FrozenTeacher(config, written['checkpoint'])
    teacher.load('cpu')
    other = FrozenTeacher(**written)
    other.load('cpu')
    assert teacher.fingerprint() == other.fingerprint()


def test_copies_share_it_and_pickling_drops_it(teacher):
    holder = nn.Linear(1, 1)
    holder.teacher = teacher
    assert copy.deepcopy(holder).teacher is teacher
    assert pickle.loads(pickle.dumps(holder)).teacher is None
    assert len(pickle.dumps(holder)) < 5000


def test_fingerprint_tells_weights_apart(teacher, written):
    before = teacher.fingerprint()
    again = FrozenTeacher(**written)
    assert again.fingerprint() != before  # not loaded yet
    again.load('cpu')
    assert again.fingerprint() == before
    again.model.backbone.bn1.running_mean[0] += 1e-3
    assert again.fingerprint() != before


def test_config_without_model_is_refused():
    message = r'with the keys type, neck has no `model`; .*config=dict\(model=dict\('
    with pytest.raises(ValueError, match=message):
        FrozenTeacher(dict(type='RetinaNet', neck=dict(type='FPN')))


@pytest.mark.parametrize('explicit', [False, True])
def test_config_that_does_not_say_how_the_teacher_sees_images(written, explicit):
    config = copy.deepcopy(written['config'])
    del config['model']['data_preprocessor']
    if explicit:
        config['model']['data_preprocessor'] = None
    with pytest.raises(ValueError, match='no `data_preprocessor`.*mean, std.*DetDataPreprocessor'):
        FrozenTeacher(config, written['checkpoint'])


@pytest.mark.parametrize('scale', [0, -1.5, float('inf'), float('nan'), '1.5', None, True])
def test_input_scale_is_a_factor_above_0(written, scale):
    with pytest.raises(ValueError, match=f'input_scale is a factor above 0.* but got {scale!r}; '):
        FrozenTeacher(**written, input_scale=scale)


def test_config_may_be_a_file_or_a_name(written, tmp_path):
    from mmengine.config import Config

    path = tmp_path / 'teacher.py'
    Config(written['config']).dump(path)
    from_file = FrozenTeacher(str(path), written['checkpoint'])
    from_file.load('cpu')
    from_dict = FrozenTeacher(**written)
    from_dict.load('cpu')
    assert from_file.fingerprint() == from_dict.fingerprint()


@pytest.mark.slow
def test_config_may_be_a_name_of_mmdets():
    model = FrozenTeacher('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py').model
    assert model.bbox_head.num_classes == 80


def test_preprocessor_at_the_top_level_of_a_config_is_used(written):
    config = copy.deepcopy(written['config'])
    preprocessor = config['model'].pop('data_preprocessor')
    built = FrozenTeacher(dict(config, data_preprocessor=dict(preprocessor, mean=[1, 2, 3])))
    assert built.model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]


def test_a_student_without_a_preprocessor_takes_the_distillers():
    own, other = dict(type='DetDataPreprocessor'), dict(type='ImgDataPreprocessor')
    bare, whole = dict(type='GFL'), dict(type='GFL', data_preprocessor=own)
    assert plain_model(dict(student=bare, data_preprocessor=own)) == whole
    assert plain_model(dict(student=whole, data_preprocessor=other)) == whole
    assert plain_model(dict(student=bare)) == bare == dict(type='GFL')  # which is not changed
    assert plain_model(whole) == whole


@pytest.mark.parametrize('top', ['student', 'distiller', 'config'])
def test_a_distillations_config_stands_for_its_student(written, teacher, top):
    model = copy.deepcopy(written['config']['model'])
    distillation = dict(model=dict(type='mmkd_fm.Distiller', student=model, losses=dict()))
    outer = dict(student=model, distiller=distillation['model'], config=distillation)[top]
    outer['data_preprocessor'] = model.pop('data_preprocessor')
    config = dict(written['config'], **distillation)
    taught = FrozenTeacher(config, written['checkpoint'])
    taught.load('cpu')
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)]
    views = [one.view(images) for one in (teacher, taught)]
    assert torch.equal(*views)
    for expected, got in zip(neck(teacher, views[0]), neck(taught, views[1])):
        assert torch.equal(expected, got)


@pytest.mark.parametrize('checkpoint', [None, ''])
def test_no_checkpoint(written, checkpoint):
    with pytest.raises(ValueError, match='has no checkpoint; set model.teacher.checkpoint'):
        FrozenTeacher(written['config'], checkpoint).load('cpu')


def test_missing_file(written):
    with pytest.raises(ValueError, match=r"'no/such.pth' does not exist; set model\.teacher"):
        FrozenTeacher(written['config'], 'no/such.pth').load('cpu')


def test_a_relative_path_is_told_where_it_leads_to(written, tmp_path, monkeypatch):
    folder = os.path.dirname(written['checkpoint'])
    monkeypatch.chdir(folder)
    FrozenTeacher(written['config'], 'teacher.pth').load('cpu')
    monkeypatch.chdir(tmp_path)  # a run that is resumed elsewhere
    remedy = f'looked up from {re.escape(str(tmp_path))}: give an absolute path'
    with pytest.raises(ValueError, match=f"'teacher.pth' does not exist; set model.*{remedy}"):
        FrozenTeacher(written['config'], 'teacher.pth').load('cpu')
    with pytest.raises(ValueError, match=f"config 'teacher.py' does not exist; set.*{remedy}"):
        FrozenTeacher('teacher.py')
    with pytest.raises(ValueError, match="'/teacher.pth' does not exist.*") as error:
        FrozenTeacher(written['config'], '/teacher.pth').load('cpu')
    assert 'looked up' not in str(error.value)


@pytest.mark.parametrize('keep', [0, 100, 0.5, -10])
def test_truncated_file(written, tmp_path, keep):
    with open(written['checkpoint'], 'rb') as file:
        content = file.read()
    path = tmp_path / 'truncated.pth'
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=f'{path}.*truncated'):
        FrozenTeacher(written['config'], str(path)).load('cpu')


def test_other_architecture_lists_the_difference(gfl, written, write_teacher):
    other = write_teacher(gfl())['checkpoint']
    message = r'another architecture(.|\n)*missing: .*retina(.|\n)*unexpected: .*gfl_cls'
    with pytest.raises(ValueError, match=message):
        FrozenTeacher(written['config'], other).load('cpu')


def test_other_classes_are_told(retinanet, written, write_teacher):
    other = write_teacher(retinanet(num_classes=4))['checkpoint']
    message = (
        r'another number of classes(.|\n)*bbox_head.retina_cls.weight: '
        r'\(36, 16, 3, 3\) instead of \(27, 16, 3, 3\)'
    )
    with pytest.raises(ValueError, match=message):
        FrozenTeacher(written['config'], other).load('cpu')


def test_a_missing_buffer_is_an_error(state, load_state):
    del state['backbone.bn1.running_mean']
    with pytest.raises(ValueError, match=r'missing: backbone\.bn1\.running_mean'):
        load_state(state)


def test_an_unexpected_key_is_an_error(state, load_state):
    state['neck.extra.weight'] = torch.zeros(1)
    with pytest.raises(ValueError, match=r'unexpected: neck\.extra\.weight'):
        load_state(state)


def test_keys_that_zoo_files_hold_besides_are_ignored_and_logged(
    state, load_state, teacher, caplog
):
    expected = teacher.fingerprint()
    foreign = {'data_preprocessor.mean': torch.zeros(3, 1, 1), 'ema_bn1_weight': torch.zeros(8)}
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        assert load_state(dict(state, **foreign)).fingerprint() == expected
    finally:
        logger.removeHandler(caplog.handler)
    message = 'ignored what is not of the model\n  keys: data_preprocessor.mean, ema_bn1_weight'
    assert sum(message in record.getMessage() for record in caplog.records) == 1


def test_keys_of_a_parallel_model_are_read(state, load_state, teacher):
    prefixed = {f'module.{name}': value for name, value in state.items()}
    assert load_state(prefixed).fingerprint() == teacher.fingerprint()


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_modules_see_the_version_that_the_file_was_saved_with(state, load_state, teacher, prefix):
    """Old files of batch norms have no counters; in a newer one a missing counter is an error."""
    counter = next(name for name in state if name.endswith('num_batches_tracked'))
    kept = {f'{prefix}{name}': value for name, value in state.items() if name != counter}
    assert load_state(kept).is_loaded  # no version: as from before there were any
    versioned = OrderedDict(kept)
    versioned._metadata = {f'{prefix}{counter.rpartition(".")[0]}': dict(version=2)}
    with pytest.raises(ValueError, match=f'missing: {counter}'):
        load_state(versioned)


def test_casts_reach_it_once_it_is_loaded(distiller):
    model = distiller()
    for cast, dtype in ((model.half, torch.float16), (model.double, torch.float64)):
        cast()
        assert {p.dtype for p in model.teacher.model.parameters()} == {dtype}
    model.to(torch.bfloat16)
    assert {p.dtype for p in model.teacher.model.parameters()} == {torch.bfloat16}
    unloaded = distiller(load=False).half()
    assert {p.dtype for p in unloaded.teacher.model.parameters()} == {torch.float32}


def test_it_is_no_part_of_the_distiller(distiller):
    model = distiller()
    own = {id(p) for p in model.teacher.model.parameters()}
    assert not own & {id(p) for p in model.parameters()}
    assert not own & {id(p) for p in model.student.parameters()}
    modules = {id(m) for m in model.teacher.model.modules()}
    assert not modules & {id(m) for m in model.modules()}
    assert not any('teacher' in name for name, _ in model.named_modules())
    assert not any('teacher' in name for name in model.state_dict())


@pytest.fixture(scope='module')
def swin(retinanet, write_teacher):
    """A teacher with stochastic depth that sees its images in another way than the student."""
    config = retinanet()
    config['backbone'] = SWIN
    config['data_preprocessor'].update(
        mean=[100, 110, 90], std=[60, 50, 70], bgr_to_rgb=False, pad_size_divisor=64
    )
    return write_teacher(config)


def test_features_stay_equal_whatever_happens_to_the_distiller(
    distiller, swin, build, raw_batch, loss_of
):
    batch = raw_batch(boxes=(2, 1))
    alone = build(swin['config']['model'])
    alone.load_state_dict(torch.load(swin['checkpoint'])['state_dict'])
    alone.eval()
    with torch.no_grad():
        data = alone.data_preprocessor(copy.deepcopy(batch), False)
        expected = alone.extract_feat(data['inputs'])

    model = distiller(teacher=swin, losses=dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck')))
    fingerprint = model.teacher.fingerprint()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, weight_decay=0.1, momentum=0.9)

    def assert_unchanged():
        inputs = model.data_preprocessor(copy.deepcopy(batch), True)['teacher_inputs']
        assert torch.equal(inputs, data['inputs'])
        features = neck(model.teacher, inputs)
        assert all(torch.equal(a, b) for a, b in zip(features, expected))
        assert not any(m.training for m in model.teacher.model.modules())

    assert_unchanged()
    for _ in range(3):
        model.eval()
        model.train()
        loss, _ = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_unchanged()
    assert model.teacher.fingerprint() == fingerprint


def test_stochastic_depth_would_change_the_features_in_training(swin, build):
    alone = build(swin['config']['model']).train()
    torch.manual_seed(0)
    first, second = (alone.extract_feat(torch.ones(2, 3, 64, 64))[0] for _ in range(2))
    assert not torch.equal(first, second)
