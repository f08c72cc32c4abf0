"""Taps are measured by a forward of one blank image."""

import pytest
import torch
from mmengine.hub import get_config
from mmengine.model import BaseModel
from torch import nn

from mmkd_fm.models.alignment import pair_levels
from mmkd_fm.models.probe import measure_taps
from mmkd_fm.models.taps import Tap
from mmkd_fm.registry import MODELS


class Fixed(BaseModel):
    """A model of images of one size, as MLP-Mixer, LeViT and TNT are."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.backbone = nn.Conv2d(3, 5, 1, stride=32)
        self.head = nn.Linear(5, 4)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if inputs.shape[-2:] != (self.size, self.size):
            raise ValueError(f'input size {tuple(inputs.shape[-2:])} does not match {self.size}')
        return self.head(self.backbone(inputs).mean(dim=(2, 3)))


@pytest.mark.parametrize('size', [128, 224, 256, 384, 512])
def test_models_of_a_fixed_size_are_measured(size):
    model = Fixed(size)
    taps = {'features': Tap('backbone'), 'logits': Tap('head')}
    measured = measure_taps(model, taps, 'student')
    (level,) = measured['features'].levels
    assert (level.channels, level.stride) == (5, 32)
    assert measured['logits'].levels == ()
    assert all(parameter.grad is None for parameter in model.parameters()) and model.training


@pytest.mark.parametrize('outs', [5, 6, 7])
def test_strides_beyond_the_first_size_are_told_apart(retinanet, build, outs):
    """P8 is one location in 128 pixels, as P7 is, and yet not its partner."""
    models = []
    for levels in (outs, 5):
        config = retinanet()
        config.neck.update(num_outs=levels)
        models.append(build(config))
    student, teacher = (
        measure_taps(model, {'neck': Tap('neck')}, owner)['neck']
        for model, owner in zip(models, ('student', 'teacher'))
    )
    assert [level.stride for level in student.levels] == [2 ** (3 + i) for i in range(outs)]
    assert pair_levels(student, teacher) == [(i, i) for i in range(5)]


def test_grey_images_are_measured_and_trained_on(retinanet, write_teacher, raw_batch, loss_of):
    def grey(**kwargs):
        config = retinanet(**kwargs)
        config.backbone.update(in_channels=1)
        config.data_preprocessor.update(mean=[128.0], std=[50.0], bgr_to_rgb=False)
        return config

    teacher = write_teacher(grey(width=12, channels=24))
    losses = dict(fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck'))
    model = MODELS.build(
        dict(type='mmkd_fm.Distiller', student=grey(), teacher=teacher, losses=losses)
    )
    model.load_teacher()
    batch = raw_batch()
    batch['inputs'] = [image[:1] for image in batch['inputs']]
    loss, terms = loss_of(model, batch)
    loss.backward()
    assert terms['loss_fmkt'] > 0 and model.backbone.conv1.weight.grad.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_operators_that_no_cpu_has_are_measured_on_the_gpu(mmdet_scope):
    neck = get_config('mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py').model.neck
    flowed = MODELS.build(dict(type='mmkd_fm.FlowNeck', neck=neck))
    assert len(flowed.flows) == 5
    assert all(parameter.device.type == 'cpu' for parameter in flowed.parameters())


def test_the_sizes_that_were_tried_are_told():
    tried = r'blank image of 128, 256, 384, 512, 224 pixels.*\(224, 224\) does not match 96'
    with pytest.raises(ValueError, match=f'the student.*as far as head on a {tried}'):
        measure_taps(Fixed(96), {'logits': Tap('head')}, 'student')


@pytest.mark.slow
def test_a_classifier_of_a_fixed_size_is_distilled(mmdet_scope):
    models = pytest.importorskip('mmpretrain.models')
    arch = dict(embed_dims=16, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8)
    model = models.ImageClassifier(
        backbone=dict(type='mmpretrain.MlpMixer', arch=arch, patch_size=32),
        neck=dict(type='mmpretrain.GlobalAveragePooling', dim=1),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=4, in_channels=16),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
    )
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 4)
    measure_taps(model, {'logits': Tap('head')}, 'teacher')
