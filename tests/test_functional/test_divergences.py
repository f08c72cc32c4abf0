import pytest
import torch
from torch.nn import functional as F

from mmkd_fm.functional import cosine_loss, cwd_loss, mse_loss, pkd_loss

LOSSES = [pkd_loss, cwd_loss, mse_loss, cosine_loss]


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return [torch.randn(2, 4, 6, 5, dtype=torch.float64) for _ in range(2)]


def test_pkd_ignores_scale_and_shift_of_each_channel(maps):
    student, teacher = maps
    scale = torch.tensor([0.1, 1, 10, 100], dtype=torch.float64).view(1, 4, 1, 1)
    changed = [student * scale + 3, teacher / scale - 5]
    assert pkd_loss(*changed, eps=0).item() == pytest.approx(pkd_loss(*maps, eps=0).item(), 1e-12)
    # 1e-6 is added to the deviations, of which the smallest is 0.01 here
    assert pkd_loss(*changed).item() == pytest.approx(pkd_loss(*maps).item(), 1e-4)
    assert pkd_loss(student, student * scale + 1).item() == pytest.approx(0, abs=1e-9)


def test_pkd_is_one_minus_the_correlation_by_hand(maps):
    student, teacher = (m.transpose(0, 1).flatten(1) for m in maps)
    n = student.shape[1]
    correlation = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(student, teacher)]
    ).mean()
    expected = (1 - correlation) * (n - 1) / n
    assert pkd_loss(*maps, eps=0).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize('eps', [1e-6, 0.1, 3.0])
@pytest.mark.parametrize('scale', [0.01, 1, 7])
def test_pkd_adds_eps_to_the_deviations(eps, scale, maps):
    """Of deviations d and 1 it leaves the shares d / (d + eps) and 1 / (1 + eps)."""
    teacher = maps[1] - maps[1].mean(dim=(0, 2, 3), keepdim=True)
    teacher = teacher / teacher.transpose(0, 1).flatten(1).std(dim=1).view(1, 4, 1, 1)
    n = teacher[:, 0].numel()
    expected = (scale / (scale + eps) - 1 / (1 + eps)) ** 2 * (n - 1) / n / 2
    value = pkd_loss(scale * teacher, teacher, eps).item()
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-30)


def test_pkd_of_a_single_element_is_zero_with_a_graph():
    student = torch.randn(1, 4, 1, 1, requires_grad=True)
    loss = pkd_loss(student, torch.randn(1, 4, 1, 1))
    loss.backward()
    assert loss == 0
    assert torch.equal(student.grad, torch.zeros(1, 4, 1, 1))


def test_pkd_resizes_the_student_to_the_teacher(maps):
    student, teacher = maps[0], maps[1][..., :3, :4]
    resized = F.interpolate(student, (3, 4), mode='bilinear', align_corners=False)
    assert torch.equal(pkd_loss(student, teacher), pkd_loss(resized, teacher))


def test_pkd_is_exact_in_float32_on_large_maps():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 2, 200, 300) + 3, torch.randn(4, 2, 200, 300) * 5
    expected = pkd_loss(student.double(), teacher.double()).item()
    assert pkd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_pkd_is_finite_where_a_channel_is_constant():
    student = torch.ones(2, 3, 4, 4, requires_grad=True)
    loss = pkd_loss(student, torch.randn(2, 3, 4, 4))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('value', [0.0, 0.1, -3e4])
def test_a_constant_channel_has_no_gradient_and_changes_no_other(value):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
    student[:, 3] = value
    student.requires_grad_()
    pkd_loss(student, teacher).backward()
    assert student.grad[:, 3].eq(0).all()
    alone = student.detach()[:, :3].requires_grad_()
    pkd_loss(alone, teacher[:, :3]).backward()
    torch.testing.assert_close(student.grad[:, :3], alone.grad * 3 / 4)


def test_cwd_compares_spatial_softmaxes_by_hand(maps):
    student, teacher = (m.flatten(0, 1).flatten(1) / 4 for m in maps)
    p, q = teacher.softmax(1), student.softmax(1)
    expected = 16 * (p * (p.log() - q.log())).sum(1).mean()
    assert cwd_loss(*maps, temperature=4).item() == pytest.approx(expected.item(), rel=1e-12)


def test_cwd_with_a_temperature_is_that_of_divided_maps(maps):
    student, teacher = maps
    expected = 9 * cwd_loss(student / 3, teacher / 3)
    assert cwd_loss(student, teacher, temperature=3).item() == pytest.approx(
        expected.item(), rel=1e-12
    )


@pytest.mark.parametrize('temperature', [0, -1, float('nan'), float('inf')])
def test_temperatures_must_be_positive(temperature, maps):
    with pytest.raises(ValueError, match='temperature must be above 0'):
        cwd_loss(*maps, temperature=temperature)


def test_cosine_compares_directions_by_hand(maps):
    student, teacher = maps
    angles = torch.einsum('nchw,nchw->nhw', student, teacher)
    angles /= (student**2).sum(1).sqrt() * (teacher**2).sum(1).sqrt()
    assert cosine_loss(*maps).item() == pytest.approx(1 - angles.mean().item(), rel=1e-12)


def test_cosine_ignores_the_length_of_each_vector(maps):
    student, teacher = maps
    length = torch.rand(2, 1, 6, 5, dtype=torch.float64) + 0.1
    assert cosine_loss(student * length, teacher / length).item() == pytest.approx(
        cosine_loss(student, teacher).item(), rel=1e-12
    )
    assert cosine_loss(student, -student * length).item() == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize('length', [0.0, 1e-30, 1e-9])
def test_cosine_of_a_vector_without_length_is_one_and_has_no_gradient(length, maps):
    student, teacher = (m.float() for m in maps)
    student[:, :, :3] *= length
    student.requires_grad_()
    loss = cosine_loss(student, teacher)
    loss.backward()
    expected = (1 + cosine_loss(student[:, :, 3:], teacher[:, :, 3:])) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(student.grad[:, :, :3], torch.zeros(2, 4, 3, 5))
    assert (student.grad[:, :, 3:] != 0).all()


@pytest.mark.parametrize('loss', LOSSES)
def test_equal_maps_give_zero(loss, maps):
    assert loss(maps[0], maps[0].clone()).item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize('loss', LOSSES)
def test_gradients_agree_with_finite_differences(loss, maps):
    student = maps[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, maps[1]), student)


@pytest.mark.parametrize('loss', LOSSES)
def test_other_shapes_are_refused(loss, maps):
    with pytest.raises(ValueError, match=r'equal shape.*\(2, 4, 6, 5\).*\(2, 3, 6, 5\)'):
        loss(maps[0], maps[1][:, :3])


@pytest.mark.parametrize('loss', LOSSES)
def test_an_empty_batch_gives_zero_with_a_graph(loss):
    student = torch.empty(0, 4, 6, 5, requires_grad=True)
    value = loss(student, torch.empty(0, 4, 6, 5))
    value.backward()
    assert value == 0
