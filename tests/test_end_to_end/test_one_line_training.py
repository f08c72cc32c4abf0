"""A training started by one line, and the config that it leaves, are one and the same."""

import json
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

pytestmark = pytest.mark.slow
STATE = ('state_dict', 'optimizer', 'distill_state')


@pytest.fixture(scope='module')
def project(plain_config, teacher_files, tmp_path_factory):
    """A folder with a plain student's config; the teacher lies elsewhere."""
    folder = tmp_path_factory.mktemp('project')
    cfg = plain_config(max_epochs=2)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.dump(folder / 'student.py')
    (folder / 'weights.pth').write_bytes(
        Path(teacher_files['retinanet']['checkpoint']).read_bytes()
    )
    return folder


@pytest.fixture(scope='module')
def one_line(project, teacher_files, tools):
    """Work dir of the one line, with a relative checkpoint, `--check-teacher` and an option."""
    tools.run_python(
        tools.root / 'tools' / 'train.py',
        'student.py',
        '--teacher',
        teacher_files['retinanet']['config'],
        '--teacher-checkpoint',
        'weights.pth',
        '--distill',
        'fmkt',
        'wttm',
        '--check-teacher',
        4,
        '--work-dir',
        'run',
        '--cfg-options',
        'model.losses.wttm.gamma=0.5',
        'train_cfg.max_epochs=1',
        cwd=project,
    )
    return project / 'run'


def test_it_is_a_distillation(one_line, tools):
    lines = tools.read_losses(one_line)
    assert sorted(lines) == [1, 2, 3, 4]
    for line in lines.values():
        assert line['loss_fmkt'] > 0 and line['loss_wttm'] > 0
    assert 'the teacher on 4 validation images' in tools.read_log(one_line)
    cfg = Config.fromfile(one_line / 'student_distilled.py')
    assert cfg.model.losses.wttm.gamma == 0.5
    assert cfg.model.teacher.checkpoint == str(one_line.parent / 'weights.pth')


@pytest.mark.parametrize('whose', ['ours', 'mmdet'])
def test_the_config_reproduces_the_run_from_anywhere(whose, one_line, tools, tmp_path):
    folder = tools.root / 'tools' if whose == 'ours' else Path(mmdet.__file__).parent / '.mim/tools'
    config = one_line / 'student_distilled.py'
    tools.run_python(folder / 'train.py', config, '--work-dir', 'again', cwd=tmp_path)
    expected, got = (tools.load(d / 'epoch_1.pth') for d in (one_line, tmp_path / 'again'))
    for key in (*STATE, 'ema_state_dict'):
        assert tools.differences(expected[key], got[key], key) == []


def test_the_run_is_resumed_from_another_directory(one_line, tools, tmp_path):
    """Its work dir and its teacher are found again."""
    before = tools.load(one_line / 'epoch_1.pth')
    config = one_line / 'student_distilled.py'
    more = ('--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    output = tools.run_python(tools.root / 'tools' / 'train.py', config, *more, cwd=tmp_path)[1]
    assert 'resumed epoch: 1, iter: 4' in output
    after = tools.load(one_line / 'epoch_2.pth')
    assert list(after['state_dict']) == list(before['state_dict'])
    assert tools.differences(before['state_dict'], after['state_dict']) != []
    text = config.read_text()
    assert 'resume = True' in text
    refused = (*more[:2], 'model.terms=[wttm]')
    status, output = tools.run_python(
        tools.root / 'tools' / 'train.py', config, *refused, cwd=tmp_path, check=False
    )
    assert status == 1 and 'was trained with fmkt wttm, not with wttm' in output
    other = tools.load(one_line.parent / 'weights.pth')
    next(iter(other['state_dict'].values())).mul_(2)
    torch.save(other, tmp_path / 'other.pth')
    refused = (*more[:2], 'model.teacher.checkpoint=other.pth')
    status, output = tools.run_python(
        tools.root / 'tools' / 'train.py', config, *refused, cwd=tmp_path, check=False
    )
    assert status == 1 and output.splitlines()[-1].startswith('error: --resume:')
    assert 'another teacher than other.pth: its weights differ' in output
    assert config.read_text() == text  # what the checkpoints are of
    torch.save(
        dict(state_dict=after['state_dict']), tmp_path / 'student.pth'
    )  # without a training's state
    output = tools.run_python(
        tools.root / 'tools' / 'test.py', config, 'student.pth', '--tta', cwd=tmp_path
    )[1]
    assert 'coco/bbox_mAP' in output
    assert config.read_text() == text  # a test leaves it as it is


def test_without_the_options_it_is_mmdet_s_training(project, tools, tmp_path):
    output = tools.run_python(
        tools.root / 'tools' / 'train.py',
        project / 'student.py',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        cwd=tmp_path,
    )[1]
    assert 'distillation' not in output
    assert 'distill_state' not in tools.load(tmp_path / 'work_dirs' / 'student' / 'epoch_1.pth')


def test_a_wrong_method_ends_in_one_line(project, teacher_files, tools):
    teacher = teacher_files['retinanet']
    arguments = ('--teacher', teacher['config'], '--teacher-checkpoint', teacher['checkpoint'])
    status, output = tools.run_python(
        tools.root / 'tools' / 'train.py',
        'student.py',
        *arguments,
        '--distill',
        'fmtk',
        cwd=project,
        check=False,
    )
    assert status == 1 and 'Traceback' not in output
    assert "error: --distill: unknown method 'fmtk'; valid names for this pair: fmkt" in output


# A classifier


def classifier(width):
    return ConfigDict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            base_channels=width,
            stem_channels=width,
            out_indices=(3,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=4,
            in_channels=8 * width,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


@pytest.fixture(scope='module')
def classifiers(tmp_path_factory):
    """A folder with images of four classes, and config and weights of student and teacher."""
    pytest.importorskip('mmpretrain')
    from mmengine.registry import DefaultScope

    from mmkd_fm.registry import MODELS

    folder = tmp_path_factory.mktemp('classifiers')
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('val', 4)):
        for i in range(count):
            path = folder / 'data' / split / f'class_{i % 4}' / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (36, 36, 3), dtype=np.uint8))
    cfg = get_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')
    cfg.data_preprocessor.num_classes = 4
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        del loader.dataset['split']
        loader.dataset.update(type='CustomDataset', data_root=str(folder / 'data'))
        loader.dataset.data_prefix = 'train' if split == 'train' else 'val'
        loader.dataset.pipeline[1].scale = 32 if split == 'train' else 34
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[2].crop_size = 32
    cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1, 3)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.logger.interval = 1
    cfg.randomness = dict(seed=0)
    for name, width in (('teacher', 12), ('student', 8)):
        cfg.model = classifier(width)
        cfg.dump(folder / f'{name}.py')
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        teacher = MODELS.build(dict(classifier(12), data_preprocessor=None))
    torch.save(dict(state_dict=teacher.state_dict()), folder / 'teacher.pth')
    return folder


def test_a_classifier(classifiers, tools):
    train = tools.root / 'tools' / 'train.py'
    named = ('--teacher', 'teacher.py', '--teacher-checkpoint', 'teacher.pth')
    line = ('student.py', *named, '--check-teacher', 4, '--work-dir', 'run')
    tools.run_python(train, *line, cwd=classifiers)
    resolved = classifiers / 'run' / 'student_distilled.py'
    tools.run_python(train, resolved, '--work-dir', 'again', cwd=classifiers)
    runs = [classifiers / name for name in ('run', 'again')]
    losses = [tools.read_losses(run) for run in runs]
    assert sorted(losses[0]) == [1, 2] and losses[0] == losses[1]
    assert all(line['loss_wttm'] > 0 for line in losses[0].values())  # the default
    expected, got = (tools.load(run / 'epoch_1.pth') for run in runs)
    for key in STATE:
        assert tools.differences(expected[key], got[key], key) == []
    assert 'the teacher on 4 validation images: accuracy/top1' in tools.read_log(runs[0])
    student = Config.fromfile(resolved).model.student
    assert json.dumps(student, sort_keys=True) == json.dumps(classifier(8), sort_keys=True)
