import pytest
import torch

from mmkd_fm.functional.chunks import chunked_sum, chunks

SHAPES = [(3, 12, 7, 5), (3, 12, 4, 3), (3, 12, 1, 1)]
sizes = pytest.mark.parametrize('size', [1, 12, 100, 500, 10**6])


def maps(dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in SHAPES]


def rows(levels):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, 4) for x in levels])


def logsumexp(chunk, x):
    value = x.logsumexp(dim=-1).square().sum()
    return value, torch.stack([x.detach().sum(), x.new_tensor(float(len(x)))])


@sizes
def test_pieces_cover_every_row_once_and_are_small(size):
    counts = [torch.zeros(shape) for shape in SHAPES]
    for chunk in chunks(counts, size):
        piece = counts[chunk.level][chunk.images, :, chunk.lines]
        piece += 1
        line = piece.shape[1] * piece.shape[3]
        assert piece.numel() <= max(size, line)
    assert all((count == 1).all() for count in counts)


@sizes
def test_sum_and_gradient_are_those_of_all_rows_at_once(size):
    ours, plain = maps(), maps()
    total, sums = chunked_sum(logsumexp, ours, 4, size)
    expected, expected_sums = logsumexp(None, rows(plain))
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-12, atol=1e-12)
    (3 * total).backward()
    (3 * expected).backward()
    for x, y in zip(ours, plain):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=0)


@sizes
def test_rows_are_written_where_they_were_read(size):
    levels = [x.detach() for x in maps()]
    copies = [torch.full_like(x, torch.nan) for x in levels]
    for chunk in chunks(levels, size):
        chunk.write(copies, chunk.rows(levels, 4))
    assert all(torch.equal(x, y) for x, y in zip(levels, copies))


def test_gradient_agrees_with_finite_differences():
    levels = [x.detach()[:1, :, :2, :2].clone().requires_grad_() for x in maps()]
    assert torch.autograd.gradcheck(lambda *x: chunked_sum(logsumexp, x, 4, 20)[0], levels)


def test_gradient_does_not_depend_on_the_memory_layout():
    plain, last = maps(), [x.detach().to(memory_format=torch.channels_last) for x in maps()]
    last = [x.requires_grad_() for x in last]
    for levels in (plain, last):
        chunked_sum(logsumexp, levels, 4, 100)[0].backward()
    for x, y in zip(plain, last):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=0)


def test_half_precision_keeps_gradients_that_it_could_not_hold_unscaled():
    levels = maps(torch.float16)
    total, _ = chunked_sum(lambda chunk, x: (1e-9 * x.sum(), x.detach().sum()), levels, 4)
    assert total.dtype == torch.float32
    (2.0**15 * total).backward()  # as a gradient scaler does
    for x in levels:
        assert x.grad.dtype == torch.float16
        torch.testing.assert_close(x.grad, torch.full_like(x, 2.0**15 * 1e-9))


def test_without_gradients_nothing_is_kept():
    with torch.no_grad():
        total, _ = chunked_sum(logsumexp, maps(), 4)
    assert not total.requires_grad
    frozen = [x.detach() for x in maps()]
    assert not chunked_sum(logsumexp, frozen, 4)[0].requires_grad


def test_second_derivatives_are_refused():
    levels = maps()
    total, _ = chunked_sum(logsumexp, levels, 4)
    (grad,) = torch.autograd.grad(total.square(), levels[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_no_rows_give_zero_with_a_graph():
    empty = torch.empty(0, 12, 4, 4, requires_grad=True)
    total, _ = chunked_sum(logsumexp, [empty], 4)
    total.backward()
    assert total == 0
    assert empty.grad.shape == empty.shape
