from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn import functional as F

from mmkd_fm.functional import dist_loss, draw_num_steps, kd_loss, mse_loss, pkd_loss
from mmkd_fm.models import FlowClsHead, FlowNeck, FMKTLogitLoss, OnlineFMKTLogitLoss, OnlineFMKTLoss
from mmkd_fm.models.alignment import Tapped
from mmkd_fm.models.taps import Tap, record

REFERENCE = np.load(Path(__file__).parents[2] / 'data' / 'reference_logit.npz')
CHANNELS, CLASSES = 8, 10
TARGET = [0, 3, 9, 4]


def value(name):
    return torch.from_numpy(REFERENCE[name])


def tapped(path, module):
    return Tapped('student', Tap(path), module, ())


@pytest.fixture
def head():
    """Build a head in float64, its velocity not zero: `head(**flow)`."""
    pytest.importorskip('mmpretrain.models')

    def make(**flow):
        torch.manual_seed(0)
        linear = dict(
            type='mmpretrain.LinearClsHead',
            num_classes=CLASSES,
            in_channels=CHANNELS,
            loss=dict(type='mmpretrain.CrossEntropyLoss'),
        )
        module = FlowClsHead(linear, flow=flow).double()
        nn.init.normal_(module.flow.meta_encoder.conv2.weight)
        return module

    return make


def connected(head, **kwargs):
    loss = OnlineFMKTLogitLoss(**kwargs)
    loss.connect(dict(transport=tapped('head.flow', head.flow), logits=tapped('head', head)))
    return loss


def forward(head, x):
    """What the taps of the loss read."""
    with record(head, ['flow']) as records:
        logits = head((x,))
    return dict(transport=records['flow'][0][0], logits=logits)


def hard(target):
    return [BaseDataElement(gt_label=torch.tensor([label])) for label in target]


def assert_equal_gradients(actual, expected, module):
    parameters = [*module.parameters()]
    actual, expected = (
        torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        for value in (actual, expected)
    )
    torch.testing.assert_close(actual, expected)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, CHANNELS, 3, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize('checkpoint', [False, True])
def test_online_training_equals_the_reference(head, checkpoint):
    """Loss and all gradients to 1e-9 relative in float64."""
    module = head(num_steps=4, checkpoint=checkpoint)
    encoder, embedding = module.flow.meta_encoder, module.flow.time_embedding
    parameters = {
        'encoder.conv1.weight': encoder.conv1.weight,
        'encoder.norm.weight': encoder.norm.weight,
        'encoder.norm.bias': encoder.norm.bias,
        'encoder.conv2.weight': encoder.conv2.weight,
        'time.0.weight': embedding.linear1.weight,
        'time.0.bias': embedding.linear1.bias,
        'time.2.weight': embedding.linear2.weight,
        'time.2.bias': embedding.linear2.bias,
        'classifier.weight': module.head.fc.weight,
        'classifier.bias': module.head.fc.bias,
    }
    assert len(parameters) == len([*module.parameters()])
    for name, parameter in parameters.items():
        parameter.data = value(f'param.{name}')
    loss, student = connected(module), value('student')
    outputs = forward(module, student.requires_grad_())
    result = loss(outputs, hard(value('target')))['loss']
    result.backward()
    assert result.item() == pytest.approx(value('online_loss').item(), rel=1e-9)
    torch.testing.assert_close(outputs['logits'], value('mean_output'), rtol=1e-9, atol=0)
    for name, parameter in dict(parameters, student=student).items():
        expected = value(f'online_grad.{name}')
        scale = expected.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-9 * scale)


def test_each_step_is_compared_with_the_mean_and_the_smoothed_labels(head, x):
    module = head(num_steps=3)
    metric = dict(type='KDLoss', temperature=2)
    loss = connected(module, metric=metric, label_weight=0.5, label_smoothing=0.2, loss_weight=3)
    outputs = forward(module, x)
    logits = [module.head.fc(e.mean(dim=(2, 3))) for e in outputs['transport'].estimates]
    mean, one_hot = sum(logits) / 3, F.one_hot(torch.tensor(TARGET), CLASSES).double()
    labels = torch.distributions.Categorical(0.8 * one_hot + 0.2 / (CLASSES - 1) * (1 - one_hot))
    expected = 0
    for e in logits:
        prediction = torch.distributions.Categorical(logits=e)
        divergence = torch.distributions.kl_divergence(labels, prediction).mean()
        expected += kd_loss(e, mean, 2) + 0.5 * divergence
    result = loss(outputs, hard(TARGET))
    torch.testing.assert_close(result['loss'], 3 * expected / 3)
    assert result['steps'] == 3


def test_the_mean_of_the_logits_is_a_constant(head, x):
    """The gradient is that of a loss whose target is given, not that through the target."""
    module = head(num_steps=2)
    loss = connected(module, label_weight=0)
    outputs = forward(module, x)
    logits = [module.classify(e) for e in outputs['transport'].estimates]
    mean = (sum(logits) / 2).detach()
    expected = sum(dist_loss(e, mean) for e in logits) / 2
    result = loss(outputs)['loss']
    assert_equal_gradients(result, expected, module)


def test_a_single_step_has_only_labels(head, x):
    module, kd = head(num_steps=1), dict(type='KDLoss')
    alone, both = connected(module, metric=kd, label_weight=0), connected(module, metric=kd)
    outputs = forward(module, x)
    assert alone(outputs)['loss'].item() == pytest.approx(0, abs=1e-12)
    share = 0.1 * CLASSES / (CLASSES - 1)  # over all classes, as torch counts
    expected = F.cross_entropy(outputs['logits'], torch.tensor(TARGET), label_smoothing=share)
    result = both(outputs, hard(TARGET))['loss']
    assert_equal_gradients(result, expected, module)
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1 / (CLASSES - 1)))
    torch.testing.assert_close(result, expected - entropy)


def test_soft_labels_are_mixed_cross_entropies(head, x):
    module, kd = head(num_steps=2), dict(type='KDLoss', loss_weight=0)
    loss, outputs = connected(module, metric=kd, label_smoothing=0), forward(module, x)
    one, other = (F.one_hot(torch.tensor(t), CLASSES) for t in (TARGET, TARGET[::-1]))
    mixed = [BaseDataElement(gt_score=score) for score in 0.3 * one + 0.7 * other]
    expected = 0.3 * loss(outputs, hard(TARGET))['loss']
    expected += 0.7 * loss(outputs, hard(TARGET[::-1]))['loss']
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7)) * (np.array(TARGET) != TARGET[::-1]).mean()
    torch.testing.assert_close(loss(outputs, mixed)['loss'], expected - entropy)


def test_in_eval_mode_the_head_asks_for_training_mode(head, x):
    module = head(num_steps=3)
    losses = connected(module), FMKTLogitLoss(flow='head')
    losses[1].connect(
        dict(transport=tapped('head.flow', module.flow), logits=tapped('head', module)),
        tapped('head', module),
    )
    outputs = forward(module.eval(), x)
    for loss, more in zip(losses, [(), (torch.zeros(4, CLASSES),)]):
        with pytest.raises(RuntimeError, match=r'the FlowClsHead keeps .*call model\.train\(\)'):
            loss(outputs, *more, data_samples=hard([0, 1, 2, 0]))


def test_dkd_is_given_the_labels(head, x):
    module = head(num_steps=2)
    loss = connected(module, metric=dict(type='mmkd_fm.DKDLoss'), label_weight=0)
    outputs = forward(module, x)
    steps = [module.classify(estimate) for estimate in outputs['transport'].estimates]
    mean = torch.stack(steps).mean(0).detach()
    target = torch.tensor(TARGET)
    expected = sum(loss.metric(step, mean, target=target) for step in steps) / 2
    torch.testing.assert_close(loss(outputs, hard(TARGET))['loss'], expected)


def test_arguments_and_taps_are_checked(head, x):
    with pytest.raises(ValueError, match=r'label_smoothing must be in \[0, 1\], but got 2'):
        OnlineFMKTLogitLoss(label_smoothing=2)
    with pytest.raises(ValueError, match='valid names: .*mmkd_fm.DISTLoss'):
        OnlineFMKTLogitLoss(metric=dict(type='No'))
    module = head(num_steps=1)
    message = r"tap=dict\(transport='head.flow', logits='head'\), but got head"
    with pytest.raises(ValueError, match=message):
        OnlineFMKTLogitLoss().connect(tapped('head', module))
    taps = dict(transport=tapped('head.flow', head().flow), logits=tapped('head', module))
    with pytest.raises(ValueError, match='OnlineFMKTLogitLoss reads the flow of a FlowClsHead'):
        OnlineFMKTLogitLoss().connect(taps)
    with pytest.raises(ValueError, match='needs one gt_label or a gt_score.*label_weight=0'):
        connected(module)(forward(module, x))


# feature pyramids


@pytest.fixture
def neck():
    """Build a FlowNeck of two levels in float64, its velocity not zero: `neck(**flow)`."""

    def make(**flow):
        torch.manual_seed(0)
        fpn = dict(type='mmdet.FPN', in_channels=[4, 6], out_channels=CHANNELS, num_outs=2)
        module = FlowNeck(fpn, flow=flow).double().train()
        for one in module.flows.values():
            nn.init.normal_(one.meta_encoder.conv2.weight)
        return module

    return make


@pytest.fixture
def maps():
    torch.manual_seed(1)
    return [torch.randn(2, c, s, s, dtype=torch.float64) for c, s in ((4, 8), (6, 4))]


def online(neck, **kwargs):
    loss = OnlineFMKTLoss(**kwargs)
    loss.connect(tapped('neck', neck))
    return loss


def test_in_eval_mode_it_asks_for_training_mode(neck, maps):
    module = neck(num_steps=3)
    loss = online(module)
    with pytest.raises(RuntimeError, match=r'the FlowNeck keeps .* alone; call model\.train\(\)'):
        loss(module.eval()(maps))


@pytest.mark.parametrize('checkpoint', [False, True])
@pytest.mark.parametrize(('name', 'metric'), [('PKDLoss', pkd_loss), ('MSELoss', mse_loss)])
def test_estimates_are_compared_with_their_mean_on_each_level(neck, maps, name, metric, checkpoint):
    module = neck(num_steps=3, checkpoint=checkpoint)
    loss = online(module, metric=dict(type=name), loss_weight=2)
    pyramid = module(maps)
    result = loss(pyramid)
    expected = 0
    for x, flow in zip(pyramid.sources, module.flows.values()):
        estimates = flow(x, 3, keep_steps=True).estimates
        mean = estimates.mean(dim=0).detach()
        expected += 2 * sum(metric(e, mean) for e in estimates) / 3
    torch.testing.assert_close(result['loss'], expected)
    assert result['steps'] == 3
    assert_equal_gradients(result['loss'], expected, module)


def test_the_mean_squared_error_is_the_variance_of_the_estimates(neck, maps):
    module = neck(num_steps=4)
    loss = online(module, metric=dict(type='MSELoss'))
    pyramid = module(maps)
    expected = sum(
        transported.estimates.var(dim=0, unbiased=False).mean()
        for transported in pyramid.transports.values()
    )
    torch.testing.assert_close(loss(pyramid)['loss'], expected)


def test_a_draw_of_a_single_step_gives_zero(neck, maps, iteration):
    module = neck(num_steps=[1, 2])
    loss = online(module)
    iteration(next(i for i in range(50) if draw_num_steps([1, 2], 0, i) == 1))
    result = loss(module(maps))
    assert result['steps'] == 1
    assert result['loss'].item() == pytest.approx(0, abs=1e-12)
    gradients = torch.autograd.grad(result['loss'], [*module.parameters()])
    assert all(g.abs().max() < 1e-9 for g in gradients)


def test_necks_are_checked(neck):
    with pytest.raises(ValueError, match='reads the flows of a FlowNeck.* is Identity; wrap it'):
        OnlineFMKTLoss().connect(tapped('neck', nn.Identity()))
    with pytest.raises(ValueError, match=r'num_steps=\[1\]: a single step is its own mean'):
        online(neck(num_steps=1))
    with pytest.raises(ValueError, match='valid names: .*mmkd_fm.PKDLoss'):
        OnlineFMKTLoss(metric=dict(type='No'))
