import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from mmkd_fm import functional
from mmkd_fm.models import DISTLoss, DKDLoss, KDLoss, TTMLoss, WTTMLoss
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.taps import Tap
from mmkd_fm.registry import build_part

TARGET = torch.tensor([2, 0, 4, 1, 1, 3])


class TargetedDKDLoss(DKDLoss):
    """With the targets of these tests."""

    def forward(self, student, teacher):
        return super().forward(student, teacher, target=TARGET)


CASES = [
    (KDLoss, {}, lambda s, t: functional.kd_loss(s, t, 4)),
    (KDLoss, dict(temperature=2), lambda s, t: functional.kd_loss(s, t, 2)),
    (TargetedDKDLoss, {}, lambda s, t: functional.dkd_loss(s, t, TARGET, 1, 2, 4)),
    (
        TargetedDKDLoss,
        dict(alpha=0.5, beta=3, temperature=1),
        lambda s, t: functional.dkd_loss(s, t, TARGET, 0.5, 3, 1),
    ),
    (DISTLoss, {}, lambda s, t: functional.dist_loss(s, t, 2, 2, 1)),
    (
        DISTLoss,
        dict(beta=0.5, gamma=3, temperature=4),
        lambda s, t: functional.dist_loss(s, t, 0.5, 3, 4),
    ),
    (TTMLoss, {}, lambda s, t: functional.ttm_loss(s, t, 0.7)),
    (TTMLoss, dict(gamma=0.2), lambda s, t: functional.ttm_loss(s, t, 0.2)),
]


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return [torch.randn(6, 5) * 2 for _ in range(2)]


@pytest.mark.parametrize(('module', 'arguments', 'function'), CASES)
def test_the_module_is_the_function_times_its_weight(module, arguments, function, logits):
    assert torch.equal(module(**arguments)(*logits), function(*logits))
    assert torch.equal(module(**arguments, loss_weight=3)(*logits), 3 * function(*logits))


@pytest.mark.parametrize(('module', 'arguments', 'function'), CASES)
def test_the_metric_is_float32_at_least_also_under_autocast(module, arguments, function, logits):
    half = [z.bfloat16() for z in logits]
    with torch.autocast('cpu', torch.bfloat16):
        value = module(**arguments)(*half)
    assert value.dtype == torch.float32
    assert torch.equal(value, function(*(z.float() for z in half)))
    double = [z.double() for z in logits]
    assert torch.equal(module(**arguments)(*double), function(*double))
    assert module(**arguments)(*double).dtype == torch.float64


@pytest.mark.parametrize('name', ['KDLoss', 'DISTLoss', 'TTMLoss', 'WTTMLoss', 'MSELoss'])
def test_registered_losses_are_metrics_of_two_tensors(name, logits):
    metric = build_part(dict(type=f'mmkd_fm.{name}'), 'Loss')
    student = logits[0].requires_grad_()
    value = metric(student, logits[1])
    value.backward()
    assert value.shape == ()
    assert value > 0
    moved = (student - 1e-3 * student.grad / student.grad.norm()).detach()
    assert metric(moved, logits[1]) < value


@pytest.mark.parametrize('module', [KDLoss, TargetedDKDLoss, DISTLoss, TTMLoss])
def test_what_is_no_tensor_is_refused(module, logits):
    with pytest.raises(TypeError, match=r"got a tuple of the student.*tap='head'.*index="):
        module()((logits[0],), logits[1])


@pytest.mark.parametrize('module', [KDLoss, TargetedDKDLoss, DISTLoss, TTMLoss])
def test_other_classes_are_refused(module, logits):
    with pytest.raises(ValueError, match=r'student \(6, 5\) and teacher \(6, 4\)'):
        module()(logits[0], logits[1][:, :4])


@pytest.mark.parametrize('module', [KDLoss, DKDLoss, DISTLoss])
@pytest.mark.parametrize('temperature', [0, -1])
def test_temperatures_must_be_positive(module, temperature):
    with pytest.raises(ValueError, match='temperature must be above 0'):
        module(temperature=temperature)


@pytest.mark.parametrize('gamma', [0, -0.5, 1.01])
def test_gamma_must_be_above_zero_and_at_most_one(gamma):
    with pytest.raises(ValueError, match=r'gamma must be in \(0, 1\]'):
        TTMLoss(gamma=gamma)


def samples(**fields):
    """Data samples as mmpretrain makes them."""
    data_samples = [BaseDataElement(gt_label=label[None]) for label in TARGET]
    for sample in data_samples:
        sample.set_data(fields)
    return data_samples


def test_dkd_takes_its_targets_from_the_data_samples(logits):
    expected = functional.dkd_loss(*logits, TARGET, 1, 2, 4)
    assert torch.equal(DKDLoss()(*logits, samples()), expected)
    assert torch.equal(DKDLoss()(*logits, data_samples=samples()), expected)


@pytest.mark.parametrize(
    ('data_samples', 'got'),
    [
        (samples(gt_score=torch.full((5,), 0.2)), 'gt_label, gt_score'),
        ([BaseDataElement(gt_score=torch.full((5,), 0.2)) for _ in TARGET], 'with gt_score'),
        ([BaseDataElement() for _ in TARGET], 'no labels'),
    ],
)
def test_dkd_refuses_soft_labels(data_samples, got, logits):
    with pytest.raises(ValueError, match=f'needs hard labels.*{got}.*mixup.*KDLoss, DISTLoss'):
        DKDLoss()(*logits, data_samples)


def test_dkd_refuses_samples_of_several_classes(logits):
    data_samples = samples()
    data_samples[2].gt_label = torch.tensor([1, 2])
    with pytest.raises(ValueError, match=r'int64 of shape \(6,\), but got .* \(7,\)'):
        DKDLoss()(*logits, data_samples)


def test_dkd_without_targets_says_what_to_use(logits):
    with pytest.raises(ValueError, match=r'neither target= nor data_samples=; .* KDLoss'):
        DKDLoss()(*logits)


# connected classifiers


def classifier(owner, classes=5):
    module = nn.Identity()
    module.num_classes = classes
    return Tapped(owner, Tap('head'), module, ())


@pytest.mark.parametrize('module', [KDLoss, DISTLoss, TTMLoss, WTTMLoss])
def test_ignored_samples_are_as_if_they_were_not_there(module, logits):
    """In the loss and in the monitors, whatever their logits."""
    ignore = torch.tensor([False, True, False, False, True, False])
    loss = module()
    loss.connect(classifier('student'), classifier('teacher'))
    expected = loss(*(z[~ignore] for z in logits))
    logits[0][ignore], logits[1][ignore] = float('nan'), float('inf')
    result = loss(*logits, ignore=ignore)
    assert set(result) == set(expected) and len(result) > 3
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value)


@pytest.mark.parametrize('module', [KDLoss, DISTLoss, TTMLoss, WTTMLoss])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_monitors_of_half_precision_logits_are_those_of_float32(module, dtype, logits):
    """Tempered logits that are rounded differ as much as student and teacher do in the end."""
    loss = module(**{} if issubclass(module, TTMLoss) else dict(temperature=3))
    loss.connect(classifier('student'), classifier('teacher'))
    half = [z.to(dtype) for z in logits]
    result, expected = loss(*half), loss(*(z.float() for z in half))
    assert set(result) == set(expected)
    for name, value in expected.items():
        assert torch.equal(result[name], value), name


@pytest.mark.parametrize('module', [KDLoss, DISTLoss, TTMLoss, WTTMLoss])
def test_an_empty_batch_gives_zeros(module, logits):
    loss = module()
    loss.connect(classifier('student'), classifier('teacher'))
    assert all(value == 0 for value in loss(*(z[:0] for z in logits)).values())


@pytest.mark.parametrize('module', [KDLoss, DKDLoss, DISTLoss, TTMLoss, WTTMLoss])
def test_classifiers_of_other_classes_are_refused_before_any_batch(module):
    with pytest.raises(ValueError, match='student has 5 classes, the teacher 4.*class_map'):
        module().connect(classifier('student'), classifier('teacher', 4))


@pytest.mark.parametrize(
    'option',
    [
        dict(form='background_softmax'),
        dict(weighting='none'),
        dict(threshold=0.3),
        dict(normaliser='rows'),
        dict(ignore_padding=False),
        dict(anchors='max'),
        dict(levels=[0]),
    ],
    ids=str,
)
def test_options_of_dense_heads_are_refused_for_classifiers(option):
    (name,) = option
    with pytest.raises(ValueError, match=f'KDLoss: {name} would be ignored'):
        KDLoss(**option).connect(classifier('student'), classifier('teacher'))


# heads of mmpretrain


def head(owner, kind, **kwargs):
    """A tapped head of 5 classes."""
    models = pytest.importorskip('mmpretrain.models')
    module = getattr(models, kind)(num_classes=5, in_channels=4, **kwargs)
    return Tapped(owner, Tap('head'), module, ())


@pytest.mark.parametrize('module', [KDLoss, DKDLoss, DISTLoss, TTMLoss, WTTMLoss])
@pytest.mark.parametrize('kind', ['MultiLabelLinearClsHead', 'CSRAClsHead'])
@pytest.mark.parametrize('owner', ['student', 'teacher'])
def test_heads_of_several_labels_are_refused(module, kind, owner):
    more = dict(num_heads=1, lam=0.1) if kind == 'CSRAClsHead' else {}
    several, one = head(owner, kind, **more), head('other', 'LinearClsHead')
    message = rf"{module.__name__} .* {owner} 'head', {kind}, are sigmoids .* features"
    with pytest.raises(ValueError, match=message):
        module().connect(*((several, one) if owner == 'student' else (one, several)))


@pytest.mark.parametrize('module', [KDLoss, DKDLoss, DISTLoss, TTMLoss, WTTMLoss])
def test_heads_of_one_label_that_learn_by_sigmoids_are_read(module):
    """ResNet's "rsb" predicts a single class, that of the largest logit."""
    loss = dict(type='mmpretrain.CrossEntropyLoss', use_sigmoid=True)
    module().connect(*(head(owner, 'LinearClsHead', loss=loss) for owner in ('a', 'b')))
