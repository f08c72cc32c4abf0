import pytest
import torch
from torch.nn import functional as F

from mmkd_fm.functional import FORMS as FORMS_BY_NAME
from mmkd_fm.functional import get_form, kd_loss, power_sum, ttm_loss, with_background, wttm_loss

FORMS = [
    lambda s, t, gamma: wttm_loss(s, t, gamma),
    lambda s, t, gamma: wttm_loss(s, t, gamma, 'bernoulli', reduction='sum'),
    lambda s, t, gamma: wttm_loss(s, t, gamma, 'background_softmax', reduction='sum'),
    lambda s, t, gamma: ttm_loss(s, t, gamma),
]
forms = pytest.mark.parametrize(
    'form', FORMS, ids=['wttm', 'bernoulli', 'background_softmax', 'ttm']
)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return [torch.randn(6, 5, dtype=torch.float64) * 2 for _ in range(2)]


@pytest.mark.parametrize('loss', [ttm_loss, wttm_loss])
def test_power_one_is_the_kl_divergence(loss, logits):
    student, teacher = logits
    expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction='batchmean')
    assert loss(student, teacher, 1.0).item() == pytest.approx(expected.item(), rel=1e-12)


@forms
def test_equal_logits_at_power_one_give_no_loss_and_no_gradient(form, logits):
    student = logits[0].requires_grad_()
    loss = form(student, student.detach().clone(), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert student.grad.abs().max() < 1e-14


@pytest.mark.parametrize('loss', [ttm_loss, wttm_loss])
def test_a_constant_added_to_softmax_logits_changes_nothing(loss, logits):
    student, teacher = logits
    shift = torch.randn(6, 1, dtype=torch.float64) * 10
    assert loss(student + shift, teacher - shift, 0.3).item() == pytest.approx(
        loss(student, teacher, 0.3).item(), rel=1e-12
    )


@pytest.mark.parametrize('temperature', [1, 2, 4])
def test_the_power_is_a_temperature_of_the_teacher(temperature, logits):
    student, teacher = logits
    p = (teacher / temperature).softmax(1)
    expected = F.kl_div(student.log_softmax(1), p, reduction='batchmean')
    assert ttm_loss(student, teacher, 1 / temperature).item() == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_wttm_weighs_each_sample_by_its_power_sum(logits):
    student, teacher = logits
    weighted = [
        teacher[i].softmax(0).pow(0.4).sum() * ttm_loss(student[i : i + 1], teacher[i : i + 1], 0.4)
        for i in range(6)
    ]
    assert wttm_loss(student, teacher, 0.4).item() == pytest.approx(
        torch.stack(weighted).mean().item(), rel=1e-12
    )


def test_bernoulli_is_a_softmax_of_two_classes(logits):
    student, teacher = (torch.stack([z, torch.zeros_like(z)], dim=-1) for z in logits)
    log_q, log_p_hat = student.log_softmax(-1), (0.4 * teacher).log_softmax(-1)
    expected = power_sum(teacher, 0.4) * (log_p_hat.exp() * (log_p_hat - log_q)).sum(-1)
    values = wttm_loss(*logits, 0.4, 'bernoulli', reduction='none')
    torch.testing.assert_close(values, expected.sum(-1), rtol=1e-12, atol=1e-15)


def test_background_softmax_appends_a_zero_logit(logits):
    student, teacher = (torch.cat([z, torch.zeros(6, 1).double()], dim=1) for z in logits)
    assert torch.equal(with_background(logits[0]), student)
    values = wttm_loss(*logits, 0.4, 'background_softmax', reduction='none')
    assert values.shape == (6,)
    assert values.mean().item() == pytest.approx(wttm_loss(student, teacher, 0.4).item(), rel=1e-12)


@forms
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(form, dtype):
    values = torch.tensor([1e4, -1e4, 0, 1e4]).to(dtype)
    student = values.expand(4, 4).clone().requires_grad_()
    teacher = torch.stack([values.roll(i) for i in range(4)])
    loss = form(student, teacher, 0.5)
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize('name', sorted(FORMS_BY_NAME))
def test_power_1_is_kd_of_temperature_1(name, logits):
    found = []
    for loss in (wttm_loss, ttm_loss, kd_loss):
        student = logits[0].clone().requires_grad_()
        value = loss(student, logits[1], 1.0, name)
        found.append((value, *torch.autograd.grad(value, student)))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize('loss', [ttm_loss, wttm_loss])
@pytest.mark.parametrize('name', sorted(FORMS_BY_NAME))
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(loss, name, dtype, logits):
    """The power too: 0.7 z, rounded to half precision, would be another teacher."""
    half = [z.to(dtype) for z in logits]
    single = [z.float() for z in half]
    assert torch.equal(loss(*half, 0.7, name), loss(*single, 0.7, name))
    form = get_form(name)
    for function in (form.entropy, lambda z: form.log_power_sum(z, 0.7), lambda z: form.kl(z, -z)):
        assert torch.equal(function(half[0]), function(single[0]))


@forms
def test_an_empty_batch_gives_zero_with_a_graph(form):
    student = torch.empty(0, 5, requires_grad=True)
    loss = form(student, torch.empty(0, 5), 0.5)
    loss.backward()
    assert loss == 0
    assert student.grad.shape == (0, 5)


losses = pytest.mark.parametrize('loss', [ttm_loss, wttm_loss])
names = pytest.mark.parametrize('name', ['softmax', 'background_softmax', 'bernoulli'])


@losses
@names
def test_reductions(loss, name, logits):
    weight = torch.rand(6).double()
    values = loss(*logits, 0.4, name, reduction='none')
    reduced = {r: loss(*logits, 0.4, name, weight, r) for r in ('none', 'sum', 'mean')}
    torch.testing.assert_close(reduced['none'], weight * values, rtol=1e-12, atol=0)
    torch.testing.assert_close(reduced['sum'], (weight * values).sum(), rtol=1e-12, atol=0)
    mean = (weight * values).sum() / weight.sum()
    torch.testing.assert_close(reduced['mean'], mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(*logits, 0.4, name), values.mean(), rtol=1e-12, atol=0)


@losses
@names
@pytest.mark.parametrize('broken', [float('nan'), float('inf')])
def test_what_weighs_nothing_may_be_anything(loss, name, broken, logits):
    weight = torch.tensor([1.0, 0, 2, 0, 1, 1]).double()
    clean = [z.clone().requires_grad_() for z in logits]
    expected = torch.autograd.grad(loss(*clean, 0.4, name, weight), clean[0])[0]
    for z in logits:
        z[weight == 0] = broken
    student = logits[0].requires_grad_()
    value = loss(student, logits[1], 0.4, name, weight)
    (grad,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-15)


@losses
def test_nothing_but_ignored_samples_gives_zero_with_a_graph(loss, logits):
    student = logits[0].requires_grad_()
    value = loss(student, logits[1], 0.4, weight=torch.zeros(6))
    value.backward()
    assert value == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@losses
def test_bad_options_list_the_valid_ones(loss, logits):
    with pytest.raises(ValueError, match='unknown form .*background_softmax, bernoulli, softmax'):
        loss(*logits, 0.4, 'sigmoid')
    with pytest.raises(ValueError, match='unknown reduction .*mean, sum, none'):
        loss(*logits, 0.4, reduction='max')
    with pytest.raises(ValueError, match=r'one value for each sample, shape \(6,\)'):
        loss(*logits, 0.4, weight=torch.ones(6, 5))


@pytest.mark.parametrize('gamma', [0.0, -1.0, float('inf'), float('nan')])
def test_what_is_no_power_is_refused(gamma, logits):
    student, teacher = logits
    for function in (ttm_loss, wttm_loss):
        with pytest.raises(ValueError, match=f'{function.__name__}: gamma must be positive'):
            function(student, teacher, gamma)
    with pytest.raises(ValueError, match='power_sum: gamma must be positive'):
        power_sum(teacher, gamma)
