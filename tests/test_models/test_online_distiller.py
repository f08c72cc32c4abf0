import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmkd_fm.registry import MODELS

LOGIT = dict(type='mmkd_fm.OnlineFMKTLogitLoss', tap=dict(transport='head.flow', logits='head'))
DENSE = dict(type='mmkd_fm.OnlineFMKTLoss', tap='neck')


def classifier(flow=None):
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
        head=dict(
            type='mmkd_fm.FlowClsHead',
            head=dict(
                type='mmpretrain.LinearClsHead',
                num_classes=5,
                in_channels=32,
                loss=dict(type='mmpretrain.CrossEntropyLoss'),
            ),
            flow=flow or {},
        ),
        data_preprocessor=dict(
            type='mmpretrain.ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3
        ),
    )


def image_batch():
    structures = pytest.importorskip('mmpretrain.structures')
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    samples = [structures.DataSample().set_gt_label(label) for label in (0, 4, 2)]
    return dict(inputs=list(torch.from_numpy(pixels)), data_samples=samples)


@pytest.fixture
def student(retinanet, raw_batch):
    """Config of a student with a flow, a batch and the online loss: `student(kind, flow)`."""

    def make(kind, flow=None):
        if kind == 'classifier':
            return classifier(flow), image_batch(), dict(LOGIT)
        config = retinanet()
        config.neck = dict(type='mmkd_fm.FlowNeck', neck=config.neck, flow=flow or {})
        return config, raw_batch(), dict(DENSE)

    return make


@pytest.fixture
def online(student):
    """Build an OnlineDistiller in training mode: `online(kind, flow=None, ...)`."""

    def make(kind, flow=None, task_loss_weight=1, losses=None, **options):
        torch.manual_seed(0)
        config, _, loss = student(kind, flow)
        model = MODELS.build(
            dict(
                type='mmkd_fm.OnlineDistiller',
                student=config,
                losses=losses or dict(ofmkt=dict(loss, **options)),
                task_loss_weight=task_loss_weight,
            )
        )
        for module in model.modules():  # away from the zero velocity of the beginning
            if hasattr(module, 'meta_encoder'):
                nn.init.normal_(module.meta_encoder.conv2.weight, std=0.1)
        return model.train()

    return make


@pytest.mark.parametrize('flow', [dict(num_steps=[1, 2]), dict(num_steps=[0, 2]), {}])
@pytest.mark.parametrize('kind', ['classifier', 'detector'])
def test_all_parameters_get_gradients(online, student, loss_of, iteration, kind, flow):
    """In iterations of any number of steps; DDP with find_unused_parameters=False needs this."""
    model = online(kind, flow)
    for i in range(4):
        iteration(i)
        total, losses = loss_of(model, student(kind)[1])
        assert {'loss_ofmkt', 'ofmkt_steps'} < set(losses)
        assert losses['loss_ofmkt'] > 0 or losses['ofmkt_steps'] == 1
        model.zero_grad(set_to_none=True)
        total.backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize('kind', ['classifier', 'detector'])
def test_without_weight_it_is_the_plain_student(online, student, build, loss_of, kind):
    config, batch, _ = student(kind)
    model, plain = online(kind, loss_weight=0), build(config).train()
    plain.load_state_dict(model.state_dict(), strict=True)
    assert list(plain.state_dict()) == list(model.state_dict())
    totals = [loss_of(one, batch)[0] for one in (model, plain)]
    assert torch.equal(*totals)
    for total in totals:
        total.backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), plain.parameters()))


@pytest.mark.parametrize('kind', ['classifier', 'detector'])
def test_the_flow_is_the_students_in_files_and_predictions(online, student, build, kind):
    config, batch, _ = student(kind)
    model, plain = online(kind).eval(), build(config).eval()
    assert model.teacher is None
    assert not list(model.distill_losses.parameters())
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict(), strict=True)
    inputs = model.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    assert 'teacher_inputs' not in model.data_preprocessor(copy.deepcopy(batch), True)
    with torch.no_grad():
        outputs = [one(inputs, mode='tensor') for one in (model, plain)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_without_the_task_loss_the_total_is_that_of_ofmkt(online, student, loss_of):
    _, batch, _ = student('classifier')
    total, losses = loss_of(online('classifier', task_loss_weight=0), batch)
    assert losses['loss'] == 0
    assert torch.equal(total, losses['loss_ofmkt'])


@pytest.mark.parametrize('kind', ['classifier', 'detector'])
def test_copies_are_independent(online, student, loss_of, kind):
    model = online(kind)
    other = copy.deepcopy(model)
    loss_of(other, student(kind)[1])[0].backward()
    assert all(p.grad is not None for p in other.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_losses_with_a_teacher_are_refused(online):
    for name in ('mmkd_fm.PKDLoss', 'PKDLoss'):
        with pytest.raises(ValueError, match='losses.pkd: PKDLoss compares with a teacher'):
            online('detector', losses=dict(pkd=dict(type=name, tap='neck')))
    with pytest.raises(ValueError, match="unknown Loss 'No'"):
        online('detector', losses=dict(no=dict(type='No', tap='neck')))
