import pytest
import torch

from mmkd_fm.functional import draw_num_steps
from mmkd_fm.models import Flow


def test_the_number_of_steps_follows_the_iteration(iteration):
    flow, steps = Flow(4, num_steps=[1, 2, 4], seed=5), []
    for i in range(20):
        iteration(i)
        steps.append(len(flow(torch.randn(1, 4, 2, 2)).times))
    assert steps == [draw_num_steps([1, 2, 4], 5, i) for i in range(20)]
    assert set(steps) == {1, 2, 4}


def test_a_fixed_number_of_steps():
    assert Flow(4, num_steps=3)(torch.randn(2, 4, 2, 2)).estimates.shape == (3, 2, 4, 2, 2)


@pytest.mark.parametrize('num_steps', [0, [], [0, 1], -1])
def test_less_than_one_step_is_refused(num_steps):
    with pytest.raises(ValueError, match='num_steps must be 1 or more'):
        Flow(4, num_steps=num_steps)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="unknown schedule 'euler'; valid names: .*rectified"):
        Flow(4, schedule='euler')
    with pytest.raises(ValueError, match='unknown MetaEncoder .*mmkd_fm.ConvMetaEncoder'):
        Flow(4, meta_encoder=dict(type='mmkd_fm.NoMetaEncoder'))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_state_is_float32_for_half_precision(dtype):
    flow = Flow(4, num_steps=2)
    torch.nn.init.normal_(flow.meta_encoder.conv2.weight)
    x = torch.randn(2, 4, 4, 4).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        result = flow(x)
    assert result.endpoint.dtype == result.velocities.dtype == torch.float32
    assert torch.equal(result.estimates[0], x.float() - result.velocities[0])
