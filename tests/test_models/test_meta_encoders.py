import math

import pytest
import torch

from mmkd_fm.models import ConvMetaEncoder
from mmkd_fm.models.meta_encoders import TimeEmbedding


@pytest.mark.parametrize('channels', [1, 2, 5, 8])
def test_time_embedding_by_hand(channels):
    embedding = TimeEmbedding(channels).double()
    embedding.linear.weight.data = torch.eye(channels).double()
    embedding.linear.bias.data.zero_()
    half = max(channels // 2, 1)
    frequencies = [10000 ** (-i / half) for i in range(half)]
    expected = [
        ([math.cos(t * f) for f in frequencies] + [math.sin(t * f) for f in frequencies])[:channels]
        for t in (1.0, 0.25)
    ]
    expected = [row + [0.0] * (channels - len(row)) for row in expected]
    values = embedding(torch.tensor([1.0, 0.25], dtype=torch.float64))
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14
    )


def test_conv_encoder_starts_with_zero_velocity_but_not_zero_gradient():
    encoder = ConvMetaEncoder(4)
    x, t = torch.randn(2, 4, 6, 6), torch.randn(2, 4)
    velocity = encoder(x, t)
    assert torch.equal(velocity, torch.zeros_like(x))
    (velocity - x).square().sum().backward()
    assert encoder.conv2.weight.grad.abs().max() > 0


def test_conv_encoder_depends_on_the_time():
    encoder = ConvMetaEncoder(4)
    torch.nn.init.normal_(encoder.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert not torch.allclose(encoder(x, torch.zeros(2, 4)), encoder(x, torch.ones(2, 4)))
