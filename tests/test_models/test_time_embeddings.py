import math

import pytest
import torch
from torch.nn import functional as F

from mmkd_fm.models import time_embeddings
from mmkd_fm.models.time_embeddings import (
    LinearTimeEmbedding,
    MLPTimeEmbedding,
    StepBranchTimeEmbedding,
    sinusoids,
)
from mmkd_fm.registry import MODELS, build_part

EMBEDDINGS = sorted(
    name
    for name, module in MODELS.module_dict.items()
    if module.__module__ == time_embeddings.__name__
)
TIMES = [0.0, 0.25, 1.0]


def sinusoids_by_hand(times, channels):
    half = max(channels // 2, 1)
    frequencies = [10000 ** (-i / half) for i in range(half)]
    rows = [
        ([math.cos(t * f) for f in frequencies] + [math.sin(t * f) for f in frequencies])[:channels]
        for t in times
    ]
    rows = [row + [0.0] * (channels - len(row)) for row in rows]
    return torch.tensor(rows, dtype=torch.float64)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize('channels', [1, 2, 5, 8])
def test_sinusoids_by_hand(channels):
    values = sinusoids(torch.tensor(TIMES, dtype=torch.float64), channels)
    assert_close(values, sinusoids_by_hand(TIMES, channels))


@pytest.mark.parametrize('channels', [1, 2, 5, 8])
def test_linear_by_hand(channels):
    embedding = LinearTimeEmbedding(channels).double()
    t, z = torch.tensor(TIMES).double(), torch.randn(3, channels, 2, 2).double()
    linear = embedding.linear
    expected = sinusoids_by_hand(TIMES, channels) @ linear.weight.T + linear.bias
    assert_close(embedding(t, z), expected[:, :, None, None])


@pytest.mark.parametrize('channels', [1, 2, 5, 8])
def test_mlp_by_hand(channels):
    embedding = MLPTimeEmbedding(channels).double()
    t, z = torch.tensor(TIMES).double(), torch.randn(3, channels, 2, 2).double()
    linear1, linear2 = embedding.linear1, embedding.linear2
    hidden = (sinusoids_by_hand(TIMES, channels) @ linear1.weight.T + linear1.bias).clamp(min=0)
    expected = hidden @ linear2.weight.T + linear2.bias
    assert_close(embedding(t, z), expected[:, :, None, None])


def test_all_are_listed_as_time_embeddings():
    expected = ['LinearTimeEmbedding', 'MLPTimeEmbedding', 'StepBranchTimeEmbedding']
    assert expected == EMBEDDINGS
    with pytest.raises(ValueError, match=', '.join(f'mmkd_fm.{name}' for name in expected)):
        build_part(dict(type='mmkd_fm.Nothing'), 'TimeEmbedding', channels=4)


@pytest.mark.parametrize('name', EMBEDDINGS)
@pytest.mark.parametrize('channels', [1, 3, 8])
@pytest.mark.parametrize('size', [(1, 1), (2, 5)])
@pytest.mark.parametrize('batch', [1, 2])
def test_can_be_added_to_the_state_at_every_time(name, channels, size, batch):
    embedding = build_part(dict(type=name), 'TimeEmbedding', channels=channels)
    z = torch.randn(batch, channels, *size)
    for t in [0.0, 1e-7, 1 / 3, 1.0]:
        value = embedding(torch.full((batch,), t), z)
        assert value.shape in [(batch, channels, 1, 1), z.shape]
        assert value.isfinite().all()


@pytest.mark.parametrize('name', EMBEDDINGS)
def test_every_parameter_has_a_gradient(name):
    embedding = build_part(dict(type=name), 'TimeEmbedding', channels=4)
    embedding(torch.full((2,), 0.5), torch.randn(2, 4, 3, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in embedding.parameters())


@pytest.mark.parametrize('name', EMBEDDINGS)
def test_gradcheck(name):
    embedding = build_part(dict(type=name), 'TimeEmbedding', channels=3).double()
    t = torch.full((2,), 0.4, dtype=torch.float64)
    z = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)

    def value(z, *parameters):
        return torch.func.functional_call(embedding, dict(zip(names, parameters)), (t, z)) + 0 * z

    names, parameters = zip(*embedding.named_parameters())
    assert torch.autograd.gradcheck(value, (z, *parameters), fast_mode=True)


# --- one branch per step


def selected(embedding, t):
    """The branch taken, read from biases that say their number."""
    with torch.no_grad():
        for parameter in embedding.parameters():
            parameter.zero_()
        embedding.bias2.copy_(torch.arange(embedding.num_steps)[:, None].expand_as(embedding.bias2))
    return embedding(t, torch.randn(len(t), 2, 3, 3).to(embedding.bias2)).unique().tolist()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('num_steps', [1, 2, 4, 8, 16])
def test_steps_of_a_transport_select_the_last_branch_of_their_span(num_steps, dtype):
    embedding = StepBranchTimeEmbedding(2).to(dtype)
    times = torch.arange(num_steps, 0, -1, dtype=dtype) / num_steps
    for i, t in zip(range(num_steps, 0, -1), times):
        assert selected(embedding, t.expand(3)) == [i * 16 // num_steps - 1]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_rounded_times_select_their_own_branch(dtype):
    for num_steps in range(1, 41):  # 7/25 * 25, for one, is rounded up
        embedding = StepBranchTimeEmbedding(2, num_steps).to(dtype)
        for i in range(1, num_steps + 1):
            for t in [torch.tensor(i, dtype=dtype) / num_steps, i * torch.tensor(1 / num_steps)]:
                assert selected(embedding, t.to(dtype).expand(1)) == [i - 1]


def test_times_inside_a_cell_and_at_the_ends():
    embedding = StepBranchTimeEmbedding(2, 4)
    cells = {0.0: 0, 1e-6: 0, 0.125: 0, 0.26: 1, 0.49: 1, 0.51: 2, 0.9: 3, 1.0: 3}
    for t, cell in cells.items():
        assert selected(embedding, torch.tensor([t])) == [cell]


@pytest.mark.parametrize('size', [(1, 1), (3, 5)])
def test_branch_by_hand(size):
    embedding = StepBranchTimeEmbedding(3, 4).double()
    z = torch.randn(2, 3, *size, dtype=torch.float64)
    hidden = torch.einsum('oc,nchw->nohw', embedding.weight1[2, :, :, 0, 0], z)
    hidden = hidden + embedding.bias1[2, :, None, None]
    hidden = F.pad(hidden / (1 + (-hidden).exp()), (1, 1, 1, 1))
    expected = embedding.bias2[2, :, None, None].expand_as(z)
    for row in range(3):
        for column in range(3):
            shifted = hidden[:, :, row : row + size[0], column : column + size[1]]
            expected = expected + embedding.weight2[2, :, 0, row, column, None, None] * shifted
    assert_close(embedding(torch.full((2,), 0.75).double(), z), expected)


def test_branches_not_taken_have_a_zero_gradient():
    embedding = StepBranchTimeEmbedding(3, 4)
    embedding(torch.full((2,), 0.75), torch.randn(2, 3, 4, 4)).square().sum().backward()
    for parameter in embedding.parameters():
        assert parameter.grad.shape == parameter.shape
        taken = parameter.grad.flatten(1).abs().amax(1) > 0
        assert taken.tolist() == [False, False, True, False]


def test_branches_begin_as_single_convolutions():
    """Uniform up to the root of the fan-in's inverse, weights and biases."""
    embedding = StepBranchTimeEmbedding(64)
    for layer, fan_in in ((1, 64), (2, 9)):
        for name in ('weight', 'bias'):
            largest = getattr(embedding, f'{name}{layer}').abs().max().item()
            assert 0.9 < largest * fan_in**0.5 <= 1


def test_number_of_branches_is_checked():
    with pytest.raises(ValueError, match='num_steps must be 1 or more'):
        StepBranchTimeEmbedding(4, num_steps=0)
