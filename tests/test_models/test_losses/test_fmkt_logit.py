import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn import functional as F

from mmkd_fm.functional import dist_loss, dkd_loss, kd_loss
from mmkd_fm.models import FMKTLogitLoss
from mmkd_fm.models.alignment import Level, Tapped
from mmkd_fm.models.losses.fmkt_logit import cross_entropy
from mmkd_fm.models.taps import Tap
from mmkd_fm.registry import MODELS

REFERENCE = np.load(Path(__file__).parents[2] / 'data' / 'reference_logit.npz')
N, CHANNELS, CLASSES = 6, 4, 5
TARGET = torch.tensor([0, 3, 1, 4, 3, 2])


def value(name):
    return torch.from_numpy(REFERENCE[name])


def hard(target=TARGET):
    """Data samples as mmpretrain makes them."""
    return [BaseDataElement(gt_label=label[None]) for label in target]


def soft(scores):
    return [BaseDataElement(gt_score=score) for score in scores]


def head(classes=CLASSES, channels=CHANNELS):
    module = nn.Identity()
    module.num_classes, module.in_channels = classes, channels
    return module


def tapped(owner, path, module, *levels):
    return Tapped(owner, Tap(path), module, levels)


def connected(channels=CHANNELS, classes=CLASSES, teacher_classes=None, vectors=False, **kwargs):
    levels = () if vectors else (Level(2, 4), Level(channels, 8))
    student = dict(
        features=tapped('student', 'backbone', nn.Identity(), *levels),
        logits=tapped('student', 'head', head(classes, channels)),
    )
    loss = FMKTLogitLoss(**kwargs)
    loss.connect(student, tapped('teacher', 'head', head(teacher_classes or classes)))
    return loss


@pytest.fixture
def fmkt():
    """Build a connected loss in float64, its velocity not zero any more: `fmkt(moved=True, ...)`"""

    def make(moved=True, **kwargs):
        torch.manual_seed(0)
        loss = connected(**kwargs).double()
        if moved:
            nn.init.normal_(loss.flow.meta_encoder.conv2.weight)
        return loss

    return make


@pytest.fixture
def batch():
    """Map X^S, the student's own logits and the teacher's, float64."""
    generator = torch.Generator().manual_seed(1)
    shapes = (N, CHANNELS, 3, 2), (N, CLASSES), (N, CLASSES)
    x, z, teacher = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return dict(features=(x[:, :2], x.requires_grad_()), logits=z.requires_grad_()), teacher


@pytest.mark.parametrize('checkpoint', [False, True])
def test_serial_training_equals_the_reference(checkpoint):
    """Losses and all gradients to 1e-9 relative in float64."""
    loss = connected(8, 10, flow=dict(num_steps=4, checkpoint=checkpoint)).double()
    encoder, embedding = loss.flow.meta_encoder, loss.flow.time_embedding
    parameters = {
        'encoder.conv1.weight': encoder.conv1.weight,
        'encoder.norm.weight': encoder.norm.weight,
        'encoder.norm.bias': encoder.norm.bias,
        'encoder.conv2.weight': encoder.conv2.weight,
        'time.0.weight': embedding.linear1.weight,
        'time.0.bias': embedding.linear1.bias,
        'time.2.weight': embedding.linear2.weight,
        'time.2.bias': embedding.linear2.bias,
        'classifier.weight': loss.classifier[2].weight,
        'classifier.bias': loss.classifier[2].bias,
    }
    assert len(parameters) == len([*loss.parameters()])
    for name, parameter in parameters.items():
        parameter.data = value(f'param.{name}')
    student, weight = value('student').requires_grad_(), value('param.student_classifier.weight')
    logits = F.linear(
        student.mean(dim=(2, 3)), weight.requires_grad_(), value('param.student_classifier.bias')
    )
    result = loss(dict(features=(student,), logits=logits), value('teacher'), hard(value('target')))

    def assert_equal(actual, name):
        expected = value(name)
        scale = expected.abs().max().item()
        torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=1e-9 * scale)

    # the authors' second classifier has a cross-entropy there, which the student's head has itself
    theta = result['loss_theta'] + F.cross_entropy(logits, value('target'))
    assert_equal(theta, 'theta_loss')
    for actual, name in zip(
        torch.autograd.grad(theta, [student, weight], retain_graph=True),
        ['student', 'student_classifier.weight'],
    ):
        assert_equal(actual, f'theta_grad.{name}')
    assert_equal(result['loss'], 'loss')
    result['loss'].backward()
    assert_equal(student.grad, 'grad.student')
    for name, parameter in parameters.items():
        assert_equal(parameter.grad, f'grad.{name}')


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
@pytest.mark.parametrize('num_steps', [1, 4, 8])
def test_theta_compares_with_the_mean_of_the_steps_logits(fmkt, batch, num_steps, schedule):
    student, teacher = batch
    loss = fmkt(flow=dict(num_steps=num_steps, schedule=schedule), theta_weight=3)
    estimates = loss.flow(student['features'][-1], keep_steps=True).estimates
    logits = torch.stack([loss.classifier(estimate) for estimate in estimates])
    expected = 3 * dist_loss(student['logits'], logits.mean(dim=0))
    torch.testing.assert_close(loss(student, teacher, hard())['loss_theta'], expected)


@pytest.mark.parametrize('num_steps', [1, 4])
def test_each_step_is_compared_with_teacher_and_labels(fmkt, batch, num_steps):
    student, teacher = batch
    loss = fmkt(
        flow=dict(num_steps=num_steps),
        metric=dict(type='KDLoss', temperature=2),
        label_weight=0.5,
        loss_weight=3,
    )
    estimates = loss.flow(student['features'][-1], keep_steps=True).estimates
    logits = [loss.classifier(estimate) for estimate in estimates]
    expected = sum(kd_loss(e, teacher, 2) + 0.5 * F.cross_entropy(e, TARGET) for e in logits)
    result = loss(student, teacher, hard())
    torch.testing.assert_close(result['loss'], 3 * expected / num_steps)
    assert result['steps'] == num_steps


@pytest.mark.parametrize('label', [-1, CLASSES])
def test_labels_out_of_range_are_refused(fmkt, batch, label):
    target = TARGET.clone()
    target[2] = label
    with pytest.raises(ValueError, match=r'labels must be from 0 to 4.*check num_classes'):
        fmkt()(*batch, hard(target))


def test_training_starts_from_the_students_own_feature(fmkt, batch):
    student, teacher = batch
    loss = fmkt(moved=False, label_weight=0)
    expected = dist_loss(loss.classifier(student['features'][-1]), teacher)
    torch.testing.assert_close(loss(student, teacher)['loss'], expected)


def test_flow_and_theta_have_their_own_gradients(fmkt, batch):
    student, teacher = batch
    loss = fmkt()
    result = loss(student, teacher, hard())
    result['loss_theta'].backward(retain_graph=True)
    assert student['logits'].grad.abs().max() > 0
    assert student['features'][-1].grad is None
    assert all(p.grad is None for p in loss.parameters())
    student['logits'].grad = None
    result['loss'].backward()
    assert student['logits'].grad is None
    assert student['features'][-1].grad.abs().max() > 0
    assert all(p.grad is not None for p in loss.parameters())


def test_theta_without_weight_is_left_out(fmkt, batch):
    assert set(fmkt(theta_weight=0)(*batch, hard())) == {'loss', 'steps'}


def test_each_weight_is_that_of_its_own_term(fmkt, batch):
    one, other = (
        fmkt(flow=dict(num_steps=2), **weights)(*batch, hard())
        for weights in ({}, dict(loss_weight=2.0, theta_weight=3.0))
    )
    for name, factor in dict(loss=2, loss_theta=3, steps=1).items():
        torch.testing.assert_close(other[name], factor * one[name])


def test_soft_labels_are_mixed_cross_entropies(fmkt, batch):
    loss = fmkt(metric=dict(type='KDLoss', loss_weight=0))
    mixed = 0.3 * F.one_hot(TARGET, CLASSES) + 0.7 * F.one_hot(TARGET.flip(0), CLASSES)
    one, other, both = (
        loss(*batch, samples)['loss'] for samples in (hard(), hard(TARGET.flip(0)), soft(mixed))
    )
    torch.testing.assert_close(both, (0.3 * one + 0.7 * other))


def test_one_hot_labels_are_hard_labels(fmkt, batch):
    """Also as mmpretrain's `to_onehot` makes them: whole numbers, beside the class."""
    samples = hard()
    for sample, score in zip(samples, F.one_hot(TARGET, CLASSES)):
        sample.gt_score = score
    loss = fmkt()
    torch.testing.assert_close(loss(*batch, samples)['loss'], loss(*batch, hard())['loss'])


def test_labels_are_read_where_they_are_needed(fmkt, batch):
    assert fmkt(label_weight=0)(*batch)['loss'].isfinite()
    several = [BaseDataElement(gt_label=torch.tensor([0, 1])) for _ in range(N)]
    for samples, got in [
        (None, 'no labels'),
        ([BaseDataElement()], 'no labels'),
        (several, 'gt_label'),
    ]:
        with pytest.raises(ValueError, match=f'one gt_label or a gt_score.* got {got}.*weight=0'):
            fmkt()(*batch, samples)


def test_dkd_is_given_the_labels(fmkt, batch):
    student, teacher = batch
    loss = fmkt(moved=False, metric=dict(type='DKDLoss'), label_weight=0)
    expected = dkd_loss(loss.classifier(student['features'][-1]), teacher, TARGET)
    torch.testing.assert_close(loss(student, teacher, hard())['loss'], expected)
    with pytest.raises(ValueError, match='DKDLoss needs hard labels.*mixup'):
        loss(student, teacher, soft(F.one_hot(TARGET, CLASSES).double()))


@pytest.mark.parametrize('ratio', [0, 0.3])
def test_pair_decoupling_permutes_the_teachers_alone(fmkt, batch, ratio):
    """The teachers are all different, so that the order of the classes tells whose they are."""
    student, _ = batch
    teacher = 9 * F.one_hot(torch.tensor([0, 1, 2, 3, 4, 0]), CLASSES).double()
    teacher[5, 4] = 3
    before, seen = teacher.clone(), []
    loss = fmkt(pair_ratio=ratio)
    loss.metric.forward = lambda student, teacher: seen.append(teacher) or student.sum() * 0
    result = loss(student, teacher, hard())['loss']
    kept = round(ratio * N)
    assert torch.equal(seen[0][:kept], teacher[:kept])
    assert not torch.equal(seen[0], teacher)
    assert sorted(seen[0].tolist()) == sorted(teacher.tolist())
    assert torch.equal(teacher, before)
    paired = fmkt()
    paired.metric.forward = loss.metric.forward
    assert torch.equal(paired(student, teacher, hard())['loss'], result)  # the labels stay


def test_pairs_are_a_function_of_seed_and_iteration(fmkt, batch, iteration, generators):
    def terms(seed, number):
        iteration(number)
        return fmkt(pair_ratio=0, flow=dict(seed=seed))(*batch, hard())['loss'].item()

    fmkt()  # which seeds the global generator
    before, first = generators(), terms(0, 0)
    assert generators() == before
    assert terms(0, 0) == first
    assert len({first, terms(0, 1), terms(0, 2), terms(1, 0), terms(2, 0)}) > 3


def test_vectors_are_maps_of_one_element(fmkt, batch):
    student, teacher = batch
    x = student['features'][-1].mean(dim=(2, 3))
    result = fmkt(vectors=True)(dict(student, features=x), teacher, hard())
    expected = fmkt()(dict(student, features=(x[:, :, None, None],)), teacher, hard())
    assert all(torch.equal(result[key], expected[key]) for key in expected)


def test_losses_are_float32_at_least_also_under_autocast(fmkt, batch):
    student, teacher = batch
    student = {'features': student['features'][-1].bfloat16(), 'logits': student['logits'].half()}
    loss = fmkt().float()
    with torch.autocast('cpu', torch.bfloat16):
        result = loss(student, teacher.bfloat16(), hard())
    assert all(term.dtype == torch.float32 for term in result.values())
    half = torch.randn(N, CLASSES).bfloat16()
    assert torch.equal(cross_entropy(half, TARGET), cross_entropy(half.float(), TARGET))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(flow='neck'), "or 'head'; got 'neck'"),
        (dict(flow=dict(num_steps=[0, 1])), "leave 0 out.*FlowClsHead.*flow='head'"),
        (dict(flow=[2]), r"or 'head'; got \[2\]"),
        (dict(metric=dict(type='No')), 'valid names: .*mmkd_fm.DISTLoss'),
        (dict(pair_ratio=2), r'in \[0, 1\], but got 2'),
        (dict(teacher_classes=7), 'student has 5 classes, the teacher 7.*distil features'),
        (dict(vectors=True, channels=None), 'channels of .* are not known.*in_channels. Tap a map'),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        connected(**options)


def test_taps_are_checked():
    student, teacher = tapped('student', 'head', head()), tapped('teacher', 'head', head())
    wanted = r"tap=dict\(features='backbone', logits='head'\), but got "
    with pytest.raises(ValueError, match=f'{wanted}head'):
        FMKTLogitLoss().connect(student, teacher)
    with pytest.raises(ValueError, match=f'{wanted}logits'):
        FMKTLogitLoss().connect(dict(logits=student), teacher)
    both = dict(features=tapped('student', 'backbone', nn.Identity()), logits=student)
    with pytest.raises(ValueError, match="add teacher_tap='head'"):
        FMKTLogitLoss().connect(both, dict(both))
    with pytest.raises(ValueError, match='FlowClsHead, but logits is Identity'):
        FMKTLogitLoss(flow='head').connect(dict(transport=student, logits=student), teacher)
    both['logits'] = tapped('student', 'neck', nn.Flatten())
    with pytest.raises(ValueError, match="student 'neck' is Flatten, .* tap a classification head"):
        FMKTLogitLoss().connect(both, teacher)


# with a real classifier


def classifier(width=4, classes=5):
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=width, stem_channels=width
        ),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(
            type='mmpretrain.LinearClsHead',
            num_classes=classes,
            in_channels=8 * width,
            loss=dict(type='mmpretrain.CrossEntropyLoss'),
        ),
    )


PREPROCESSOR = dict(type='mmpretrain.ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)
FMKT = dict(
    type='mmkd_fm.FMKTLogitLoss',
    tap=dict(features='backbone', logits='head'),
    teacher_tap='head',
)


@pytest.fixture(scope='module')
def teacher(write_teacher):
    """A wider teacher with a normalisation of its own."""
    pytest.importorskip('mmpretrain.models')
    preprocessor = dict(PREPROCESSOR, std=[50.0] * 3)
    return write_teacher(dict(classifier(width=6), data_preprocessor=preprocessor))


@pytest.fixture
def distiller(teacher):
    """A student with a loaded teacher: `distiller(loss_weight=1, ...)`."""

    def make(classes=5, **options):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type='mmkd_fm.Distiller',
                student=classifier(classes=classes),
                teacher=copy.deepcopy(teacher),
                losses=dict(fmkt=dict(FMKT, **options)),
                data_preprocessor=dict(PREPROCESSOR),
            )
        )
        model.load_teacher()
        return model

    return make


@pytest.fixture
def plain(build):
    return build(dict(classifier(), data_preprocessor=dict(PREPROCESSOR)), seed=0)


@pytest.fixture
def images():
    structures = pytest.importorskip('mmpretrain.structures')
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8))
    samples = [structures.DataSample().set_gt_label(label) for label in TARGET[:4]]
    return dict(inputs=list(pixels), data_samples=samples)


@pytest.mark.parametrize('metric', ['DISTLoss', 'DKDLoss'])
def test_all_parameters_get_gradients_in_a_real_distiller(distiller, images, loss_of, metric):
    """DDP with find_unused_parameters=False needs this."""
    model = distiller(metric=dict(type=metric)).train()
    total, losses = loss_of(model, images)
    assert set(losses) == {'loss', 'loss_fmkt', 'loss_fmkt_theta', 'fmkt_steps'}
    assert total == losses['loss'] + losses['loss_fmkt'] + losses['loss_fmkt_theta']
    total.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_with_weight_zero_it_is_the_plain_student(distiller, plain, images, loss_of):
    model = distiller(loss_weight=0)
    totals = [loss_of(one.train(), images)[0] for one in (model, plain)]
    assert torch.equal(*totals)
    for total in totals:
        total.backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), plain.parameters()))


def test_the_student_is_the_plain_student_in_files_and_predictions(distiller, plain, images):
    model = distiller().eval()
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict(), strict=True)
    inputs = plain.data_preprocessor(images, False)['inputs']
    scores = [one(inputs, mode='predict') for one in (model, plain.eval())]
    assert all(torch.equal(s.pred_score, t.pred_score) for s, t in zip(*scores))


def test_other_classes_than_the_teachers_are_refused(distiller):
    with pytest.raises(ValueError, match='student has 6 classes, the teacher 5'):
        distiller(classes=6)


@pytest.mark.parametrize('owner', ['student', 'teacher'])
def test_heads_of_several_labels_are_refused(owner):
    models = pytest.importorskip('mmpretrain.models')
    several = models.MultiLabelLinearClsHead(
        CLASSES, CHANNELS, loss=dict(type='mmpretrain.CrossEntropyLoss', use_sigmoid=True)
    )
    ours, theirs = (several, head()) if owner == 'student' else (head(), several)
    student = dict(
        features=tapped('student', 'backbone', nn.Identity(), Level(CHANNELS, 8)),
        logits=tapped('student', 'head', ours),
    )
    message = rf"FMKTLogitLoss .*{owner} 'head', MultiLabelLinearClsHead, are sigmoids"
    with pytest.raises(ValueError, match=message):
        FMKTLogitLoss(label_weight=0).connect(student, tapped('teacher', 'head', theirs))
