"""Small real detectors, raw batches and teachers, shared by all tests.

What needs more than torch is imported where it is used: test_functional runs without OpenMMLab.
"""

import copy

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # the models are too small for more


@pytest.fixture(scope='session')
def mmdet_scope():
    """Register mmdet's modules and make its scope the default one."""
    from mmdet.utils import register_all_modules
    from mmengine.registry import init_default_scope

    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')


def _shrink(model, width, channels, num_classes):
    model.backbone.update(
        depth=18, base_channels=width, stem_channels=width, frozen_stages=-1, norm_eval=False
    )
    model.backbone.init_cfg = None
    model.neck.update(in_channels=[width * 2**i for i in range(4)], out_channels=channels)
    model.bbox_head.update(
        num_classes=num_classes, in_channels=channels, feat_channels=channels, stacked_convs=1
    )
    return model


@pytest.fixture(scope='session')
def retinanet(mmdet_scope):
    """Model config of a small RetinaNet R18: `retinanet(width=8, channels=16, num_classes=3)`."""
    from mmengine.hub import get_config

    config = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model

    def make(width=8, channels=16, num_classes=3):
        model = copy.deepcopy(config)
        return _shrink(model, width, channels, num_classes)

    return make


@pytest.fixture(scope='session')
def gfl(mmdet_scope):
    """Model config of a small GFL R18: `gfl(width=8, channels=16, num_classes=3)`."""
    from mmengine.hub import get_config

    config = get_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py').model

    def make(width=8, channels=16, num_classes=3):
        model = copy.deepcopy(config)
        model.bbox_head.norm_cfg = dict(type='GN', num_groups=4)
        return _shrink(model, width, channels, num_classes)

    return make


@pytest.fixture(scope='session')
def detectors(retinanet, gfl):
    """The factories of model configs by name."""
    return {'retinanet': retinanet, 'gfl': gfl}


@pytest.fixture(scope='session')
def build(mmdet_scope):
    """Build a model from its config as it would be alone: `build(config, seed=None)`."""
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    def make(config, seed=None):
        if seed is not None:
            torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope('mmdet'):  # whatever a runner before has set
            return MODELS.build(copy.deepcopy(config))

    return make


@pytest.fixture(scope='session')
def raw_batch():
    """A raw batch, as a data loader gives it: `raw_batch(boxes=(3, 2), num_classes=3, seed=0)`.

    One image for each number in `boxes`, uint8 (3, H, W), 96 x 96 and 64 x 96 in turn; the boxes
    have sides of 8 to 64 pixels.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    def make(boxes=(3, 2), num_classes=3, seed=0):
        rng = np.random.default_rng(seed)
        inputs, samples = [], []
        for i, count in enumerate(boxes):
            height, width = (96, 96) if i % 2 == 0 else (64, 96)
            pixels = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
            side = rng.choice([8, 16, 32, 64], (count, 2)).astype('float32')
            corner = rng.random((count, 2), dtype='float32') * ((width, height) - side)
            sample = DetDataSample(
                metainfo=dict(
                    img_id=i,
                    img_shape=(height, width),
                    ori_shape=(height, width),
                    scale_factor=(1.0, 1.0),
                )
            )
            sample.gt_instances = InstanceData(
                bboxes=torch.from_numpy(np.hstack([corner, corner + side]).astype('float32')),
                labels=torch.from_numpy(rng.integers(0, num_classes, count)),
            )
            inputs.append(torch.from_numpy(pixels))
            samples.append(sample)
        return dict(inputs=inputs, data_samples=samples)

    return make


@pytest.fixture(scope='session')
def write_teacher(build, tmp_path_factory):
    """Write a checkpoint of random weights: `write_teacher(config, seed=1)`.

    Returns:
        The arguments of the Distiller's teacher.
    """

    def make(config, seed=1):
        model = build(config, seed)
        torch.manual_seed(seed)
        for name, value in model.state_dict().items():  # not the initial weights, nor statistics
            if name.endswith('running_var'):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.add_(0.05 * torch.randn_like(value))
        path = str(tmp_path_factory.mktemp('teacher') / 'teacher.pth')
        torch.save(dict(state_dict=model.state_dict(), meta={}), path)
        return dict(config=dict(model=config, default_scope='mmdet'), checkpoint=path)

    return make


PKD = dict(type='mmkd_fm.PKDLoss', tap='neck')
LOSSES = dict(
    fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', levels=[0, 1, 2, 3]),
    wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0),
    pkd=PKD,
)


@pytest.fixture(scope='session')
def teachers(detectors, write_teacher):
    """A written teacher for each kind of detector, wider than the default student."""
    return {name: write_teacher(make(width=12, channels=24)) for name, make in detectors.items()}


@pytest.fixture
def distiller(detectors, teachers):
    """Build a Distiller with a loaded teacher: `distiller(kind='retinanet', losses=None, ...)`.

    By default FM-KT and PKD on the neck and WTTM on the classification logits.
    """
    from mmkd_fm.registry import MODELS

    def make(kind='retinanet', losses=None, load=True, model_seed=None, **kwargs):
        config = dict(student=detectors[kind](), teacher=teachers[kind], losses=losses or LOSSES)
        if model_seed is not None:
            torch.manual_seed(model_seed)
        model = MODELS.build(
            dict(type='mmkd_fm.Distiller', **copy.deepcopy(dict(config, **kwargs)))
        )
        if load:
            model.load_teacher()
        return model

    return make


@pytest.fixture
def distill_losses():
    """The default losses of `distiller`: fmkt, wttm and pkd."""
    return copy.deepcopy(LOSSES)


@pytest.fixture(scope='session')
def loss_of():
    """Losses and the sum of those that mmengine would add: `loss_of(model, batch)`."""

    def run(model, batch):
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        losses = model(**data, mode='loss')
        return model.parse_losses(losses)[0], losses

    return run


@pytest.fixture(scope='session')
def generators():
    """States of the global generators: `generators()`, comparable with `==`."""
    import random

    def read():
        return (
            random.getstate(),
            str(np.random.get_state()[1].tolist()) + str(np.random.get_state()[2:]),
            torch.get_rng_state().tolist(),
        )

    return read


def _message(key):
    from mmengine.logging import MessageHub

    hub = MessageHub.get_current_instance()
    before = hub.get_info(key, 0)
    hub.update_info(key, 0)
    yield lambda value: hub.update_info(key, value)
    hub.update_info(key, before)


@pytest.fixture
def iteration():
    """Set the training iteration that the flows see; 0 again afterwards."""
    yield from _message('iter')


@pytest.fixture
def epoch():
    """Set the epoch that the flows see, of a run of many; 0 again afterwards."""
    for _ in _message('max_epochs'):
        yield from _message('epoch')
