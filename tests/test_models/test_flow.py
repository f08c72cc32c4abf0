import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmkd_fm.functional import draw_num_steps, get_schedule
from mmkd_fm.models import Flow
from mmkd_fm.registry import MODELS


def moved(flow):
    """Away from the zero velocity of the beginning."""
    nn.init.normal_(flow.meta_encoder.conv2.weight)
    return flow


def steps_taken(flow, iteration, count):
    steps = []
    for i in range(count):
        iteration(i)
        steps.append(len(flow(torch.randn(1, 4, 2, 2)).times))
    return steps


def test_the_number_of_steps_follows_the_iteration(iteration):
    steps = steps_taken(Flow(4, num_steps=[1, 2, 4], seed=5), iteration, 20)
    assert steps == [draw_num_steps([1, 2, 4], 5, i) for i in range(20)]
    assert set(steps) == {1, 2, 4}


def test_a_fixed_number_of_steps():
    flow = Flow(4, num_steps=3)
    result = flow(torch.randn(2, 4, 2, 2), keep_steps=True)
    assert result.estimates.shape == (3, 2, 4, 2, 2)


def test_the_warm_up_limits_the_steps(iteration, epoch):
    flow = Flow(4, num_steps=8, warmup_epochs=2)
    taken = []
    for i in range(16):
        epoch(i)
        taken += steps_taken(flow, iteration, 1)
    assert taken == [1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8]


def test_the_warm_up_limits_what_the_loss_reads_where_no_steps_are_drawn(iteration, epoch):
    flow = Flow(4, num_steps=[0, 8], warmup_epochs=1)
    iteration(next(i for i in range(20) if draw_num_steps([0, 8], 0, i) == 0))
    taken = []
    for i in range(8):
        epoch(i)
        taken.append(flow.draw_for_head(supervised=True))
    assert taken == [(0, 1), (0, 2), (0, 2), (0, 4), (0, 4), (0, 4), (0, 4), (0, 8)]


LOOPS = {
    'iterations': dict(type='IterBasedTrainLoop', max_iters=3),
    'one epoch': dict(type='EpochBasedTrainLoop', max_epochs=1),
    'two epochs': dict(type='EpochBasedTrainLoop', max_epochs=2),
}


class Flowing(BaseModel):
    """A model that is nothing but a flow."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow
        self.taken = []

    def forward(self, x, mode):
        transported = self.flow(x)
        self.taken.append(len(transported.times))
        return dict(loss=(transported.endpoint - 1).square().mean())


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('warmup_epochs', [0, 1])
def test_a_warm_up_without_a_second_epoch_is_refused(tmp_path, loop, warmup_epochs):
    """Where it would never end."""
    model = Flowing(Flow(4, num_steps=8, warmup_epochs=warmup_epochs))
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=DataLoader([(torch.randn(4, 2, 2),)] * 2),
        train_cfg=LOOPS[loop],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        experiment_name=f'{loop} {warmup_epochs}',
        default_scope='mmdet',  # stays the default of the tests to come
    )
    if warmup_epochs and loop != 'two epochs':
        with pytest.raises(ValueError, match=r'warmup_epochs=1 .* set warmup_epochs=0'):
            runner.train()
        return
    runner.train()
    expected = {'iterations': [8] * 3, 'one epoch': [8] * 2, 'two epochs': [8] * 4}[loop]
    assert model.taken == ([1, 1, 2, 2] if warmup_epochs else expected)


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
def test_the_encoder_predicts_the_residual_of_every_schedule(schedule):
    """With one step the estimate is X^S minus what the encoder says, whatever the schedule."""
    flow, x = moved(Flow(4, schedule=schedule)).double(), torch.randn(2, 4, 6, 6).double()
    t = torch.full((2,), get_schedule(schedule).start(1), dtype=torch.float64)
    expected = x - flow.meta_encoder(x, flow.time_embedding(t, x))
    torch.testing.assert_close(flow(x, 1).endpoint, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
@pytest.mark.parametrize('num_steps', [1, 4])
def test_a_new_flow_passes_on_its_input(schedule, num_steps):
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    endpoint = Flow(4, schedule=schedule).double()(x, num_steps).endpoint
    torch.testing.assert_close(endpoint, x, rtol=0, atol=1e-12)


def test_recomputation_changes_nothing_and_is_for_training_only():
    x, gradients = torch.randn(2, 4, 6, 6, requires_grad=True), []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        flow = moved(Flow(4, checkpoint=checkpoint))
        loss = flow(x, 4, step_loss=lambda e, v, t: e.square().mean()).loss
        gradients.append(torch.autograd.grad(loss, [x, *flow.parameters()]))
    assert all(map(torch.equal, *gradients))
    calls = []
    flow.meta_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    flow.eval()(x, 4).endpoint.sum().backward()
    assert len(calls) == 4
    flow.train()(x, 4).endpoint.sum().backward()
    assert len(calls) == 4 + 8


@pytest.mark.parametrize('num_steps', [0, [], -1, [2, -1], 1.5])
def test_numbers_of_steps_that_are_none_are_refused(num_steps):
    with pytest.raises(ValueError, match='num_steps must be a whole number of steps from 1'):
        Flow(4, num_steps=num_steps)


@pytest.mark.parametrize('warmup_epochs', [-1, 1.5, '2', None, True])
def test_epochs_of_a_warm_up_that_are_none_are_refused(warmup_epochs):
    with pytest.raises(ValueError, match='warmup_epochs must be a whole number of epochs, 0 for'):
        Flow(4, warmup_epochs=warmup_epochs)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="unknown schedule 'euler'; valid names: .*rectified"):
        Flow(4, schedule='euler')
    for part in (dict(), dict(num_blocks=2), [1]):
        with pytest.raises(
            ValueError, match=r"a MetaEncoder is a dict such as dict\(type='mmkd_fm"
        ):
            Flow(4, meta_encoder=part)
    with pytest.raises(
        ValueError, match=r"dict\(type='MLPMetaEncoder'\), but got 'MLPMetaEncoder'"
    ):
        Flow(4, meta_encoder='MLPMetaEncoder')
    with pytest.raises(ValueError, match='unknown MetaEncoder .*mmkd_fm.ConvMetaEncoder'):
        Flow(4, meta_encoder=dict(type='mmkd_fm.NoMetaEncoder'))
    with pytest.raises(ValueError, match='unknown TimeEmbedding .*mmkd_fm.LinearTimeEmbedding'):
        Flow(4, time_embedding=dict(type='mmkd_fm.NoTimeEmbedding'))


class Growing(nn.Module):
    """An encoder of the user that breaks the rule."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x, t_embedding):
        return self.conv(x + t_embedding)


@pytest.mark.parametrize('schedule', ['rectified', 'vp'])
def test_an_encoder_that_changes_the_shape_is_refused(schedule):
    flow = Flow(4, meta_encoder=dict(type=Growing), schedule=schedule)
    with pytest.raises(
        ValueError, match=r'Growing was given \(2, 4, 6, 6\), but returned \(2, 1, 6, 6\)'
    ):
        flow(torch.randn(2, 4, 6, 6), 1)


class Flat(nn.Module):
    """A time embedding of the user that forgets the axes of the map."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, t, z):
        return t[:, None].expand(-1, self.channels)


def test_a_time_embedding_without_the_axes_of_the_map_is_refused():
    flow = Flow(4, time_embedding=dict(type=Flat))
    with pytest.raises(ValueError, match=r'\(N, C, 1, 1\) or .* but Flat gave \(2, 4\)'):
        flow(torch.randn(2, 4, 4, 4), 1)


@pytest.mark.parametrize('encoder', sorted(n for n in MODELS.module_dict if 'MetaEncoder' in n))
@pytest.mark.parametrize('shape', [(1, 3, 1, 1), (1, 5, 2, 3), (2, 7, 9, 4)])
def test_small_and_odd_maps(encoder, shape):
    """A batch of one, odd channels, maps smaller than a window: identity at first, then trained."""
    x = torch.randn(shape, requires_grad=True)
    flow = Flow(shape[1], meta_encoder=dict(type=encoder))
    result = flow(x, 2, step_loss=lambda e, v, t: (e - 1).square().mean())
    assert torch.equal(result.endpoint, x)
    result.loss.backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    assert any(p.grad.abs().max() > 0 for p in flow.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_state_is_float32_for_half_precision(dtype):
    flow = moved(Flow(4))
    x = torch.randn(2, 4, 4, 4).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        result = flow(x, 2, keep_steps=True)
    assert result.endpoint.dtype == result.velocities.dtype == torch.float32
    assert torch.equal(result.estimates[0], x.float() - result.velocities[0])


def test_times_are_not_rounded_in_a_half_precision_model():
    """Rounded to it, 7 / 25 would be in the cell of the next branch."""
    embedding = dict(type='mmkd_fm.StepBranchTimeEmbedding', num_steps=25)
    flow, seen = Flow(4, time_embedding=embedding).bfloat16(), []
    flow.time_embedding.register_forward_pre_hook(lambda _, given: seen.append(given))
    times = flow(torch.randn(2, 4, 3, 3).bfloat16(), 25).times
    assert {z.dtype for _, z in seen} == {torch.bfloat16}
    torch.testing.assert_close(times, torch.arange(25, 0, -1) / 25, rtol=1e-6, atol=0)
    assert torch.equal(torch.stack([t for t, _ in seen]), times[:, None].expand(25, 2))
