"""What YOLOX and RTMDet do to their images while they train: the teacher sees the same."""

import copy

import pytest
import torch
from mmdet.apis import init_detector
from mmengine.config import ConfigDict
from mmengine.hub import get_config

from mmkd_fm.models.teacher import FrozenTeacher

SIDE = 64
NECK = dict(
    type='mmkd_fm.FMKTLoss', tap='neck', flow=dict(num_steps=[1, 2]), metric=dict(type='MSELoss')
)
TERMS = dict(fmkt=NECK, wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0, gamma=0.7))
SCALES = dict(
    type='BatchSyncRandomResize', random_size_range=(64, 128), size_divisor=32, interval=1
)
NAMES = {
    'yolox': 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'rtmdet': 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
}
EPOCHS, SWITCH = 3, 1  # in all, and the first with the other pipeline


def shrunk(model, channels=16, num_classes=3):
    model = copy.deepcopy(model)
    model.backbone.update(deepen_factor=0.1, widen_factor=channels / 128, init_cfg=None)
    model.neck.update(in_channels=[channels * i for i in (2, 4, 8)], out_channels=channels)
    model.bbox_head.update(num_classes=num_classes, in_channels=channels, feat_channels=channels)
    return model


def small_pipeline(value):
    """A pipeline for images of 64 x 64; what is cached is a few images."""
    if isinstance(value, dict):
        small = {k: small_pipeline(v) for k, v in value.items()}
        if 'max_cached_images' in small:
            small['max_cached_images'] = 5  # as many as mosaic needs at least
        return type(value)(small)
    if isinstance(value, (list, tuple)):
        return type(value)(small_pipeline(v) for v in value)
    return {640: SIDE, 416: SIDE, 1280: 2 * SIDE, -320: -SIDE // 2, -208: -SIDE // 2}.get(
        value, value
    )


@pytest.fixture(scope='module')
def configs(mmdet_scope):
    """The configs of mmdet, with small models and images."""
    result = {}
    for kind, name in NAMES.items():
        cfg = get_config(name)
        cfg.train_dataloader.dataset = small_pipeline(cfg.train_dataloader.dataset)
        cfg.custom_hooks = small_pipeline(cfg.custom_hooks)
        for hook in cfg.custom_hooks:
            if hook.type == 'YOLOXModeSwitchHook':
                hook.num_last_epochs = EPOCHS - SWITCH - 1  # it counts from 1
            if hook.type == 'PipelineSwitchHook':
                hook.switch_epoch = SWITCH
            if hook.type == 'EMAHook':
                hook.momentum = 0.1
        result[kind] = cfg
    return result


@pytest.fixture(scope='module')
def make_config(configs, distill_config, write_teacher):
    """Config of a distillation as its student is trained: `make_config(kind, teacher=..., ...)`."""

    def make(kind, losses=TERMS, classes=3, seed=0, normalise=True, **teacher):
        cfg, own = distill_config(max_epochs=EPOCHS, seed=seed), configs[kind]
        dataset = cfg.train_dataloader.dataset
        pipeline = own.train_dataloader.dataset.pipeline
        if kind == 'yolox':
            dataset.pipeline = dataset.pipeline[:2]
            cfg.train_dataloader.dataset = ConfigDict(
                type='MultiImageMixDataset', dataset=dataset, pipeline=pipeline
            )
        else:
            dataset.pipeline = pipeline
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.pipeline = small_pipeline(own.test_pipeline)
        cfg.custom_hooks = copy.deepcopy(own.custom_hooks)
        student, other = shrunk(own.model), shrunk(own.model, 24, classes)
        if kind == 'yolox':
            student.data_preprocessor.batch_augments = [dict(SCALES)]
        if normalise:
            other.data_preprocessor.update(
                mean=[100, 110, 90], std=[60, 50, 70], bgr_to_rgb=kind == 'yolox'
            )
        cfg.model = ConfigDict(
            type='mmkd_fm.Distiller',
            student=student,
            teacher=dict(write_teacher(other), **teacher),
            losses=copy.deepcopy(losses),
        )
        return cfg

    return make


@pytest.fixture(scope='module')
def trained(make_config, train, tmp_path_factory):
    """Config and work dir of a training by kind, made when it is first asked for."""
    runs = {}

    def get(kind):
        if kind not in runs:
            cfg = make_config(kind)
            runs[kind] = cfg, train(cfg, tmp_path_factory.mktemp(kind))
        return runs[kind]

    return get


@pytest.mark.slow
@pytest.mark.parametrize('kind', NAMES)
def test_files_hold_the_plain_students_keys(kind, trained, build, tools):
    cfg, work_dir = trained(kind)
    saved = tools.load(work_dir / f'epoch_{EPOCHS}.pth')
    plain = build(cfg.model.student)
    assert list(saved['state_dict']) == list(plain.state_dict())
    plain.load_state_dict(saved['state_dict'], strict=True)
    averaged = {k[7:] for k in saved['ema_state_dict'] if k.startswith('module.')}
    assert averaged == set(plain.state_dict())
    assert all(t.isfinite().all() for t in saved['state_dict'].values())


@pytest.mark.slow
def test_yolox_switches_to_the_l1_loss_and_off_mosaic(trained, tools):
    _, work_dir = trained('yolox')
    losses = tools.read_losses(work_dir)
    steps = len(losses) // EPOCHS
    with_l1 = [i for i, line in losses.items() if 'loss_l1' in line]
    assert with_l1 == list(range(SWITCH * steps + 1, EPOCHS * steps + 1))
    assert {'loss_fmkt', 'loss_fmkt_theta', 'loss_wttm'} <= set(losses[1])
    assert 'No mosaic and mixup aug now!' in tools.read_log(work_dir)


@pytest.fixture(scope='module')
def resumed(trained, make_runner, tmp_path_factory):
    """Runner of the second half of that training, made when it is first asked for."""
    runners = {}

    def get(kind):
        if kind not in runners:
            cfg, work_dir = trained(kind)
            runners[kind] = make_runner(
                cfg, tmp_path_factory.mktemp('resumed'), resume=work_dir / f'epoch_{SWITCH}.pth'
            )
            runners[kind].train()
        return runners[kind]

    return get


@pytest.mark.slow
def test_yolox_is_switched_itself_and_its_teacher_is_not(resumed):
    runner = resumed('yolox')
    assert runner.model.bbox_head.use_l1 and runner.model.student.bbox_head.use_l1
    assert not runner.model.teacher.model.bbox_head.use_l1
    skipped = runner.train_dataloader.dataset._skip_type_keys
    assert skipped == ('Mosaic', 'RandomAffine', 'MixUp')


@pytest.mark.slow
def test_rtmdet_is_given_its_other_pipeline(resumed):
    pipeline = resumed('rtmdet').train_dataloader.dataset.pipeline
    names = [type(transform).__name__ for transform in pipeline.transforms]
    assert 'CachedMosaic' not in names and 'RandomResize' in names


@pytest.mark.slow
@pytest.mark.parametrize('kind', NAMES)
def test_resume_goes_on_from_the_switch(kind, resumed, trained, tools):
    (_, work_dir), runner = trained(kind), resumed(kind)
    first, second = (tools.read_losses(d) for d in (work_dir, runner.work_dir))
    steps = len(first) // EPOCHS
    assert list(second) == list(range(SWITCH * steps + 1, EPOCHS * steps + 1))
    log, inexact = tools.read_log(runner.work_dir), 'not equal to the uninterrupted run'
    if kind == 'yolox':  # its next image size is not saved
        assert f'{inexact}: batch augmentations' in log
        assert all('loss_l1' in line for line in second.values())
        return
    assert inexact not in log
    assert tools.differences({i: first[i] for i in second}, second) == []
    files = (f'{d}/epoch_{EPOCHS}.pth' for d in (work_dir, runner.work_dir))
    first, second = map(tools.load, files)
    for key in ('state_dict', 'ema_state_dict', 'distill_state'):
        assert tools.differences(first[key], second[key], key) == []


@pytest.mark.slow
def test_cached_images_are_not_resumed(make_config, make_runner, tmp_path, tools):
    """Before its pipeline is switched RTMDet mixes images that it saw before."""
    cfg = make_config('rtmdet', losses=dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck')))
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type == 'EMAHook']
    cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval = 1, 2
    make_runner(cfg, tmp_path / 'first').train()
    cfg.train_cfg.max_epochs = 2
    make_runner(cfg, tmp_path / 'second', resume=tmp_path / 'first' / 'epoch_1.pth').train()
    reason = 'not equal to the uninterrupted run: CachedMosaic, CachedMixUp'
    assert reason in tools.read_log(tmp_path / 'second')


@pytest.mark.slow
@pytest.mark.parametrize('scale', [0.5, 1.5, 2])
def test_a_teacher_of_other_classes_at_its_own_resolution(
    scale, make_config, train, tmp_path, tools
):
    """With features alone; the check of the classes walks all modules, and the scales change."""
    losses = dict(
        fmkt=dict(NECK, levels=[0, 1] if scale > 1 else [1, 2]),
        pkd=dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[1]),
    )
    cfg = make_config('yolox', losses=losses, classes=5, input_scale=scale)
    cfg.custom_hooks.append(dict(type='NumClassCheckHook'))
    cfg.train_cfg.max_epochs = 1
    work_dir = train(cfg, tmp_path)
    losses = tools.read_losses(work_dir)
    assert losses and all('loss_fmkt' in line and 'loss_pkd' in line for line in losses.values())
    assert (work_dir / 'epoch_1.pth').exists()


def test_views_of_a_training_batch(make_config, make_runner, tmp_path):
    """The teacher is given what it would make itself of the pixels that YOLOX trains on."""
    runner = make_runner(make_config('yolox', input_scale=2, losses=dict(fmkt=NECK)), tmp_path)
    model, sizes = runner.model, set()
    teacher = model.teacher.model.data_preprocessor
    for i, batch in enumerate(runner.train_dataloader):
        runner.message_hub.update_info('iter', i)
        data = model.data_preprocessor(batch, True)
        pixels = data['inputs']  # YOLOX does not normalise
        sizes.add(tuple(pixels.shape[-2:]))
        resized = torch.nn.functional.interpolate(pixels, scale_factor=2, mode='bilinear')
        expected = teacher(dict(inputs=resized), False)['inputs']
        torch.testing.assert_close(data['teacher_inputs'], expected, rtol=1e-4, atol=1e-4)
        for sample in data['data_samples']:
            assert sample.batch_input_shape == tuple(pixels.shape[-2:])
    assert len(sizes) > 1


def test_logits_at_another_resolution_are_refused(make_config, build):
    cfg = make_config('yolox', input_scale=1.5)
    message = r'compares logits location by location.*1@8, 1@16, 1@32.*1@5\.33333, 1@10\.6667, 1@21'
    with pytest.raises(ValueError, match=message):
        build(cfg.model)


def test_a_teacher_that_was_averaged_is_the_one_that_mmdet_tests(plain, tools):
    """A file of EMAHook holds the averaged weights where plain files hold the weights."""
    file = str(plain.work_dir / 'epoch_1.pth')
    teacher = FrozenTeacher(dict(model=plain.cfg.model, default_scope='mmdet'), file)
    teacher.load('cpu')
    tested = init_detector(plain.cfg, file, device='cpu')
    assert tools.differences(dict(teacher.model.state_dict()), dict(tested.state_dict())) == []
    trained = tools.load(file)['ema_state_dict']  # EMAHook has swapped the two
    raw = {name: trained[f'module.{name}'] for name in tested.state_dict()}
    assert tools.differences(dict(teacher.model.state_dict()), raw) != []
