import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmkd_fm.functional import decouple_pairs, draw_num_steps
from mmkd_fm.models import FlowClsHead, FMKTLogitLoss
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.flow_cls_head import as_map, pool
from mmkd_fm.models.taps import Tap, record
from mmkd_fm.registry import MODELS

LinearClsHead = pytest.importorskip('mmpretrain.models').LinearClsHead
DataSample = pytest.importorskip('mmpretrain.structures').DataSample

CHANNELS, CLASSES = 8, 5
LINEAR = dict(
    type='mmpretrain.LinearClsHead',
    num_classes=CLASSES,
    in_channels=CHANNELS,
    loss=dict(type='mmpretrain.CrossEntropyLoss'),
)


def move(head):
    """Away from the zero velocity of the beginning."""
    nn.init.normal_(head.flow.meta_encoder.conv2.weight, std=0.3)


@pytest.fixture
def flowed():
    """Build a head with a velocity that is not zero: `flowed(moved=True, ...)`."""

    def make(moved=True, head=LINEAR, **kwargs):
        torch.manual_seed(0)
        module = FlowClsHead(head, **kwargs)
        if moved:
            move(module)
        return module.eval()

    return make


@pytest.fixture
def feature():
    return torch.randn(3, CHANNELS, 4, 6, generator=torch.Generator().manual_seed(1))


def samples(labels=(0, 4, 2)):
    return [DataSample().set_gt_label(label) for label in labels]


def test_with_0_steps_it_is_the_plain_head(flowed, feature):
    head = flowed(nfe=0)
    vector = feature.mean(dim=(2, 3))
    assert torch.equal(head((vector,)), head.head((vector,)))
    pooled = nn.AdaptiveAvgPool2d(1)(feature).flatten(1)
    assert torch.equal(head((feature,)), head.head((pooled,)))
    assert not torch.equal(flowed(nfe=1)((feature,)), head((feature,)))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('nfe', [0, 1, 4])
def test_a_traced_head_serves_other_batches_and_sizes(flowed, feature, nfe):
    """As an export to ONNX needs it."""
    head = flowed(nfe=nfe).requires_grad_(False)
    traced = torch.jit.trace(lambda x: head((x,)), feature, check_trace=False)
    other = torch.randn(5, CHANNELS, 7, 5)
    torch.testing.assert_close(traced(other), head((other,)))
    assert torch.equal(head((other,)), flowed(nfe=0)((other,))) == (nfe == 0)


def test_at_the_start_it_is_the_plain_head(flowed, feature):
    torch.testing.assert_close(
        flowed(moved=False, nfe=8)((feature,)), flowed(nfe=0)((feature,)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize('ratio', [0.0, 0.5])
def test_decoupled_pairs_are_compared_with_other_teachers(flowed, iteration, ratio):
    """Those that the seed of the head's flow draws in this iteration."""
    iteration(3)
    head = flowed(flow=dict(num_steps=2, seed=3)).train()
    taps = dict(
        transport=Tapped('student', Tap('head.flow'), head.flow, ()),
        logits=Tapped('student', Tap('head'), head, ()),
    )
    losses = [FMKTLogitLoss('head', label_weight=0, pair_ratio=share) for share in (ratio, 1)]
    for loss in losses:
        loss.connect(taps, Tapped('teacher', Tap('head'), head, ()))
    with record(head, ['flow']) as records:
        logits = head((torch.randn(4, CHANNELS, 4, 6),))
    outputs = dict(transport=records['flow'][0][0], logits=logits)
    teacher = torch.randn(4, CLASSES)
    order = decouple_pairs(4, ratio, seed=3, iteration=3)
    assert order.tolist() != [0, 1, 2, 3]
    value = losses[0](outputs, teacher)['loss']
    torch.testing.assert_close(value, losses[1](outputs, teacher[order])['loss'])
    assert not torch.allclose(value, losses[1](outputs, teacher)['loss'])


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
@pytest.mark.parametrize('nfe', [1, 2, 8])
def test_logits_are_the_mean_of_the_logits_of_all_steps(flowed, feature, nfe, schedule):
    head, x = flowed(nfe=nfe, flow=dict(schedule=schedule)).double(), feature.double()
    estimates = head.flow(x, nfe, keep_steps=True).estimates
    assert len(estimates) == nfe
    expected = sum(head.head.fc(e.mean(dim=(2, 3))) for e in estimates) / nfe
    torch.testing.assert_close(head((x,)), expected)


def test_a_head_that_is_not_affine_reads_the_mean_estimate(flowed, feature):
    stacked = dict(LINEAR, type='mmpretrain.StackedLinearClsHead', mid_channels=[7])
    stacked['act_cfg'] = dict(type='ReLU')
    head = flowed(head=stacked, nfe=2)
    endpoint = head.flow(feature, 2).endpoint
    assert torch.equal(head((feature,)), head.head((pool(endpoint),)))


def test_a_half_precision_head_gives_logits_near_those_of_float32(flowed, feature):
    head = flowed(nfe=3)
    expected, plain = head((feature,)), head.head((pool(feature),))
    half = head.bfloat16()((feature.bfloat16(),))
    assert half.dtype == torch.bfloat16
    moved_by = (expected - plain).norm()
    assert moved_by > 0.1 * plain.norm()
    assert (half.float() - expected).norm() < moved_by / 4


def test_vectors_are_maps_of_one_element(flowed, feature):
    head, x = flowed(nfe=4), feature[:, :, 0, 0]
    assert torch.equal(head(x), head((x[:, :, None, None],)))


def test_losses_and_predictions_are_those_of_the_wrapped_head(flowed, feature):
    head = flowed(nfe=2, head=dict(LINEAR, cal_acc=True, topk=(1, 2)))
    endpoint = (pool(head.flow(feature, 2).endpoint),)
    losses, expected = head.loss((feature,), samples()), head.head.loss(endpoint, samples())
    assert set(losses) == {'loss', 'accuracy_top-1', 'accuracy_top-2'}
    assert losses == expected
    predictions, expected = head.predict((feature,), samples()), head.head.predict(endpoint)
    for prediction, other, label in zip(predictions, expected, (0, 4, 2)):
        assert torch.equal(prediction.pred_score, other.pred_score)
        assert prediction.pred_score.sum().item() == pytest.approx(1)
        assert prediction.gt_label == label
    assert torch.equal(head.pre_logits((feature,)), endpoint[0])


def test_attributes_are_those_of_the_wrapped_head(flowed):
    head = flowed()
    assert head.num_classes == CLASSES
    assert head.loss_module is head.head.loss_module
    with pytest.raises(AttributeError, match='LinearClsHead.*no_such'):
        getattr(head, 'no_such')  # noqa: B009


def test_what_a_hook_replaces_is_the_wrapped_heads(flowed, feature):
    head = flowed()
    weight = 100 * head.loss((feature,), samples())['loss']
    # as mmpretrain's SwitchRecipeHook does
    head.loss_module = MODELS.build(dict(type='mmpretrain.CrossEntropyLoss', loss_weight=100.0))
    assert head.head.loss_module is head.loss_module
    assert set(head._modules) == {'head', 'flow'}
    torch.testing.assert_close(head.loss((feature,), samples())['loss'], weight)


def test_only_the_last_feature_is_transported(flowed, feature):
    seen = []
    head = flowed(nfe=1)
    head.head.forward = lambda feats: seen.append(feats) or feats[-1]
    first = torch.randn(3, 2, 8, 12)
    head((first, feature))
    assert seen[0][0] is first
    assert torch.equal(seen[0][1], pool(head.flow(feature, 1).endpoint))


def test_training_takes_the_steps_of_the_iteration(flowed, feature, iteration):
    head = flowed(flow=dict(num_steps=[1, 2, 4], seed=7), nfe=3).train()
    iteration(3)
    steps = draw_num_steps([1, 2, 4], 7, 3)
    expected = head.classify(head.flow(feature, steps).endpoint)
    assert torch.equal(head((feature,)), expected)
    assert torch.equal(head.eval()((feature,)), head.classify(head.flow(feature, 3).endpoint))


def test_0_steps_in_training_need_a_loss_that_reads_the_flow(flowed, feature):
    head = flowed(flow=dict(num_steps=[0, 2])).train()
    with pytest.raises(ValueError, match=r"\[0, 2\]: with 0 steps.*FMKTLogitLoss with flow='head'"):
        head((feature,))


def test_with_0_drawn_the_head_reads_the_plain_feature_and_the_flow_is_taken(
    flowed, feature, iteration
):
    head = flowed(flow=dict(num_steps=[0, 2, 4])).train()
    head.supervised = True
    iteration(next(i for i in range(50) if draw_num_steps([0, 2, 4], 0, i) == 0))
    with record(head, ['flow']) as records:
        logits = head((feature,))
    assert torch.equal(logits, head.classify(feature))
    ((transported, _),) = records['flow']
    assert transported.estimates.shape == (2, *feature.shape)


@pytest.mark.parametrize(('training', 'supervised', 'kept'), [(1, 1, 1), (1, 0, 0), (0, 1, 0)])
def test_steps_are_kept_for_losses_alone(flowed, feature, training, supervised, kept):
    head = flowed().train(bool(training))
    head.supervised = bool(supervised)
    with record(head, ['flow']) as records:
        head((feature,))
    assert (records['flow'][0][0].estimates is not None) == bool(kept)


def test_weights_of_the_plain_head_are_drawn_as_without_the_flow():
    torch.manual_seed(0)
    plain = LinearClsHead(CLASSES, CHANNELS)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    flowed = FlowClsHead(LINEAR)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(flowed.head.fc.weight, plain.fc.weight)


@pytest.mark.parametrize('inner', ['', 'head.'])
def test_plain_checkpoints_are_those_of_the_wrapped_head(flowed, inner):
    """Also of heads that have a module called head themselves."""
    head = flowed()
    if inner:
        head.head = nn.ModuleDict(dict(head=head.head))
    flow = copy.deepcopy(head.flow.state_dict())
    weight, bias = torch.randn(CLASSES, CHANNELS), torch.randn(CLASSES)
    model = nn.ModuleDict(dict(head=head))
    plain = {f'head.{inner}fc.weight': weight, f'head.{inner}fc.bias': bias}
    result = model.load_state_dict(plain, strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith('head.flow.') for key in result.missing_keys)
    assert torch.equal(head.head.state_dict()[f'{inner}fc.weight'], weight)
    assert all(torch.equal(head.flow.state_dict()[key], flow[key]) for key in flow)
    state = copy.deepcopy(model.state_dict())
    assert f'head.head.{inner}fc.bias' in state
    model.load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(nfe=-1), 'whole number of steps, 0 or more, but got -1'),
        (dict(nfe=True), 'but got True'),
        (dict(solver='rk4'), "unknown solver 'rk4'; valid names: euler, heun, midpoint"),
        (dict(head=dict(LINEAR, type='mmpretrain.ArcFaceClsHead')), 'got ArcFaceClsHead; keep'),
        (dict(head=dict(type='mmpretrain.ClsHead', loss=LINEAR['loss'])), 'in_channels is None'),
        (dict(flow=dict(meta_encoder=dict(type='No'))), 'valid names: mmkd_fm.ConvMetaEncoder'),
    ],
)
def test_arguments_are_checked(flowed, options, message):
    with pytest.raises(ValueError, match=message):
        flowed(moved=False, **options)


def test_features_are_maps_or_vectors(feature):
    assert as_map([feature[:, :2], feature]) is feature
    with pytest.raises(ValueError, match=r"got shape \(3, 8, 24\).*'cls_token'"):
        as_map((feature.flatten(2),))
    with pytest.raises(ValueError, match='got list'):
        as_map(([feature],))


# in a real classifier


PREPROCESSOR = dict(type='mmpretrain.ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)


def classifier(width=4, pooled=True, flow=None, **options):
    head = dict(LINEAR, in_channels=8 * width)
    if flow is not None:
        head = dict(type='mmkd_fm.FlowClsHead', head=head, flow=flow, **options)
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=width, stem_channels=width
        ),
        neck=dict(type='mmpretrain.GlobalAveragePooling') if pooled else None,
        head=head,
        data_preprocessor=dict(PREPROCESSOR),
    )


def test_the_flow_begins_as_built_whatever_the_classifiers_init_cfg(build):
    config = dict(classifier(pooled=False, flow={}), init_cfg=dict(type='Kaiming', layer='Conv2d'))
    model = build(config).eval()
    model.init_weights()
    feats = model.backbone(torch.randn(2, 3, 32, 32))
    expected = model.head.classify(feats[-1])
    torch.testing.assert_close(model.head(feats), expected, rtol=0, atol=1e-6)
    model.head.flow.meta_encoder.conv2.weight.data.fill_(0.1)
    assert (model.head(feats) - expected).abs().max() > 1e-3


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))
    return dict(inputs=list(pixels), data_samples=samples())


@pytest.fixture(scope='module')
def teacher(write_teacher):
    return write_teacher(classifier(width=6))


@pytest.fixture
def distiller(teacher):
    """Its student has a FlowClsHead: `distiller(flow=..., pooled=True, task_loss_weight=1)`."""

    def make(flow, pooled=True, task_loss_weight=1, nfe=8, **options):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type='mmkd_fm.Distiller',
                student=classifier(flow=flow, pooled=pooled, nfe=nfe),
                teacher=copy.deepcopy(teacher),
                losses=dict(
                    fmkt=dict(
                        type='mmkd_fm.FMKTLogitLoss',
                        flow='head',
                        tap=dict(transport='head.flow', logits='head'),
                        teacher_tap='head',
                        **options,
                    )
                ),
                task_loss_weight=task_loss_weight,
            )
        )
        model.load_teacher()
        return model

    return make


@pytest.mark.parametrize('pooled', [True, False])
def test_0_steps_are_the_plain_classifier(build, images, pooled):
    plain = build(classifier(), seed=0).eval()
    flowed = build(classifier(pooled=pooled, flow={}, nfe=0), seed=1).eval()
    flowed.load_state_dict(plain.state_dict(), strict=False)
    move(flowed.head)
    inputs = plain.data_preprocessor(images, False)['inputs']
    assert torch.equal(flowed(inputs), plain(inputs))
    flowed.head.nfe = 1
    assert not torch.equal(flowed(inputs), plain(inputs))


@pytest.mark.parametrize('nfe', [0, 8])
@pytest.mark.parametrize('pooled', [True, False])
@pytest.mark.parametrize('flow', [{}, dict(num_steps=[0, 2])])
def test_all_parameters_get_gradients(distiller, images, loss_of, iteration, flow, pooled, nfe):
    """In iterations of any number of steps; DDP with find_unused_parameters=False needs this."""
    model = distiller(flow, pooled, nfe=nfe).train()
    for i in range(4):
        iteration(i)
        total, losses = loss_of(model, images)
        theta = {'loss_fmkt_theta'} if 'num_steps' in flow else set()
        assert set(losses) == {'loss', 'loss_fmkt', 'fmkt_steps'} | theta
        model.zero_grad(set_to_none=True)
        total.backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_the_flow_is_drawn_to_the_teacher_by_the_logits_of_each_step(
    distiller, images, loss_of, teacher
):
    model = distiller(dict(num_steps=2), metric=dict(type='KDLoss', temperature=1)).train()
    move(model.head)
    with record(model.student, ['neck']) as records:
        _, losses = loss_of(model, images)
    x = records['neck'][0][0][0][:, :, None, None]
    data = model.data_preprocessor(images, True)
    z = model.teacher.model(data['teacher_inputs']).softmax(dim=1)
    expected = 0
    for estimate in model.head.flow(x, 2, keep_steps=True).estimates:
        e = model.head.head.fc(estimate.flatten(1))
        expected += (z * (z.log() - e.log_softmax(dim=1))).sum(dim=1).mean() / 2
        expected += F.cross_entropy(e, torch.tensor([0, 4, 2])) / 2
    torch.testing.assert_close(losses['loss_fmkt'], expected)


def test_theta_draws_the_plain_head_where_0_steps_are_drawn(distiller, images, loss_of, iteration):
    model = distiller(dict(num_steps=[0, 2])).train()
    move(model.head)
    theta = {}
    for i in range(50):
        iteration(i)
        if draw_num_steps([0, 2], 0, i) not in theta:
            value = loss_of(model, images)[1]['loss_fmkt_theta'].item()
            theta[draw_num_steps([0, 2], 0, i)] = value
    assert theta[0] > 1e-3
    assert theta[2] == pytest.approx(0, abs=1e-4)  # DIST's eps alone


def test_files_are_those_of_the_student_with_the_flow(distiller, build, images):
    model = distiller({}).eval()
    move(model.head)
    student = build(classifier(flow={}, nfe=8)).eval()
    assert {key.split('.')[1] for key in model.state_dict() if 'head' in key} == {'head', 'flow'}
    student.load_state_dict(model.state_dict(), strict=True)
    inputs = student.data_preprocessor(images, False)['inputs']
    assert torch.equal(model(inputs), student(inputs))


def test_copies_read_their_own_head(distiller, images, loss_of):
    model = distiller({}).train()
    other = copy.deepcopy(model)
    assert other.distill_losses['fmkt'].head is other.head is other.student.head
    loss_of(other, images)[0].backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in other.parameters())
    assert not list(model.distill_losses.parameters())  # the head is the student's


@pytest.mark.parametrize('nfe', [0, 2])
def test_its_logits_and_its_transport_can_be_tapped(build, images, nfe):
    model = build(classifier(flow={}, nfe=nfe)).eval()
    data = model.data_preprocessor(images, False)
    for mode in ('tensor', 'loss', 'predict'):
        with record(model, ['head', 'head.flow']) as records:
            model(**data, mode=mode)
        assert [len(calls) for calls in records.values()] == [1, 1]
        assert records['head'][0][0].shape == (3, CLASSES)
        assert len(records['head.flow'][0][0].times) == nfe
