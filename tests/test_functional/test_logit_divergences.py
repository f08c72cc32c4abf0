import pytest
import torch
from torch.nn import functional as F

from mmkd_fm.functional import dist_loss, dkd_loss, kd_loss

TARGET = torch.tensor([0, 3, 4, 1, 1, 2])


def dkd(student, teacher, **kwargs):
    target = TARGET[: len(student)] % student.shape[1]
    return dkd_loss(student, teacher, target, **kwargs)


LOSSES = [kd_loss, dkd, dist_loss]
losses = pytest.mark.parametrize('loss', LOSSES, ids=['kd', 'dkd', 'dist'])


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return [torch.randn(6, 5, dtype=torch.float64) * 2 for _ in range(2)]


def test_kd_at_temperature_one_is_the_kl_divergence(logits):
    student, teacher = logits
    expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction='batchmean')
    assert kd_loss(*logits, temperature=1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_kd_of_hot_softmaxes_is_the_squared_error_of_centred_logits(logits):
    student, teacher = (z - z.mean(1, keepdim=True) for z in logits)
    expected = (student - teacher).square().mean(1).mean() / 2
    assert kd_loss(*logits, temperature=1e5).item() == pytest.approx(expected.item(), rel=1e-4)


@losses
def test_a_temperature_divides_the_logits(loss, logits):
    student, teacher = logits
    expected = 9 * loss(student / 3, teacher / 3, temperature=1)
    assert loss(*logits, temperature=3).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize('temperature', [1, 4])
def test_kd_is_dkd_that_weighs_the_others_by_their_probability(temperature, logits):
    for i in range(6):
        student, teacher = (z[i : i + 1] for z in logits)
        p_target = (teacher / temperature).softmax(1)[0, TARGET[i]].item()
        decoupled = dkd_loss(
            student, teacher, TARGET[i : i + 1], 1, 1 - p_target, temperature=temperature
        )
        expected = kd_loss(student, teacher, temperature).item()
        assert decoupled.item() == pytest.approx(expected, rel=1e-12)


def test_dkd_of_two_classes_has_no_other_classes(logits):
    student, teacher = (z[:, :2] for z in logits)
    value = dkd_loss(student, teacher, TARGET.clamp(max=1), alpha=3, beta=100, temperature=2)
    assert value.item() == pytest.approx(3 * kd_loss(student, teacher, 2).item(), rel=1e-12)


def test_nckd_does_not_depend_on_the_targets_logit(logits):
    student, teacher = logits
    changed = student.scatter(1, TARGET[:, None], 1e3)
    values = [dkd(z, teacher, alpha=0).item() for z in (student, changed)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_dkd_and_kd_and_dist_do_not_depend_on_the_order_of_classes_and_samples(logits):
    classes, samples = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    shuffled = [z[samples][:, classes] for z in logits]
    target = classes.argsort()[TARGET[samples]]
    assert dkd_loss(*shuffled, target).item() == pytest.approx(dkd(*logits).item(), rel=1e-12)
    for loss in (kd_loss, dist_loss):
        assert loss(*shuffled).item() == pytest.approx(loss(*logits).item(), rel=1e-12)


def test_dist_is_one_minus_the_correlations_by_hand(logits):
    q, p = (z.softmax(1) for z in logits)

    def correlation(x, y):
        return torch.stack([torch.corrcoef(torch.stack(rows))[0, 1] for rows in zip(x, y)]).mean()

    inter, intra = 1 - correlation(q, p), 1 - correlation(q.T, p.T)
    value = dist_loss(*logits, beta=2, gamma=5, eps=0)
    assert value.item() == pytest.approx((2 * inter + 5 * intra).item(), rel=1e-12)


def test_dist_ignores_positive_affine_maps_of_the_probabilities(logits):
    student, teacher = logits
    p = teacher.softmax(1)

    def mixed_with_uniform(share, **weights):
        return dist_loss(student, (share * p + (1 - share) / 5).log(), eps=0, **weights).item()

    assert mixed_with_uniform(0.3) == pytest.approx(mixed_with_uniform(1), rel=1e-12)
    each = torch.linspace(0.1, 1, 6, dtype=torch.float64)[:, None]
    # a map of its own for each sample changes the relations within a class, not between classes
    assert mixed_with_uniform(each, gamma=0) == pytest.approx(mixed_with_uniform(1, gamma=0), 1e-12)
    assert abs(mixed_with_uniform(each, beta=0) / mixed_with_uniform(1, beta=0) - 1) > 0.01


def test_dist_of_one_sample_has_no_relation_within_classes(logits):
    student, teacher = logits[0][:1].requires_grad_(), logits[1][:1]
    inter = dist_loss(student, teacher, beta=2, gamma=0, temperature=3)
    both = dist_loss(student, teacher, beta=2, gamma=5, temperature=3)
    assert both.item() == pytest.approx(inter.item() + 9 * 5, rel=1e-12)
    grads = [torch.autograd.grad(value, student)[0] for value in (inter, both)]
    assert torch.equal(*grads)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('weight', [None, [1, 0.3, 2, 0, 1, 0.7]])
@pytest.mark.parametrize('eps', [1e-8, 0])
def test_dist_of_a_constant_is_one_without_a_gradient(dtype, weight, eps, logits):
    """A constant: equal logits of a sample, identical samples, or both, in student or teacher."""
    weight = None if weight is None else torch.tensor(weight, dtype=dtype)
    one, other = (z.to(dtype) for z in logits)
    rows, columns = one[:, :1].expand(6, 5) * 7 / 3, one[:1].expand(6, 5)
    for flat, relation in [
        (rows, dict(beta=1, gamma=0)),
        (columns, dict(beta=0, gamma=1)),
        (rows * 0, dict(beta=0.5, gamma=0.5)),
    ]:
        for student, teacher in [(flat, other), (other, flat)]:
            student = student.clone().requires_grad_()
            value = dist_loss(student, teacher, weight=weight, eps=eps, **relation)
            value.backward()
            torch.testing.assert_close(value, torch.ones_like(value))
            assert torch.equal(student.grad, torch.zeros_like(student))


def test_dist_of_a_constant_sample_leaves_the_gradient_of_the_others(logits):
    """In float64 by finite differences, over samples that are not constant."""
    student, teacher = logits
    flat = torch.zeros(2, 5, dtype=torch.float64)

    def loss(others):
        return dist_loss(torch.cat([flat, others]), teacher)

    assert torch.autograd.gradcheck(loss, student[2:].clone().requires_grad_())
    inter = dist_loss(torch.cat([flat, student[2:]]), teacher, beta=1, gamma=0)
    alone = dist_loss(student[2:], teacher[2:], beta=1, gamma=0)
    assert inter.item() == pytest.approx((2 + 4 * alone.item()) / 6, rel=1e-12)


@pytest.mark.parametrize('size', [1e-5, 1e-3])
def test_dist_reads_a_student_that_is_nearly_constant(size, logits):
    """Ever nearer to it, the correlation is that of the differences, which have a gradient."""
    student, teacher = (z.float() for z in logits)
    student = (size * student).requires_grad_()
    value = dist_loss(student, teacher)
    value.backward()
    expected = dist_loss(1e-6 * logits[0], logits[1])
    assert value.item() == pytest.approx(expected.item(), rel=0.02)
    assert (student.grad.abs().amax(dim=1) > 0).all()


WEIGHED = [
    kd_loss,
    dkd_loss,
    lambda s, t, **kwargs: dist_loss(s, t, beta=1, gamma=0, eps=0, **kwargs),
    lambda s, t, **kwargs: dist_loss(s, t, beta=0, gamma=1, eps=0, **kwargs),
]
weighed = pytest.mark.parametrize('loss', WEIGHED, ids=['kd', 'dkd', 'inter', 'intra'])


@weighed
def test_a_weight_counts_a_sample_so_many_times(loss, logits):
    weight = torch.tensor([1, 3, 2, 0, 1, 2])
    target = (TARGET,) if loss is dkd_loss else ()
    repeated = [z.repeat_interleave(weight, dim=0) for z in (*logits, *target)]
    value = loss(*logits, *target, weight=weight.double())
    assert value.item() == pytest.approx(loss(*repeated).item(), rel=1e-12)


@weighed
@pytest.mark.parametrize('size', [1e-4, 0.1, 30])
def test_the_mean_does_not_depend_on_the_size_of_the_weights(loss, size, logits):
    """Also where they sum to less than 1."""
    weight = torch.tensor([1, 0.3, 2, 0, 1, 0.7], dtype=torch.float64)
    target = (TARGET,) if loss is dkd_loss else ()
    one, other = (loss(*logits, *target, weight=w).item() for w in (weight, size * weight))
    assert other == pytest.approx(one, rel=1e-12)


def test_dist_trains_a_head_that_starts_at_zero_as_one_that_starts_near_it():
    """Beside the cross-entropy, without clipping; gradients of 1e6 at the zero head ruined it."""
    accuracies = []
    for std in (0, 0.01):
        torch.manual_seed(0)
        head, teacher = torch.nn.Linear(16, 20), torch.randn(16, 20)
        torch.nn.init.normal_(head.weight, std=std)
        torch.nn.init.zeros_(head.bias)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        for _ in range(100):
            x = torch.randn(64, 16)
            target = x @ teacher
            loss = F.cross_entropy(head(x), target.argmax(1)) + dist_loss(head(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x = torch.randn(1000, 16)
        accuracies.append((head(x).argmax(1) == (x @ teacher).argmax(1)).float().mean().item())
    assert accuracies[1] > 0.6
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)


@losses
def test_equal_logits_give_no_loss_and_no_gradient(loss, logits):
    student = logits[0].requires_grad_()
    value = loss(student, student.detach().clone())
    (grad,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0, abs=1e-5 if loss is dist_loss else 1e-14)
    assert grad.abs().max() < (1e-5 if loss is dist_loss else 1e-14)


@losses
def test_a_constant_added_to_the_logits_changes_nothing(loss, logits):
    student, teacher = logits
    shift = torch.randn(6, 1, dtype=torch.float64) * 10
    assert loss(student + shift, teacher - shift).item() == pytest.approx(
        loss(student, teacher).item(), rel=1e-12
    )


@losses
@pytest.mark.parametrize('temperature', [1, 4])
def test_gradients_agree_with_finite_differences(loss, temperature, logits):
    student = logits[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, logits[1], temperature=temperature), student)


@losses
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(loss, dtype):
    values = torch.tensor([1e4, -1e4, 0, 1e4]).to(dtype)
    student = torch.stack([values.roll(2 * i) for i in range(4)]).requires_grad_()
    teacher = torch.stack([values.roll(i) for i in range(4)])
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


@losses
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(loss, dtype, logits):
    half = [z.to(dtype) for z in logits]
    assert torch.equal(loss(*half), loss(*(z.float() for z in half)))


@losses
def test_an_empty_batch_gives_zero_with_a_graph(loss):
    student = torch.empty(0, 5, requires_grad=True)
    value = loss(student, torch.empty(0, 5))
    value.backward()
    assert value == 0
    assert student.grad.shape == (0, 5)


@losses
def test_other_classes_are_refused(loss, logits):
    with pytest.raises(ValueError, match=r'student \(6, 5\) and teacher \(6, 4\); .* features'):
        loss(logits[0], logits[1][:, :4])


@losses
def test_other_samples_are_refused(loss, logits):
    with pytest.raises(
        ValueError, match='same samples, but got 4 of the student and 6 of the teac'
    ):
        loss(logits[0][:4], logits[1])


@losses
def test_maps_are_refused(loss, logits):
    maps = [z[..., None, None] for z in logits]
    with pytest.raises(ValueError, match=r'logits of shape \(N, C\).*student \(6, 5, 1, 1\)'):
        loss(*maps)


@losses
@pytest.mark.parametrize('temperature', [0, -1, float('nan'), float('inf')])
def test_temperatures_must_be_positive(loss, temperature, logits):
    with pytest.raises(ValueError, match='temperature must be above 0 and finite, but got'):
        loss(*logits, temperature=temperature)


@pytest.mark.parametrize(
    'target', [F.one_hot(TARGET).double(), TARGET[:5], TARGET.int(), TARGET[:, None]]
)
def test_targets_that_are_no_class_indices_are_refused(target, logits):
    with pytest.raises(ValueError, match=r'int64 of shape \(6,\), but got .*soft labels.*kd_loss'):
        dkd_loss(*logits, target)


@pytest.mark.parametrize('wrong', [-1, 5])
def test_targets_out_of_range_are_refused(wrong, logits):
    target = TARGET.clone()
    target[2] = wrong
    with pytest.raises(ValueError, match=rf'from 0 to 4, .* but got .*{wrong}.*num_classes'):
        dkd_loss(*logits, target)


def test_dkd_of_a_single_class_is_refused():
    with pytest.raises(ValueError, match='two classes or more, but got 1'):
        dkd_loss(torch.randn(2, 1), torch.randn(2, 1), torch.tensor([0, 0]))
