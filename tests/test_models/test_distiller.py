import copy
import gc
import pickle
import re
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_state_dict
from torch import nn

from mmkd_fm.hooks import DistillStateHook
from mmkd_fm.models.flow import Flow

kinds = pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
PKD = dict(type='mmkd_fm.PKDLoss', tap='neck')


@pytest.fixture
def plain(detectors, build):
    """Build the plain student: `plain(kind='retinanet', seed=None)`."""
    return lambda kind='retinanet', seed=None: build(detectors[kind](), seed).train()


@contextmanager
def counted(module):
    """A list that grows with each forward of the module."""
    calls = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def off(losses):
    return {name: dict(cfg, loss_weight=0) for name, cfg in losses.items()}


# The student's names, keys and attributes


@kinds
def test_children_and_parameters_have_the_students_names(distiller, plain, kind):
    model, student = distiller(kind, load=False), plain(kind)
    assert [n for n, _ in model.named_children()] == [
        n for n, _ in student.named_children()
    ] + ['distill_losses']  # fmt: skip
    names = [n for n, _ in model.named_parameters() if not n.startswith('distill_losses.')]
    assert names == [n for n, _ in student.named_parameters()]
    own = dict(model.named_parameters())
    assert all(own[name] is p for name, p in model.student.named_parameters())


@kinds
def test_state_is_the_plain_students(distiller, plain, kind):
    model, student = distiller(kind, load=False), plain(kind)
    state = model.state_dict()
    assert list(state) == list(student.state_dict())
    assert not any('distill_losses' in key for key in state._metadata)
    assert list(model.state_dict(prefix='module.')) == [f'module.{key}' for key in state]


loaders = pytest.mark.parametrize(
    'load',
    [nn.Module.load_state_dict, load_state_dict],
    ids=['torch', 'mmengine'],
)


@kinds
@loaders
def test_states_load_strictly_both_ways(distiller, plain, kind, load):
    model, student = distiller(kind, load=False), plain(kind, seed=5)
    load(model, student.state_dict(), strict=True)
    for name, value in model.student.state_dict().items():
        assert torch.equal(value, student.state_dict()[name]), name
    other = plain(kind, seed=6)
    load(other, model.state_dict(), strict=True)
    for name, value in other.state_dict().items():
        assert torch.equal(value, student.state_dict()[name]), name


def test_a_missing_student_key_is_still_an_error(distiller):
    model = distiller(load=False)
    state = model.state_dict()
    del state['neck.fpn_convs.0.conv.weight']
    with pytest.raises(RuntimeError, match=r'Missing key.*neck\.fpn_convs\.0\.conv\.weight'):
        model.load_state_dict(state)


@pytest.fixture
def hooked(retinanet):
    """Config of a RetinaNet whose root renames its keys, as mmpretrain's TimmClassifier does.

    Its preprocessor has a state of its own.
    """
    from mmdet.models import DetDataPreprocessor, RetinaNet
    from mmdet.registry import MODELS

    @MODELS.register_module(force=True)
    class CountingPreprocessor(DetDataPreprocessor):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.register_buffer('count', torch.rand(1))

    @MODELS.register_module(force=True)
    class HookedRetinaNet(RetinaNet):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.loaded = []
            self._register_state_dict_hook(self._rename)
            self._register_load_state_dict_pre_hook(self._restore, with_module=True)
            self.register_load_state_dict_post_hook(self._note)

        @staticmethod
        def _rename(module, state, prefix, metadata):
            return {key.replace('backbone.', 'body.'): value for key, value in state.items()}

        @staticmethod
        def _restore(module, state, *args):
            module.loaded.append('before')
            for key in list(state):
                state[key.replace('body.', 'backbone.')] = state.pop(key)

        @staticmethod
        def _note(module, incompatible):
            assert type(module) is HookedRetinaNet
            module.loaded.append(sorted(incompatible.missing_keys))

    model = retinanet()
    model.type = 'HookedRetinaNet'
    model.data_preprocessor.type = 'CountingPreprocessor'
    return model


@loaders
def test_state_hooks_of_the_students_root(hooked, distiller, build, load):
    model, student = distiller(student=hooked, load=False), build(hooked).train()
    state = student.state_dict()
    assert 'body.conv1.weight' in state and 'data_preprocessor.count' in state
    assert list(model.state_dict()) == list(state)
    load(model, state, strict=True)
    assert model.student.loaded == ['before', []]
    other = build(hooked)
    load(other, model.state_dict(), strict=True)
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name]), name
    twin = copy.deepcopy(model)
    load(twin, build(hooked).state_dict(), strict=True)
    assert len(twin.student.loaded) == 4 and len(model.student.loaded) == 2


def faster_rcnn(backbone, neck):
    """Configs of a small Faster R-CNN and an RPN with the backbone of a RetinaNet."""
    from mmengine.hub import get_config

    models = []
    for name in ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'rpn/rpn_r50_fpn_1x_coco.py'):
        model = get_config(f'mmdet::{name}').model
        model.backbone = copy.deepcopy(backbone)
        model.neck.update(in_channels=neck.in_channels, out_channels=16)
        model.rpn_head.update(in_channels=16, feat_channels=16)
        models.append(model)
    roi_head = models[0].roi_head
    roi_head.bbox_roi_extractor.out_channels = 16
    roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=3)
    return models


@loaders
def test_keys_that_a_students_class_renames(distiller, detectors, build, load):
    """MMDetection loads the `bbox_head` of an RPN into the `rpn_head` of a two-stage detector."""
    small = detectors['retinanet']()
    student, rpn = faster_rcnn(small.backbone, small.neck)
    state = build(rpn, seed=5).state_dict()
    model = distiller(student=student, losses=dict(pkd=PKD), load=False)
    load(model, state, strict=False)
    for name, value in state.items():
        name = name.replace('bbox_head.', 'rpn_head.')
        assert torch.equal(model.state_dict()[name], value), name


def test_attributes_are_the_students(distiller):
    model = distiller(load=False)
    assert model.with_neck is True
    assert model.extract_feat.__self__ is model.student
    assert model.test_cfg is model.student.test_cfg
    with pytest.raises(AttributeError, match='no_such_thing'):
        model.no_such_thing  # noqa: B018


def test_what_a_hook_sets_is_the_student_s(distiller):
    model = distiller(load=False)
    model.student.lambda_of_the_student = 1
    model.lambda_of_the_student = 2
    assert model.student.lambda_of_the_student == model.lambda_of_the_student == 2
    model.told_by_a_hook, model.seed = 3, 4
    assert not hasattr(model.student, 'told_by_a_hook') and not hasattr(model.student, 'seed')


def test_a_replaced_child_is_replaced_in_the_student(distiller):
    model, neck = distiller(load=False), nn.Identity()
    model.neck = neck
    assert model.student.neck is neck
    assert model.neck is neck


def test_batch_norms_converted_in_the_distiller_are_the_students(distiller):
    model = convert_sync_batchnorm(distiller(load=False), 'torch')
    kinds = {type(m) for m in model.student.backbone.modules() if 'BatchNorm' in type(m).__name__}
    assert kinds == {nn.SyncBatchNorm}
    assert model.backbone is model.student.backbone


def test_parts_that_a_student_keeps_elsewhere_move_with_it(distiller, gfl, write_teacher, tmp_path):
    """The teacher of mmdet's own LD is none of its modules."""
    own = write_teacher(gfl(), seed=3)
    Config(own['config']).dump(tmp_path / 'own.py')
    student = gfl()
    student.bbox_head.update(
        type='LDHead',
        loss_ld=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10),
    )
    student.update(
        type='KnowledgeDistillationSingleStageDetector',
        teacher_config=str(tmp_path / 'own.py'),
        teacher_ckpt=own['checkpoint'],
    )
    model = distiller('gfl', student=student, load=False)
    elsewhere = model.student.teacher_model
    assert {p.device.type for p in elsewhere.parameters()} == {'cpu'}
    assert model.to('meta') is model
    for moved in (elsewhere, model.student, model.distill_losses):
        assert {p.device.type for p in moved.parameters()} == {'meta'}


def test_a_distiller_within_another_model_is_told(distiller):
    outer = nn.ModuleDict(dict(student=distiller(load=False)))
    with pytest.raises(TypeError, match='must be the outermost model, but it is a part of Module'):
        DistillStateHook().before_run(SimpleNamespace(model=outer))


def test_mode_reaches_the_student(distiller):
    model = distiller(load=False)
    for mode in (False, True):
        model.train(mode)
        assert model.student.training is mode
        assert model.student.backbone.bn1.training is mode


def test_a_preprocessor_at_the_top_level_is_the_students(distiller, detectors):
    student = detectors['retinanet']()
    preprocessor = student.pop('data_preprocessor')
    given = dict(preprocessor, mean=[1, 2, 3])
    model = distiller(student=student, data_preprocessor=given, load=False)
    assert model.student.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert model.data_preprocessor.student is model.student.data_preprocessor
    student['data_preprocessor'] = preprocessor  # the student's own comes first
    model = distiller(student=student, data_preprocessor=given, load=False)
    assert model.data_preprocessor.mean[0] == pytest.approx(123.675)


# Losses


@kinds
def test_student_losses_are_the_plain_students(distiller, plain, raw_batch, loss_of, kind):
    model, student = distiller(kind), plain(kind)
    student.load_state_dict(model.state_dict())
    _, losses = loss_of(model, raw_batch())
    _, expected = loss_of(student, raw_batch())
    assert list(losses)[: len(expected)] == list(expected)
    for name, values in expected.items():
        assert all(torch.equal(a, b) for a, b in zip(losses[name], values)), name
    assert list(losses)[len(expected) :] == [
        'loss_fmkt', 'loss_fmkt_theta', 'fmkt_steps', 'loss_wttm', 'wttm_confidence',
        'wttm_divergence', 'wttm_teacher_entropy', 'wttm_renyi_entropy', 'wttm_power_sum',
        'loss_pkd',
    ]  # fmt: skip


@kinds
@pytest.mark.parametrize('poison', [False, True], ids=['', 'nan-teacher'])
def test_zero_weights_are_the_plain_student(
    distiller, distill_losses, plain, raw_batch, loss_of, generators, teachers, tmp_path, kind,
    poison,
):  # fmt: skip
    teacher = dict(teachers[kind])
    if poison:
        state = torch.load(teacher['checkpoint'])
        for value in state['state_dict'].values():
            value.fill_(float('nan') if value.is_floating_point() else 0)
        teacher['checkpoint'] = str(tmp_path / 'nan.pth')
        torch.save(state, teacher['checkpoint'])
    runs = []
    for make in (
        lambda: plain(kind, seed=3),
        lambda: distiller(kind, off(distill_losses), model_seed=3, teacher=teacher),
    ):
        model, log = make(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
        for step in range(3):
            loss, losses = loss_of(model, raw_batch(seed=step))
            optimizer.zero_grad()
            loss.backward()
            log += [loss, *(p.grad.clone() for p in model.parameters())]
            optimizer.step()
        runs.append((list(losses), log, list(model.state_dict().values()), generators()))
    assert runs[0][0] == runs[1][0]
    for index in (1, 2):
        assert len(runs[0][index]) == len(runs[1][index])
        assert all(torch.equal(a, b) for a, b in zip(runs[0][index], runs[1][index]))
    assert runs[0][3] == runs[1][3]


def test_a_term_of_weight_zero_is_left_out_whole_and_told(distiller, distill_losses, caplog):
    distill_losses['fmkt'].update(loss_weight=0, theta_weight=4.0, source_weight=0)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    model = distiller(losses=distill_losses, load=False)
    logger.removeHandler(caplog.handler)
    assert list(model.distill_losses) == ['wttm', 'pkd']
    assert 'distillation fmkt: left out, its loss_weight is 0' in caplog.text
    assert 'wttm: left out' not in caplog.text


@pytest.mark.parametrize('weight', [-1, -0.5, '1', (1, 5), None, True, float('nan'), float('inf')])
@pytest.mark.parametrize('key', ['loss_weight', 'theta_weight', 'source_weight', 'task'])
def test_what_is_no_weight_is_refused(key, weight, distiller, distill_losses):
    where, options = f'losses.fmkt.{key}', dict(losses=distill_losses)
    if key == 'task':
        where, options['task_loss_weight'] = 'task_loss_weight', weight
    else:
        distill_losses['fmkt'][key] = weight
    if (key, weight) == ('theta_weight', None):
        assert distiller(**options, load=False).distill_losses['fmkt'].theta_weight == 1  # default
        return
    with pytest.raises(ValueError, match=f'^{where}: expected a finite number of at least 0, got'):
        distiller(**options, load=False)


def test_a_source_term_is_not_left_out_in_silence(distiller, distill_losses):
    distill_losses['fmkt'].update(loss_weight=0, source_weight=4.0)
    message = r'losses\.fmkt has loss_weight=0, .* but source_weight=4\.0\. .*source_weight=0 too'
    with pytest.raises(ValueError, match=message):
        distiller(losses=distill_losses, load=False)


def test_a_zero_weight_skips_its_term_only(distiller, distill_losses, raw_batch, loss_of):
    distill_losses['wttm']['loss_weight'] = 0
    model = distiller(losses=distill_losses)
    head = model.teacher.model.bbox_head
    head.retina_cls.bias.fill_(float('nan'))
    with counted(head) as calls:
        loss, losses = loss_of(model, raw_batch())
    loss.backward()
    assert 'loss_wttm' not in losses
    assert losses['loss_pkd'] > 0
    assert not calls
    assert all(p.grad.isfinite().all() for p in model.parameters())


@kinds
def test_without_a_weight_at_the_moment_the_step_is_the_plain_students(
    distiller, plain, raw_batch, loss_of, generators, kind
):  # as a LossWeightHook makes it; with gradients for DDP
    model, student = distiller(kind), plain(kind)
    student.load_state_dict(model.state_dict())
    for loss in model.distill_losses.values():
        for weight in {'loss_weight', 'theta_weight'} & set(vars(loss)):
            setattr(loss, weight, 0.0)
    runs = []
    with counted(model.teacher.model.backbone) as calls:
        for trained in (model, student):
            torch.manual_seed(0)
            loss, losses = loss_of(trained, raw_batch())
            loss.backward()
            gradients = {n: p.grad for n, p in trained.named_parameters() if p.requires_grad}
            runs.append((loss, losses, gradients, generators()))
    assert not calls
    (loss, losses, gradients, drawn), (expected, own, of_student, drawn_alone) = runs
    assert torch.equal(loss, expected) and drawn == drawn_alone
    assert set(losses) - set(own) == {'loss_fmkt', 'loss_wttm', 'loss_pkd'}
    extras = {name: gradients.pop(name) for name in set(gradients) - set(of_student)}
    assert extras and all(g is not None and not g.any() for g in extras.values())
    assert all(torch.equal(gradients[name], of_student[name]) for name in of_student)


def test_a_term_that_has_no_weight_at_the_moment_is_not_computed(distiller, raw_batch, loss_of):
    model = distiller()
    head = model.teacher.model.bbox_head
    head.retina_cls.bias.fill_(float('nan'))
    model.distill_losses['wttm'].loss_weight = 0.0
    model.distill_losses['fmkt'].loss_weight = 0.0  # its Theta term goes on
    with counted(head) as calls:
        losses = loss_of(model, raw_batch())[1]
    assert not calls
    assert losses['loss_wttm'] == 0 == losses['loss_fmkt'] and 'wttm_confidence' not in losses
    assert losses['loss_pkd'] > 0 and losses['fmkt_steps'] > 0
    model.distill_losses['wttm'].loss_weight = 1.0
    with pytest.raises(FloatingPointError, match='loss_wttm'):
        loss_of(model, raw_batch())


@kinds
@pytest.mark.parametrize('name', ['fmkt', 'wttm', 'pkd', 'cwd', 'mse', 'velocity', 'trained map'])
def test_every_parameter_gets_a_gradient(
    distiller, distill_losses, raw_batch, loss_of, kind, name
):  # or DDP would need find_unused_parameters
    objective = dict(type='mmkd_fm.VelocityMatching', train_teacher_map=name == 'trained map')
    losses = dict(
        distill_losses,
        cwd=dict(PKD, type='mmkd_fm.CWDLoss'),
        mse=dict(PKD, type='mmkd_fm.MSELoss'),
    )
    if name in losses:
        losses = {name: losses[name]}
    else:
        metric = dict(type='mmkd_fm.MSELoss')
        losses = dict(fmkt=dict(losses['fmkt'], objective=objective, metric=metric))
    model = distiller(kind, losses)
    loss_of(model, raw_batch())[0].backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []


@pytest.mark.parametrize('tap', [dict(tap='backbone.layer4'), dict(tap='neck', index=0)], ids=str)
def test_taps_of_a_single_map_train_their_projection(distiller, raw_batch, loss_of, tap):
    model = distiller(losses=dict(pkd=dict(type='mmkd_fm.PKDLoss', **tap)))
    loss_of(model, raw_batch())[1]['loss_pkd'].backward()
    (projection,) = model.distill_losses['pkd'].projections
    assert projection.in_channels != projection.out_channels
    assert projection.weight.grad.abs().sum() > 0


def test_student_runs_once_and_teacher_only_as_deep_as_needed(distiller, raw_batch, loss_of):
    model = distiller(losses=dict(pkd=PKD))
    models = (model, model.teacher.model)
    modules = [m for model in models for m in (model.backbone, model.bbox_head.retina_cls)]
    with ExitStack() as stack:
        calls = [stack.enter_context(counted(module)) for module in modules]
        loss_of(model, raw_batch())
    assert list(map(len, calls)) == [1, 5, 1, 0]


def test_task_loss_weight_scales_the_students_losses_only(distiller, raw_batch, loss_of):
    runs = {}
    for weight in (1.0, 0.25):
        model = distiller(model_seed=0, seed=0, task_loss_weight=weight)
        runs[weight] = loss_of(model, raw_batch())[1]
    assert list(runs[1]) == list(runs[0.25])
    for name, value in runs[1].items():
        if name in ('loss_cls', 'loss_bbox'):
            assert all(torch.equal(0.25 * a, b) for a, b in zip(value, runs[0.25][name])), name
        else:
            assert torch.equal(value, runs[0.25][name]), name


def test_task_loss_weight_zero_leaves_the_distillation_alone(distiller, raw_batch, loss_of):
    model = distiller(losses=dict(pkd=PKD), task_loss_weight=0)
    total, losses = loss_of(model, raw_batch())
    assert total == losses['loss_pkd']
    total.backward()
    assert model.bbox_head.retina_cls.weight.grad.abs().max() == 0
    assert model.backbone.conv1.weight.grad.abs().max() > 0


@kinds
@pytest.mark.parametrize('boxes', [(2, 0), (0, 0), (3,)], ids=str)
def test_images_without_boxes_and_batches_of_one(distiller, raw_batch, loss_of, kind, boxes):
    model = distiller(kind)
    loss, losses = loss_of(model, raw_batch(boxes=boxes))
    loss.backward()
    assert loss.isfinite()
    assert losses['loss_wttm'] > 0
    assert losses['loss_pkd'] > 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


@kinds
def test_bfloat16_autocast_is_finite_with_metrics_in_float32(distiller, raw_batch, loss_of, kind):
    model = distiller(kind)
    for flow in model.distill_losses['fmkt'].flows.values():
        nn.init.normal_(flow.meta_encoder.conv2.weight, std=0.1)
    with torch.autocast('cpu', torch.bfloat16):
        loss, losses = loss_of(model, raw_batch())
    loss.backward()
    for name in ('loss_fmkt', 'loss_fmkt_theta', 'loss_wttm', 'wttm_confidence', 'loss_pkd'):
        assert losses[name].dtype == torch.float32, name
        assert losses[name].isfinite(), name
    assert all(p.grad.isfinite().all() for p in model.parameters())
    exact = loss_of(model, raw_batch())[1]
    assert losses['loss_pkd'].item() == pytest.approx(exact['loss_pkd'].item(), rel=0.05)


def test_a_term_that_is_not_finite_is_named(distiller, raw_batch, loss_of):
    model = distiller()
    next(model.distill_losses['pkd'].projections.parameters()).data.fill_(float('inf'))
    with pytest.raises(FloatingPointError, match=r'not finite: loss_pkd\. Lower the loss weight'):
        loss_of(model, raw_batch())


def test_predictions_are_the_plain_students(distiller, plain, raw_batch):
    model, student = distiller().eval(), plain().eval()
    student.load_state_dict(model.state_dict())
    model.test_cfg.score_thr = student.test_cfg.score_thr = 0.0
    model.bbox_head.test_cfg.score_thr = student.bbox_head.test_cfg.score_thr = 0.0
    results = []
    for detector in (model, student):
        with torch.no_grad():
            results.append(detector.test_step(raw_batch()))
    for ours, theirs in zip(*results):
        ours, theirs = ours.pred_instances, theirs.pred_instances
        assert len(ours) > 0
        assert torch.equal(ours.bboxes, theirs.bboxes)
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.labels, theirs.labels)


def test_prediction_needs_no_teacher_file(distiller, raw_batch):
    teacher = distiller(load=False).teacher
    model = distiller(load=False).eval()
    assert not teacher.is_loaded
    with torch.no_grad():
        assert len(model.test_step(raw_batch())) == 2
    assert not model.teacher.is_loaded


def test_a_teacher_without_its_weights_does_not_teach(distiller, raw_batch):
    model = distiller(load=False)
    data = model.data_preprocessor(raw_batch(), training=True)
    with pytest.raises(RuntimeError, match=r'call load_teacher\(\)'):
        model(**data, mode='loss')
    model.load_teacher()
    assert 'loss_fmkt' in model(**data, mode='loss')


def test_a_training_step_moves_student_and_extras(distiller, raw_batch):
    model = distiller()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optim_wrapper = build_optim_wrapper(
        model, dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
    )
    log = model.train_step(raw_batch(), optim_wrapper)
    assert {'loss', 'loss_cls', 'loss_fmkt', 'fmkt_steps'} <= set(log)
    expected = sum(value for name, value in log.items() if name.startswith('loss_'))
    torch.testing.assert_close(log['loss'], expected)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {'backbone.conv1.weight', 'bbox_head.retina_cls.weight'} <= moved
    assert any(name.startswith('distill_losses.fmkt.flows') for name in moved)
    assert any(name.startswith('distill_losses.pkd.projections') for name in moved)


# Initial weights and generators


@kinds
def test_building_draws_what_the_plain_student_draws(distiller, plain, generators, kind):
    student = plain(kind, seed=11)
    expected = generators()
    model = distiller(kind, load=False, model_seed=11)
    assert generators() == expected
    for name, value in student.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@kinds
@pytest.mark.parametrize('init_cfg', [None, dict(type='Normal', layer='Conv2d', std=0.3)], ids=str)
def test_init_weights_are_the_plain_students(
    distiller, detectors, build, generators, kind, init_cfg
):
    config = detectors[kind]()
    config.init_cfg = init_cfg
    student = build(config, seed=11)
    model = distiller(kind, student=config, load=False, model_seed=11)
    extras = [p.detach().clone() for p in model.distill_losses.parameters()]
    model.state_is_kept = True  # as DistillStateHook sets it
    ends = []
    for detector in (student, model):
        torch.manual_seed(12)
        detector.init_weights()
        ends.append(generators())
    assert ends[0] == ends[1]
    for name, value in student.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert all(torch.equal(a, b) for a, b in zip(extras, model.distill_losses.parameters()))
    assert model.teacher.is_loaded


class Own(BaseModule):
    """A meta-encoder of a user, which says how it begins."""

    def __init__(self, channels, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x, t_embedding):
        return self.conv(x)


@pytest.mark.parametrize('layer', ['Conv2d', 'Linear'])
def test_extras_begin_as_their_init_cfg_says(distiller, detectors, build, distill_losses, layer):
    own = dict(type=Own, init_cfg=dict(type='Normal', layer=layer, std=100.0))
    losses = dict(fmkt=dict(distill_losses['fmkt'], flow=dict(meta_encoder=own)))

    def begun():
        model = distiller(losses=losses, load=False, model_seed=11)
        model.state_is_kept = True
        torch.manual_seed(12)
        model.init_weights()
        return model, torch.cat([flow.meta_encoder.conv.weight for flow in flows(model)])

    def flows(model):
        return [module for module in model.distill_losses.modules() if isinstance(module, Flow)]

    model, weights = begun()
    assert (weights.std() > 50) == (layer == 'Conv2d')
    assert torch.equal(weights, begun()[1])
    student = build(detectors['retinanet'](), seed=11)
    torch.manual_seed(12)
    student.init_weights()
    for name, value in student.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_neck_and_head_may_begin_as_the_teachers(distiller, detectors, teachers, kind):
    """As docs/practice.md says it, with what MMEngine has for it."""
    student = detectors[kind](width=12, channels=24)
    for part in ('neck', 'bbox_head'):
        checkpoint = teachers[kind]['checkpoint']
        student[part].init_cfg = dict(type='Pretrained', prefix=part, checkpoint=checkpoint)
    model = distiller(kind, student=student, losses=dict(pkd=PKD))
    model.state_is_kept = True
    model.init_weights()
    taught = model.teacher.model.state_dict()
    for name, parameter in model.student.named_parameters():
        inherited = torch.equal(parameter, taught[name])
        assert inherited == (not name.startswith('backbone')), name


def test_building_leaves_the_seed_of_gpus_alone(distiller, monkeypatch):
    """It waits until they are set up, where a later one would replace that of the run."""
    seeds = []
    for name in ('manual_seed', 'manual_seed_all'):
        monkeypatch.setattr(torch.cuda, name, seeds.append)
    torch.manual_seed(3)
    distiller(load=False, seed=4)
    assert set(seeds) == {3}


def test_extras_follow_the_seed(distiller):
    def extras(seed, model_seed):
        model = distiller(load=False, seed=seed, model_seed=model_seed)
        return torch.cat([p.flatten() for p in model.distill_losses.parameters()])

    assert torch.equal(extras(1, 5), extras(1, 6))
    assert not torch.equal(extras(1, 5), extras(2, 5))
    assert torch.equal(extras(None, 5), extras(None, 5))  # the run's seed
    assert not torch.equal(extras(None, 5), extras(None, 6))


def test_init_weights_without_the_state_hook_is_refused(distiller):
    with pytest.raises(RuntimeError, match=r"default_hooks = .*type='mmkd_fm.DistillStateHook'"):
        distiller(load=False).init_weights()


# Copies


def test_a_copy_shares_the_teacher_and_nothing_else(distiller, raw_batch, loss_of):
    model = distiller()
    twin = copy.deepcopy(model)
    assert twin.teacher is model.teacher
    assert twin.data_preprocessor._teacher is model.teacher
    assert twin.student is not model.student
    assert twin.student.backbone is twin.backbone
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    first, second = loss_of(model, raw_batch())[0], loss_of(twin, raw_batch())[0]
    assert torch.equal(first, second)


def test_a_pickle_holds_the_student_without_the_teacher(distiller, raw_batch):
    model = distiller().eval()
    twin = pickle.loads(pickle.dumps(model))
    assert twin.teacher is None
    assert list(twin.state_dict()) == list(model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(twin(images)[0][0], model(images)[0][0])


# Messages


def test_no_losses(distiller, detectors, teachers):
    from mmkd_fm.registry import MODELS

    with pytest.raises(ValueError, match='losses is empty'):
        MODELS.build(
            dict(
                type='mmkd_fm.Distiller',
                student=detectors['retinanet'](),
                teacher=teachers['retinanet'],
                losses={},
            )
        )


@pytest.mark.parametrize(
    ('losses', 'message'),
    [
        (dict(pkd_loss=PKD), r"name 'pkd_loss' contains \"loss\".*such as 'pkd'"),
        (dict(loss=PKD), r"contains \"loss\".*such as 'term'"),
        (dict(pkd=dict(type='mmkd_fm.PKDLoss')), r"losses\.pkd needs a tap, such as tap='neck'"),
        (dict(pkd=dict(PKD, type='mmkd_fm.PKD')), r"unknown Loss 'mmkd_fm.PKD'; valid .*PKDLoss"),
        (dict(pkd=dict(PKD, tap='nek')), r"no module 'nek' in RetinaNet; did you mean 'neck'"),
        (dict(pkd=dict(PKD, teacher_tap='nek')), r"no module 'nek' in RetinaNet; did you mean"),
        (dict(pkd=dict(PKD, tap='bbox_head')), r'feature maps .* expected.*choose an output'),
        (dict(pkd=dict(PKD, tap='bbox_head', index=2)), r'index 2 is out of range'),
        (dict(pkd=dict(PKD, levels=[5])), r'has the levels 0 to 4'),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else '',
)
def test_mistakes_in_losses_are_told(distiller, losses, message):
    with pytest.raises(ValueError, match=message):
        distiller(losses=losses, load=False)


FMKT, WTTM = (dict(type=f'mmkd_fm.{name}Loss', tap='neck') for name in ('FMKT', 'WTTM'))


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(FMKT, los_weight=2), r"FMKTLoss .*'los_weight'; did you mean 'loss_weight'\?"),
        (dict(FMKT, los_weight=2), r' It has: tap, index, .*, flow, .*, loss_weight, levels$'),
        (dict(FMKT, teacher_tp='neck'), r"'teacher_tp'; did you mean 'teacher_tap'\?"),
        (dict(FMKT, flow=dict(num_step=4)), r"Flow .*'num_step'; did you mean 'num_steps'\?"),
        (dict(FMKT, flow=dict(num_step=4)), r'It has: meta_encoder, .*, checkpoint$'),
        (dict(FMKT, metric=dict(type='MSELoss', x=1)), r"MSELoss .*'x'\. It has: loss_weight, "),
        (dict(WTTM, gama=1), r"WTTMLoss .*'gama'; did you mean 'gamma'\? It has: .*, class_map"),
        (dict(PKD, type='CWDLoss', temp=1), r"CWDLoss .*'temp'.* It has: .*, project$"),
    ],
)
def test_misspelt_options_are_told(distiller, cfg, message):
    with pytest.raises(ValueError, match=r'^losses\.x: .*has no option') as error:
        distiller(losses=dict(x=cfg), load=False)
    assert re.search(message, str(error.value))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(WTTM, gamma='2'), "WTTMLoss: expected gamma to be float, got '2'"),
        (dict(WTTM, threshold=True), 'WTTMLoss: expected threshold to be float.*, got True'),
        (dict(FMKT, pair_ratio=None), 'FMKTLoss: expected pair_ratio to be float, got None'),
        (dict(PKD, project='no'), "PKDLoss: expected project to be bool, got 'no'"),
    ],
)
def test_values_of_another_kind_are_told(distiller, cfg, message):
    with pytest.raises(ValueError, match=rf'^losses\.x: {message}$'):
        distiller(losses=dict(x=cfg), load=False)


def test_whole_numbers_and_those_of_numpy_are_numbers(distiller):
    cfg = dict(FMKT, loss_weight=np.float32(2), theta_weight=np.float64(1), pair_ratio=1)
    assert distiller(losses=dict(x=cfg), load=False).distill_losses.x.loss_weight == 2


def test_a_loss_that_lacks_its_teacher_is_told(detectors, build):
    config = dict(type='mmkd_fm.Distiller', student=detectors['retinanet'](), losses=dict(pkd=PKD))
    message = (
        r'losses\.pkd: PKDLoss compares with a teacher, and there is none\. Give the Distiller'
    )
    for absent in ({}, dict(teacher=None)):
        with pytest.raises(ValueError, match=message):
            build(dict(config, **absent))


def test_misspelt_options_of_the_teacher_are_told(distiller):
    message = r"teacher: FrozenTeacher has no option 'input_scal'; did you mean 'input_scale'\?"
    with pytest.raises(ValueError, match=message):
        distiller(teacher=dict(input_scal=2), load=False)


@pytest.mark.parametrize('tap', ['tap', 'teacher_tap'])
def test_a_module_called_once_per_level_is_no_tap(distiller, tap):
    cfg = dict(PKD, **{'tap': 'neck.fpn_convs.0', tap: 'bbox_head.retina_cls'})
    with pytest.raises(ValueError, match=r"'bbox_head.retina_cls': .*called 5 times.*once is"):
        distiller(losses=dict(pkd=cfg), load=False)


def test_two_stage_models_can_be_tapped_before_their_heads(
    distiller, detectors, raw_batch, loss_of
):
    small = detectors['retinanet']()
    student, _ = faster_rcnn(small.backbone, small.neck)
    model = distiller(student=student, losses=dict(pkd=PKD))
    pairs = [(1, 0), (2, 1), (3, 2), (4, 3)]  # P3 to P6 of a RetinaNet
    assert model.distill_losses['pkd'].pairs == pairs
    loss, losses = loss_of(model, raw_batch())
    loss.backward()
    assert {'loss_rpn_cls', 'loss_bbox', 'loss_pkd'} <= set(losses)
    assert all(p.grad is not None for p in model.parameters())


def test_levels_that_are_left_out_are_told(distiller, retinanet, caplog):
    student = retinanet()
    student.neck.update(start_level=0, add_extra_convs=False)  # P2 to P6
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    distiller(student=student, losses=dict(pkd=PKD), load=False)
    logger.removeHandler(caplog.handler)
    assert (
        "pkd: student 'neck' (16@4, 16@8, 16@16, 16@32, 16@64) <- teacher 'neck' (24@8, 24@16, "
        "24@32, 24@64, 24@128); left out: the student's 16@4 and the teacher's 24@128"
    ) in caplog.text


@pytest.mark.parametrize('recomputed', [True, False])
def test_a_tap_without_a_gradient_is_told_once(
    distiller, retinanet, raw_batch, loss_of, caplog, recomputed
):
    """Inside of what mmdet's `with_cp` recomputes, the first forward has no gradient."""
    student = retinanet()
    student.backbone.with_cp = recomputed
    tap = 'backbone.layer3.1.conv2'
    model = distiller(student=student, losses=dict(inside=dict(PKD, tap=tap), neck=PKD)).train()
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    losses = [loss_of(model, raw_batch())[1] for _ in range(2)]
    with torch.no_grad():  # nobody expects a gradient
        loss_of(model, raw_batch())
    logger.removeHandler(caplog.handler)
    trained = torch.autograd.grad(
        losses[1]['loss_inside'], model.backbone.layer3[0].conv1.weight, allow_unused=True
    )
    assert (trained[0] is None) == recomputed
    told = f'distillation inside teaches the student nothing: no gradient leads from {tap} to'
    assert caplog.text.count(told) == recomputed
    assert 'distillation neck teaches' not in caplog.text


def test_a_compiled_forward_gives_the_same_losses(distiller, raw_batch, loss_of):
    """As mmengine's `compile=True` does it; the backend changes nothing for the tap."""
    model = distiller('gfl', losses=dict(pkd=PKD)).train()  # RetinaNet's focal loss doesn't compile
    expected = loss_of(model, raw_batch())[0]
    try:
        model.forward = torch.compile(model.forward, backend='eager')
    except RuntimeError as error:  # a Python that is too new for this torch
        pytest.skip(str(error))
    for _ in range(2):
        loss = loss_of(model, raw_batch())[0]
        assert torch.equal(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    torch._dynamo.reset()


def test_a_config_is_not_changed_by_building(distiller, retinanet):
    student = retinanet()
    before = copy.deepcopy(student)
    distiller(student=student, load=False)
    assert student == before


def test_a_term_named_like_a_loss_of_the_student_is_refused(distiller, raw_batch, loss_of):
    model = distiller(losses=dict(cls=PKD))
    with pytest.raises(ValueError, match=r'the student has losses named loss_cls itself; rename'):
        loss_of(model, raw_batch())


@pytest.mark.parametrize('fmkt_first', [True, False])
def test_a_term_named_like_a_part_of_another_is_refused(distiller, raw_batch, loss_of, fmkt_first):
    """One of the two would be lost."""
    terms = dict(fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck'), fmkt_theta=PKD)
    names = sorted(terms, reverse=not fmkt_first)
    model = distiller(losses={name: terms[name] for name in names})
    with pytest.raises(
        ValueError, match=rf'losses.{names[1]} gives loss_fmkt_theta, which another'
    ):
        loss_of(model, raw_batch())


def test_a_batch_without_the_teachers_view_is_refused(distiller, raw_batch):
    model = distiller()
    data = model.student.data_preprocessor(raw_batch(), True)
    with pytest.raises(ValueError, match='teacher_inputs is missing'):
        model(**data, mode='loss')


def test_short_names_of_losses_are_ours(distiller):
    model = distiller(losses=dict(mse=dict(PKD, type='MSELoss')), load=False)
    assert type(model.distill_losses['mse']).__module__ == 'mmkd_fm.models.losses.feature'


@pytest.mark.parametrize('terms', [['pkd'], ['wttm', 'fmkt'], 'wttm', ('fmkt', 'wttm', 'pkd')])
def test_terms_choose_among_the_losses(distiller, terms):
    model = distiller(terms=terms)
    expected = [terms] if isinstance(terms, str) else list(terms)
    assert list(model.distill_losses) == expected
    assert list(model.student_taps) == expected


@pytest.mark.parametrize(
    ('terms', 'message'),
    [
        (['pkd', 'kd'], "no loss named 'kd'; losses has: fmkt, wttm, pkd"),
        ([], 'terms is empty; name'),
    ],
)
def test_unknown_terms_list_the_valid_ones(distiller, terms, message):
    with pytest.raises(ValueError, match=message):
        distiller(terms=terms)


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (dict(student='mmdet::a.py'), r"student: expected the `model` .*, got 'mmdet::a.py'"),
        (dict(student=dict(model=dict(type='RetinaNet'))), r'got a whole config: give its `model`'),
        (dict(student=dict(neck=dict())), r'got a dict without a type, but with: neck'),
        (dict(losses=[dict(type='mmkd_fm.PKDLoss')]), r'losses: expected a dict .*, got \[\{'),
        (dict(teacher='a.py'), r"teacher: expected dict\(config='...', .*, got 'a.py'"),
        (
            dict(losses=dict(pkd=dict(type='mmkd_fm.PKDLoss', tap=['neck']))),
            r"losses\.pkd: a tap is the path .*, got \['neck'\]",
        ),
    ],
)
def test_what_is_no_config_of_a_part_is_told(distiller, part, message):
    with pytest.raises(ValueError, match=message):
        distiller(**part)


@pytest.mark.parametrize('value', [3, None, 'mmkd_fm.PKDLoss'])
def test_what_is_no_loss_is_told(distiller, distill_losses, value):
    with pytest.raises(ValueError, match=rf'losses\.pkd: expected a dict, .*, got {value!r}; to'):
        distiller(losses=dict(distill_losses, pkd=value))


@pytest.mark.parametrize('terms', [None, ['fmkt']])
def test_a_misspelt_name_in_an_option_is_told(distiller, distill_losses, terms):
    message = (
        r'losses\.fmtk needs a type.*but has: loss_weight\. Is the name misspelt; did you mean '
        r"'fmkt'\? The other losses are: fmkt, wttm, pkd"
    )
    with pytest.raises(ValueError, match=message):
        distiller(losses={**distill_losses, 'fmtk': dict(loss_weight=2)}, terms=terms)
    with pytest.raises(ValueError, match=r'misspelt\? The other losses are: none'):
        distiller(losses=dict(x=dict(tap='neck')))


def test_a_copy_leaves_the_teacher_as_the_original_needs_it(distiller, raw_batch, loss_of):
    model, batch = distiller(model_seed=0), raw_batch()
    before, _ = loss_of(model, batch)
    copied = copy.deepcopy(model).half()
    assert next(copied.parameters()).dtype == torch.float16
    assert next(model.teacher.model.parameters()).dtype == torch.float32
    assert torch.equal(loss_of(model, batch)[0], before)
    del model
    gc.collect()
    copied.double()
    assert next(copied.teacher.model.parameters()).dtype == torch.float64


def test_a_preprocessor_beside_the_students_own_is_told(distiller, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    distiller(load=False)
    other = dict(type='DetDataPreprocessor', pad_size_divisor=128)
    model = distiller(data_preprocessor=other, load=False)
    logger.removeHandler(caplog.handler)
    assert model.data_preprocessor.pad_size_divisor == 32
    told = [r.getMessage() for r in caplog.records if 'model.data_preprocessor' in r.getMessage()]
    assert len(told) == 1 and 'model.student.data_preprocessor' in told[0]


def test_a_semi_supervised_student_is_refused(detectors, teachers, build):
    detector = detectors['retinanet']()
    student = dict(
        type='SemiBaseDetector',
        detector=detector,
        semi_train_cfg=dict(freeze_teacher=True),
        semi_test_cfg=dict(predict_on='teacher'),
        data_preprocessor=dict(
            type='MultiBranchDataPreprocessor', data_preprocessor=detector['data_preprocessor']
        ),
    )
    config = dict(type='mmkd_fm.Distiller', student=student, losses=dict(pkd=PKD))
    with pytest.raises(ValueError, match='SemiBaseDetector has a student and a teacher of its own'):
        build(dict(config, teacher=teachers['retinanet']))


def test_no_term_of_several_losses(distiller):
    with pytest.raises(ValueError, match='terms is empty; name some of losses: pkd'):
        distiller(losses=dict(pkd=PKD), terms=[], load=False)
