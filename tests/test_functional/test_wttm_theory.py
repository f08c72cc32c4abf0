"""What docs/wttm.md says, in numbers."""

import math

import pytest
import torch
from torch.nn import functional as F

from mmkd_fm.functional import FORMS, kd_loss, ttm_loss, wttm_loss

forms = pytest.mark.parametrize('form', sorted(FORMS))
classes = pytest.mark.parametrize('classes', [2, 3, 10, 1000])
scales = pytest.mark.parametrize('scale', [0.3, 3, 20])
SAMPLES = 8


def draw(classes, scale):
    """Logits of student and teacher, shape (8, C)."""
    generator = torch.Generator().manual_seed(classes)
    shape = (2, SAMPLES, classes)
    return (scale * torch.randn(shape, dtype=torch.float64, generator=generator)).unbind()


def distributions(logits, form):
    """The distributions that the form reads, shape (8, K) or (8, C, 2)."""
    if form == 'bernoulli':
        return torch.stack([logits.sigmoid(), (-logits).sigmoid()], dim=-1)
    if form == 'background_softmax':
        logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
    return logits.softmax(dim=-1)


def outcomes(classes, form):
    """Size K of a distribution."""
    return {'softmax': classes, 'background_softmax': classes + 1, 'bernoulli': 2}[form]


def of_logits(distribution, form):
    """The probabilities that belong to a logit, shape (8, C)."""
    if form == 'bernoulli':
        return distribution[..., 0]
    return distribution[:, :-1] if form == 'background_softmax' else distribution


def per_logit(values, form):
    """One value for each distribution, for products with (8, C)."""
    return values if form == 'bernoulli' else values[:, None]


def gradient(loss, student, *args, **kwargs):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *args, reduction='sum', **kwargs), student)[0]


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# Power transform and temperature


@forms
@classes
@scales
def test_the_losses_are_their_definitions_by_the_power_transform(form, classes, scale):
    student, teacher = draw(classes, scale)
    for gamma in (0.1, 0.25, 0.7, 1):
        p, q = distributions(teacher, form), distributions(student, form)
        power_sum = (p**gamma).sum(dim=-1)
        p_hat = p**gamma / power_sum[..., None]
        divergence = (p_hat * (p_hat / q).log()).sum(dim=-1)
        close(FORMS[form].power_sum(teacher, gamma), power_sum)
        # multiplying the logits by gamma transforms the distributions
        close(distributions(gamma * teacher, form), p_hat)
        for loss, values in ((ttm_loss, divergence), (wttm_loss, power_sum * divergence)):
            values = values if values.ndim == 1 else values.sum(dim=1)
            close(loss(student, teacher, gamma, form=form, reduction='none'), values)


@forms
@classes
@scales
@pytest.mark.parametrize('temperature', [1.5, 4, 10])
def test_ttm_is_kd_less_a_renyi_entropy(form, classes, scale, temperature):
    """D(p_T || q) = T D(p_T || q_T) - (T - 1) H_{1/T}(q) + (T - 1) H(p_T)."""
    student, teacher = draw(classes, scale)
    read, t = FORMS[form], temperature
    tempered = read.kl(student / t, teacher / t)
    renyi = read.renyi_entropy(student, 1 / t)
    expected = t * tempered + (t - 1) * (read.entropy(teacher / t) - renyi)
    close(read.kl(student, teacher / t), expected)


@classes
@pytest.mark.parametrize('temperature, lam, beta', [(4, 0.9, 36), (2, 0.5, 2), (10, 0.1, 10 / 9)])
def test_the_objective_of_ttm_is_that_of_kd_less_the_entropy(classes, temperature, lam, beta):
    """[KD - lambda T (T - 1) H_{1/T}(q)] / (1 - lambda), but for a constant of the teacher."""
    student, teacher = draw(classes, 3)
    t, labels = temperature, torch.arange(SAMPLES) % classes
    assert lam * t / (1 - lam) == pytest.approx(beta, rel=1e-12)

    def ttm(student):
        label_loss = F.cross_entropy(student, labels, reduction='none')
        return label_loss + beta * ttm_loss(student, teacher, 1 / t, reduction='none')

    def regularised_kd(student):
        label_loss = F.cross_entropy(student, labels, reduction='none')
        kd = (1 - lam) * label_loss + lam * kd_loss(student, teacher, t, reduction='none')
        renyi = FORMS['softmax'].renyi_entropy(student, 1 / t)
        return (kd - lam * t * (t - 1) * renyi) / (1 - lam)

    constant = beta * (t - 1) * FORMS['softmax'].entropy(teacher / t)
    close(ttm(student) - regularised_kd(student), constant)
    student.requires_grad_()
    grads = [torch.autograd.grad(f(student).sum(), student)[0] for f in (ttm, regularised_kd)]
    close(*grads)
    assert grads[0].abs().max() > 1e-2


# Gradients


@forms
@classes
@scales
@pytest.mark.parametrize('gamma', [0.1, 0.7, 1])
def test_gradients_in_closed_form(form, classes, scale, gamma):
    student, teacher = draw(classes, scale)
    q, p_hat = (of_logits(distributions(z, form), form) for z in (student, gamma * teacher))
    u = (distributions(teacher, form) ** gamma).sum(dim=-1)
    close(gradient(ttm_loss, student, teacher, gamma, form=form), q - p_hat)
    close(gradient(wttm_loss, student, teacher, gamma, form=form), per_logit(u, form) * (q - p_hat))
    q_t = of_logits(distributions(gamma * student, form), form)
    close(gradient(kd_loss, student, teacher, 1 / gamma, form=form), (q_t - p_hat) / gamma)


@forms
@pytest.mark.parametrize('loss', [ttm_loss, wttm_loss])
@pytest.mark.parametrize('gamma', [0.1, 0.7])
def test_gradients_agree_with_finite_differences(form, loss, gamma):
    student, teacher = draw(3, 3)
    weight = torch.linspace(0.5, 2, SAMPLES, dtype=torch.float64)

    def of_student(student):
        return loss(student, teacher, gamma, form=form, weight=weight)

    assert torch.autograd.gradcheck(of_student, student.requires_grad_())


@pytest.mark.parametrize('gamma', [0.1, 0.7])
def test_the_curvature_is_the_students_and_the_weight_its_size(gamma):
    student, teacher = (z[0] for z in draw(10, 1))
    q, u = student.softmax(dim=0), FORMS['softmax'].power_sum(teacher, gamma)
    for loss, size in ((ttm_loss, 1), (wttm_loss, u)):

        def of_student(student, loss=loss):
            return loss(student[None], teacher[None], gamma)

        hessian = torch.autograd.functional.hessian(of_student, student)
        close(hessian, size * (q.diag() - q.outer(q)))


# The weight


@forms
@classes
@scales
def test_the_power_sum_lies_between_a_sure_and_an_unsure_teacher(form, classes, scale):
    _, teacher = draw(classes, scale)
    k, read = outcomes(classes, form), FORMS[form]
    sure, unsure = torch.zeros(2, 1, classes, dtype=torch.float64)
    sure = sure - 1e5
    sure[0, 0] = 1e5
    previous = None
    for gamma in (0.1, 0.3, 0.7, 0.9):
        values = read.power_sum(teacher, gamma)
        assert (values >= 1).all()
        assert (values <= k ** (1 - gamma) * (1 + 1e-12)).all()
        # the weight falls with gamma, to 1
        assert previous is None or (values <= previous).all()
        previous = values
        close(read.power_sum(sure, gamma).flatten()[0].item(), 1.0)
        close(read.power_sum(unsure, gamma).flatten()[0].item(), float(k) ** (1 - gamma))


@classes
@pytest.mark.parametrize('scale', [0.3, 3])
@pytest.mark.parametrize('gamma', [0.1, 0.7])
def test_of_equally_sure_teachers_those_that_spread_the_rest_weigh_most(classes, scale, gamma):
    _, teacher = draw(classes, scale)
    p = teacher.softmax(dim=1)
    greatest = p.amax(dim=1)
    rest = (1 - greatest).clamp(min=0)
    most = greatest**gamma + (classes - 1) * (rest / (classes - 1)) ** gamma
    count = (1 / greatest + 1e-12).floor()
    least = count * greatest**gamma + (1 - count * greatest).clamp(min=0) ** gamma
    values = FORMS['softmax'].power_sum(teacher, gamma)
    assert (values <= most * (1 + 1e-10)).all()
    assert (values >= least * (1 - 1e-10)).all()


@forms
@classes
@scales
def test_above_one_the_power_sum_favours_sure_teachers(form, classes, scale):
    _, teacher = draw(classes, scale)
    k, read = outcomes(classes, form), FORMS[form]
    for gamma in (1.5, 3):
        values = read.power_sum(teacher, gamma)
        assert (values >= k ** (1 - gamma) * (1 - 1e-12)).all()
        assert (values <= 1 + 1e-12).all()


@forms
@classes
@pytest.mark.parametrize('gamma', [0.1, 0.7])
def test_the_power_sum_is_an_effective_number_of_classes(form, classes, gamma):
    """U = N^(1 - gamma), N = exp(H_gamma(p)): m equally likely classes count as m."""
    _, teacher = draw(classes, 3)
    read = FORMS[form]
    number = read.renyi_entropy(teacher, gamma).exp()
    close(read.power_sum(teacher, gamma), number ** (1 - gamma))
    if form == 'softmax':
        for count in {1, 2, classes}:
            equal = torch.full((1, classes), -1e5, dtype=torch.float64)
            equal[0, :count] = 0
            close(read.power_sum(equal, gamma).item(), float(count) ** (1 - gamma))


@pytest.mark.parametrize(
    'form, gamma, expected',
    [
        ('bernoulli', 0.7, (1.007, 1.23, 1.09)),
        ('bernoulli', 0.3, (1.13, 1.62, 1.39)),
        ('bernoulli', 0.1, (1.50, 1.87, 1.74)),
        ('background_softmax', 0.9, (1.08, 1.12, 1.03)),
        ('background_softmax', 0.7, (1.55, 1.57, 1.16)),
        ('background_softmax', 0.3, (10.8, 9.6, 5.44)),
        ('background_softmax', 0.1, (40.8, 38.7, 31.1)),
    ],
)
def test_weights_of_a_dense_head_of_80_classes(form, gamma, expected):
    """Scores of 0.001 but for one class: background, half an object, an object."""
    for score, value in zip((0.001, 0.5, 0.95), expected):
        scores = torch.full((1, 80), 0.001, dtype=torch.float64)
        scores[0, 0] = score
        weights = FORMS[form].power_sum(scores.logit(), gamma).flatten()
        # of the Bernoullis, that of the one class
        assert weights[0].item() == pytest.approx(value, rel=6e-3)


@pytest.mark.parametrize(
    'gamma, expected',
    [(0.1, (0.334, 0.387, 0.555)), (0.3, (0.112, 0.201, 0.659)), (0.7, (0.008, 0.039, 0.823))],
)
def test_the_power_transform_lifts_the_scores_of_the_background(gamma, expected):
    scores = torch.tensor([[0.001, 0.01, 0.9]], dtype=torch.float64)
    p_hat = distributions(gamma * scores.logit(), 'bernoulli')[0, :, 0]
    assert p_hat.tolist() == pytest.approx(expected, abs=5e-4)


# Symmetries


@classes
@pytest.mark.parametrize('loss', [ttm_loss, wttm_loss])
def test_only_the_softmax_is_blind_to_shifts(classes, loss):
    student, teacher = draw(classes, 3)
    shifts = torch.linspace(-25, -15, SAMPLES, dtype=torch.float64)[:, None]
    for form in FORMS:
        moved = [
            loss(student + shifts, teacher, 0.3, form=form, reduction='none'),
            loss(student, teacher + shifts, 0.3, form=form, reduction='none'),
        ]
        still = loss(student, teacher, 0.3, form=form, reduction='none')
        for values in moved:
            if form == 'softmax':
                close(values, still)
            else:
                # a shift trades objects for background: the value is another
                assert ((values - still).abs() > 1e-2).all()


@classes
def test_a_background_below_all_classes_is_a_plain_softmax(classes):
    student, teacher = draw(classes, 3)
    for loss in (ttm_loss, wttm_loss):
        values = loss(student + 500, teacher + 500, 0.3, 'background_softmax', reduction='none')
        close(values, loss(student, teacher, 0.3, reduction='none'))


@forms
@classes
def test_the_order_of_the_classes_does_not_matter(form, classes):
    student, teacher = draw(classes, 3)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    for loss in (ttm_loss, wttm_loss):
        shuffled = loss(student[:, order], teacher[:, order], 0.3, form=form, reduction='none')
        close(shuffled, loss(student, teacher, 0.3, form=form, reduction='none'))


def test_a_bernoulli_is_a_softmax_of_two_classes_and_a_background_softmax_of_one():
    student, teacher = (z.reshape(-1, 1) for z in draw(10, 3))
    pairs = [torch.cat([z, torch.zeros_like(z)], dim=1) for z in (student, teacher)]
    for name, arguments in (
        ('kl', ()),
        ('power_sum', (0.3,)),
        ('entropy', ()),
        ('renyi_entropy', (0.3,)),
    ):
        logits = 2 if name == 'kl' else 1
        values = getattr(FORMS['bernoulli'], name)(*[student, teacher][:logits], *arguments)
        for form, inputs in (('softmax', pairs), ('background_softmax', [student, teacher])):
            read = getattr(FORMS[form], name)
            close(values[:, 0], read(*inputs[:logits], *arguments))


# Limits and the minimum


@forms
@classes
def test_a_vanishing_power_leaves_nothing_but_the_number_of_classes(form, classes):
    student, teacher = draw(classes, 3)
    k, gamma = outcomes(classes, form), 1e-9
    p_hat = distributions(gamma * teacher, form)
    close(p_hat, torch.full_like(p_hat, 1 / k), 1e-7)
    u = FORMS[form].power_sum(teacher, gamma)
    close(u, torch.full_like(u, k), 1e-6)
    uniform = ttm_loss(student, torch.zeros_like(teacher), 1, form=form)
    close(ttm_loss(student, teacher, gamma, form=form), uniform, 1e-6)
    close(wttm_loss(student, teacher, gamma, form=form), k * uniform, 1e-6)


@forms
@classes
@scales
def test_at_power_one_ttm_wttm_and_kd_are_one(form, classes, scale):
    student, teacher = draw(classes, scale)
    kd = kd_loss(student, teacher, 1, form=form, reduction='none')
    for loss in (ttm_loss, wttm_loss):
        close(loss(student, teacher, 1, form=form, reduction='none'), kd)


@forms
@classes
@pytest.mark.parametrize('scale', [0.3, 3])
@pytest.mark.parametrize('gamma', [0.1, 0.7])
def test_the_student_is_drawn_to_the_tempered_teacher_and_by_kd_to_the_teacher(
    form, classes, scale, gamma
):
    student, teacher = draw(classes, scale)
    shift = 3 if form == 'softmax' else 0
    for loss, power, best in (
        (ttm_loss, gamma, gamma * teacher),
        (wttm_loss, gamma, gamma * teacher),
        (kd_loss, 1 / gamma, teacher),
    ):

        def values(student, loss=loss, power=power):
            return loss(student, teacher, power, form=form, reduction='none')

        close(values(best + shift), torch.zeros(SAMPLES, dtype=torch.float64))
        close(gradient(loss, best + shift, teacher, power, form=form), torch.zeros_like(teacher))
        other = teacher if best is not teacher else gamma * teacher
        direction = student * (1 - gamma) / 10
        for elsewhere in (student, other, best + direction, best - direction):
            assert (values(elsewhere) > 1e-9).all()


# Precision


@forms
@pytest.mark.parametrize('loss', [ttm_loss, wttm_loss, kd_loss])
def test_extreme_logits_have_the_right_losses_and_gradients(form, loss):
    rows = torch.tensor([[1e4, -1e4, 0, 1e4], [-1e4, -1e4, -1e4, -1e4], [1e4, 9999, -3, 2]])
    student, teacher = rows.repeat_interleave(3, dim=0), rows.repeat(3, 1)
    power = 4 if loss is kd_loss else 0.25
    gamma = 1 / power if loss is kd_loss else power
    values = loss(student, teacher, power, form=form, reduction='none')
    s, t = student.double(), teacher.double()
    q, p_hat = distributions(s * (gamma if loss is kd_loss else 1), form), gamma * t
    expected = of_logits(q, form) - of_logits(distributions(p_hat, form), form)
    if loss is wttm_loss:
        u = (distributions(t, form) ** gamma).sum(dim=-1)
        expected = per_logit(u, form) * expected
    elif loss is kd_loss:
        expected = expected / gamma
    assert values.isfinite().all()
    close(values, loss(s, t, power, form=form, reduction='none').float(), 1e-5)
    grad = gradient(loss, student, teacher, power, form=form)
    close(grad, expected.float(), 1e-5)
    assert grad.abs().max() > 0.1


@forms
@pytest.mark.parametrize('loss', [ttm_loss, wttm_loss])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(form, loss, dtype):
    student, teacher = (z.to(dtype) for z in draw(10, 3))
    value = loss(student, teacher, 0.3, form=form)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(student.float(), teacher.float(), 0.3, form=form))
    half = gradient(loss, student, teacher, 0.3, form=form)
    single = gradient(loss, student.float(), teacher.float(), 0.3, form=form)
    assert torch.equal(half, single.to(dtype))


# Renyi entropy


@forms
@classes
@scales
def test_renyi_entropy_falls_with_its_order_from_the_number_of_classes_to_the_greatest(
    form, classes, scale
):
    logits, _ = draw(classes, scale)
    read, p = FORMS[form], distributions(logits, form)
    orders = [0.05, 0.25, 0.5, 0.9, 1, 1.1, 2, 5, 50]
    entropies = torch.stack([read.renyi_entropy(logits, order) for order in orders])
    assert (entropies.diff(dim=0) <= 1e-12).all()
    assert (entropies <= math.log(p.shape[-1]) + 1e-12).all()
    least = -p.amax(dim=-1).log()
    assert (entropies >= least - 1e-12).all()
    assert (entropies[-1] <= 50 / 49 * least + 1e-12).all()
    close(entropies[orders.index(2)], -p.square().sum(dim=-1).log())
    equal = read.renyi_entropy(torch.zeros_like(logits), 0.25)
    close(equal, torch.full_like(equal, math.log(p.shape[-1])))


@forms
@classes
@scales
def test_renyi_entropy_of_order_one_is_shannons_by_continuity(form, classes, scale):
    logits, _ = draw(classes, scale)
    read, p = FORMS[form], distributions(logits, form)
    surprise = -p.clamp(min=1e-300).log()
    shannon = (p * surprise).sum(dim=-1)
    close(read.renyi_entropy(logits, 1), shannon)
    close(read.entropy(logits), shannon)
    # its slope there is minus half the variance of the surprise
    variance = (p * (surprise - shannon[..., None]).square()).sum(dim=-1)
    below, above = (read.renyi_entropy(logits, 1 + step) for step in (-1e-5, 1e-5))
    torch.testing.assert_close((above - below) / 2e-5, -variance / 2, rtol=1e-4, atol=1e-4)
