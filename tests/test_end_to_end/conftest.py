"""A drawn data set, small detectors and helpers that run them for real."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ('red', 'green', 'blue')


def draw_data(folder):
    """10 images to train on and 4 to validate on, some 80x64 and some 64x80, in COCO format."""
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir(parents=True)
    for split, count in (('train', 10), ('val', 4)):
        images, annotations = [], []
        for i in range(count):
            height, width = ((64, 80), (80, 64))[i % 2]
            image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
            for _ in range(2):
                label = int(rng.integers(3))
                w, h = (int(v) for v in rng.integers(16, 40, 2))
                x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
                image[y : y + h, x : x + w, 2 - label] = 250
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=label + 1,
                        iscrowd=0,
                        bbox=[x, y, w, h],
                        area=w * h,
                    )
                )
            name = f'{split}_{i}.png'
            cv2.imwrite(str(folder / 'images' / name), image)
            images.append(dict(id=i, file_name=name, height=height, width=width))
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (folder / f'{split}.json').write_text(json.dumps(content))
    return folder


def sparse(folder, boxes):
    """Write sparse.json: train.json with so many of its boxes only."""
    content = json.loads((folder / 'train.json').read_text())
    content['annotations'] = content['annotations'][:boxes]
    (folder / 'sparse.json').write_text(json.dumps(content))


@pytest.fixture(scope='session', autouse=True)
def unformatted_configs():
    """Leave out the formatting of the configs in the logs, half of the time of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.config.config.FormatCode', lambda text, **kwargs: (text, True))
        yield


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    return draw_data(tmp_path_factory.mktemp('coco') / 'data')


@pytest.fixture(scope='session')
def student_model(detectors):
    """Model config of a student by kind; that of GFL has a Swin backbone with stochastic depth."""

    def make(kind):
        model = ConfigDict(detectors[kind]())
        if kind == 'gfl':
            model.backbone = ConfigDict(
                type='SwinTransformer',
                embed_dims=8,
                depths=(1, 1, 1, 1),
                num_heads=(1, 1, 2, 2),
                window_size=4,
                drop_path_rate=0.4,
                out_indices=(1, 2, 3),
            )
            model.neck.update(in_channels=[16, 32, 64], start_level=0)
        model.test_cfg.score_thr = 0.0
        return model

    return make


@pytest.fixture(scope='session')
def teacher_model(detectors):
    """Model config of a teacher, wider, with another normalisation and channel order."""

    def make(kind, **kwargs):
        model = ConfigDict(detectors[kind](width=12, channels=24, **kwargs))
        model.data_preprocessor.update(mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=False)
        return model

    return make


@pytest.fixture(scope='session')
def teacher_files(teacher_model, write_teacher, tmp_path_factory):
    """Config file and checkpoint of a teacher by kind, for `model.teacher`."""
    folder, result = tmp_path_factory.mktemp('teacher_configs'), {}
    for kind in ('retinanet', 'gfl'):
        teacher = write_teacher(teacher_model(kind))
        Config(teacher['config']).dump(folder / f'{kind}.py')
        result[kind] = dict(teacher, config=str(folder / f'{kind}.py'))
    return result


FMKT = dict(
    type='mmkd_fm.FMKTLoss',
    tap='neck',
    levels=[0, 1, 2],
    flow=dict(num_steps=[1, 2, 4]),
    loss_weight=2.0,
    theta_weight=1.0,
)
WTTM = dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0, gamma=0.7, loss_weight=1.0)
PKD = dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0, 1, 2, 3], loss_weight=4.0)
FROM_NECK = dict(type='mmkd_fm.FMKTLoss', tap='neck', flow='neck', theta_weight=1.0)
LOSSES = {
    'fmkt-wttm': dict(fmkt=FMKT, wttm=WTTM),
    'pkd': dict(pkd=PKD),
    'any-nfe': dict(fmkt=FROM_NECK),
}
FLOW = dict(num_steps=[0, 1, 2], seed=1, checkpoint=True)
DISTILL_HOOKS = dict(
    distill_state=dict(type='mmkd_fm.DistillStateHook'),
    distill_clip=dict(type='mmkd_fm.ClipApartHook'),
    distill_data=dict(type='mmkd_fm.DataCheckHook'),
)
EMA = dict(type='EMAHook', momentum=0.1)


CONFIGS = {
    'retinanet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'gfl': 'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
}


@pytest.fixture(scope='session')
def plain_config(data, student_model):
    """Config of a plain student's training: `plain_config(kind, max_epochs=1, seed=0)`."""
    load = [
        dict(type='LoadImageFromFile', backend_args=None),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(80, 80), keep_ratio=True),
    ]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    random = [dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion')]
    pipelines = dict(
        train=[*load, *random, dict(type='PackDetInputs')],
        val=[*load, dict(type='PackDetInputs', meta_keys=keys)],
    )

    def loader(split, batch_size):
        dataset = dict(
            type='CocoDataset',
            data_root=f'{data}/',
            ann_file=f'{split}.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES),
            pipeline=pipelines[split],
            test_mode=split == 'val',
        )
        return dict(
            batch_size=batch_size,
            num_workers=0,
            persistent_workers=False,
            sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
            dataset=dataset,
        )

    def make(kind='retinanet', max_epochs=1, seed=0):
        cfg = get_config(CONFIGS[kind])
        cfg.model = student_model(kind)
        cfg.train_dataloader = loader('train', 3)  # the last batch is of one image
        cfg.val_dataloader, cfg.test_dataloader = loader('val', 2), loader('val', 2)
        for evaluator in ('val_evaluator', 'test_evaluator'):
            cfg[evaluator] = dict(type='CocoMetric', ann_file=f'{data}/val.json', metric='bbox')
        cfg.train_cfg.max_epochs = max_epochs
        cfg.optim_wrapper = dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
            clip_grad=dict(max_norm=5, norm_type=2),
        )
        cfg.param_scheduler = [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6),
            dict(type='MultiStepLR', begin=0, end=10, milestones=[3], gamma=0.5),
        ]
        cfg.default_hooks.logger.interval = cfg.log_processor.window_size = 1
        cfg.randomness = dict(seed=seed)
        return cfg

    return make


@pytest.fixture(scope='session')
def distill_config(plain_config, teacher_files):
    """Config of a distillation: `distill_config(kind, losses='fmkt-wttm', ema=False, ...)`.

    With the losses 'any-nfe' the student has a FlowNeck.
    """

    def make(kind='retinanet', losses='fmkt-wttm', ema=False, **kwargs):
        cfg = plain_config(kind, **kwargs)
        if losses == 'any-nfe':
            wrapped = dict(neck=cfg.model.neck, flow=dict(FLOW), levels=[0, 1, 2], nfe=2)
            cfg.model.neck = ConfigDict(type='mmkd_fm.FlowNeck', **wrapped)
        cfg.default_hooks.update(copy.deepcopy(DISTILL_HOOKS))
        cfg.model = ConfigDict(
            type='mmkd_fm.Distiller',
            student=cfg.model,
            teacher=dict(teacher_files[kind]),
            losses=copy.deepcopy(LOSSES[losses]),
        )
        if ema:
            cfg.custom_hooks = [dict(EMA)]
        return cfg

    return make


@pytest.fixture(scope='session')
def make_runner(mmdet_scope):
    """Make a Runner of a config: `make_runner(cfg, work_dir, resume=checkpoint)`."""
    names = iter(f'run_{i}' for i in range(10**6))

    def make(cfg, work_dir, resume=None, **options):
        cfg = copy.deepcopy(cfg)
        cfg.merge_from_dict(options)
        cfg.work_dir = str(work_dir)
        # loggers, message hubs and visualizers are global by name
        cfg.experiment_name = cfg.visualizer.name = next(names)
        if resume:
            cfg.update(load_from=str(resume), resume=True)
        return Runner.from_cfg(cfg)

    return make


@pytest.fixture(scope='session')
def train(make_runner):
    """Train a config to its end: `train(cfg, work_dir, resume=checkpoint)`; gives the work dir."""

    def run(cfg, work_dir, **kwargs):
        make_runner(cfg, work_dir, **kwargs).train()
        return Path(work_dir)

    return run


@pytest.fixture(scope='session')
def distilled(distill_config, train, tmp_path_factory):
    """Config and work dir of a finished distillation of 2 epochs, with EMA."""
    cfg = distill_config(max_epochs=2, ema=True)
    return SimpleNamespace(cfg=cfg, work_dir=train(cfg, tmp_path_factory.mktemp('distilled')))


@pytest.fixture(scope='session')
def plain(plain_config, train, tmp_path_factory):
    """Config and work dir of the plain student's training, 1 epoch, with EMA."""
    cfg = plain_config(max_epochs=1, seed=1)
    cfg.custom_hooks = [dict(EMA)]
    return SimpleNamespace(cfg=cfg, work_dir=train(cfg, tmp_path_factory.mktemp('plain')))


def read_log(work_dir):
    return '\n'.join(path.read_text() for path in sorted(Path(work_dir).glob('*/*.log')))


def read_losses(work_dir):
    """{iteration: all logged losses, monitors, gradient norms and learning rates}."""
    result = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in map(json.loads, path.read_text().splitlines()):
            if 'loss' in line:
                drop = ('time', 'data_time', 'memory')
                result[line['iter']] = {k: v for k, v in line.items() if k not in drop}
    return result


def differences(first, second, where=''):
    """Paths at which two nested structures are not bit-equal."""
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [where]
    if isinstance(first, np.ndarray):
        return [] if np.array_equal(first, second) else [where]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [f'{where}: keys {list(first)} and {list(second)}']
        return [d for k in first for d in differences(first[k], second[k], f'{where}/{k}')]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f'{where}: lengths {len(first)} and {len(second)}']
        pairs = enumerate(zip(first, second))
        return [d for i, (a, b) in pairs for d in differences(a, b, f'{where}/{i}')]
    return [] if first == second else [f'{where}: {first!r} and {second!r}']


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def run_python(*arguments, cwd, check=True, **environment):
    """Run a Python command line in a process of its own; gives what it printed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    env = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1', **environment)
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=env,
        text=True,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if check:
        assert result.returncode == 0, result.stdout[-6000:]
    return result.returncode, result.stdout


@pytest.fixture(scope='session')
def tools():
    """The helper functions above, as attributes."""
    functions = (read_log, read_losses, differences, load, run_python, sparse)
    return SimpleNamespace(root=ROOT, **{function.__name__: function for function in functions})
