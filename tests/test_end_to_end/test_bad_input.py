"""Bad input is refused with a clear message before anything is trained."""

import os
import pickle
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import FlexibleRunner

from mmkd_fm.hooks import DataCheckHook

NECK = dict(tap='neck')
FMKT = dict(type='mmkd_fm.FMKTLoss', levels=[0, 1], **NECK)
WTTM = dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0)
PKD = dict(type='mmkd_fm.PKDLoss', **NECK)

LOSSES = [
    (dict(), 'losses is empty'),
    (dict(x=dict(PKD, tap='nek')), "no module 'nek' in RetinaNet; did you mean 'neck'"),
    (dict(x=dict(PKD, tap='bbox_head.loss_cls')), 'never called in one forward'),
    (dict(x=dict(PKD, tap='bbox_head.retina_cls')), 'called 5 times in one forward'),
    (dict(x=dict(PKD, tap='bbox_head', index=2)), 'index 2 is out of range'),
    (dict(x=dict(type='mmkd_fm.PKDLoss')), "losses.x needs a tap, such as tap='neck'"),
    (dict(cls=PKD), 'the student has losses named loss_cls itself'),
    (dict(my_loss=PKD), 'the name .my_loss. contains "loss"'),
    (dict(x=dict(PKD, levels=[0, 5])), 'has the levels 0 to 4'),
    (dict(x=dict(PKD, type='mmkd_fm.PDKLoss')), 'unknown Loss .*PDKLoss.*mmkd_fm.PKDLoss'),
    (dict(x=dict(FMKT, metric=dict(type='Foo'))), 'unknown Loss .*Foo.*mmkd_fm.MSELoss'),
    (dict(x=dict(FMKT, objective=dict(type='Foo'))), 'Foo.*mmkd_fm.EndpointMatching'),
    (dict(x=dict(FMKT, flow=dict(meta_encoder=dict(type='Foo')))), 'Foo.*mmkd_fm.ConvMetaEnc'),
    (dict(x=dict(FMKT, flow=dict(schedule='foo'))), 'foo.*rectified'),
    (dict(x=dict(FMKT, flow=dict(num_steps=0))), 'num_steps must be a whole number.* but got 0'),
    (dict(x=dict(FMKT, flow=dict(num_steps=-1))), 'num_steps must be a whole.* but got -1'),
    (dict(x=dict(FMKT, flow=dict(num_steps=1.5))), 'num_steps must be a whole.* but got 1.5'),
    (dict(x=dict(FMKT, flow=dict(num_steps=[2, 0]))), r'num_steps=\[2, 0\]:.* leave 0 out'),
    (dict(x=dict(FMKT, flow='neck')), r"flow='neck' reads the flows of a FlowNeck, but.* is FPN"),
    (dict(x=dict(FMKT, flow=dict(num_steps=[]))), r'num_steps must be a whole.* but got \[\]'),
    (dict(x=dict(WTTM, gamma=0.0)), r'gamma must be in \(0, 1\].*0'),
    (dict(x=dict(WTTM, gamma=-0.5)), r'gamma must be in \(0, 1\].*-0.5'),
    (dict(x=dict(WTTM, form='foo')), 'unknown form .foo.; valid forms: background_softmax'),
    (dict(x=dict(WTTM, tap='neck')), 'needs the classification scores of a dense head'),
]


def assert_nothing_was_trained(work_dir, tools):
    assert not list(work_dir.rglob('*.pth'))
    assert tools.read_losses(work_dir) == {}


@pytest.mark.parametrize('losses, message', LOSSES, ids=[message for _, message in LOSSES])
def test_losses(losses, message, distill_config, make_runner, tmp_path, tools):
    cfg = distill_config()
    cfg.model.losses = losses
    with pytest.raises((ValueError, RuntimeError), match=message):
        make_runner(cfg, tmp_path).train()
    assert_nothing_was_trained(tmp_path, tools)


@pytest.fixture
def refused_teacher(distill_config, make_runner, tmp_path, tools):
    """Assert that a distillation from this teacher is refused with this message."""

    def check(checkpoint, message, model=None):
        cfg = distill_config()
        cfg.model.teacher.checkpoint = checkpoint
        if model is not None:
            cfg.model.teacher.config = dict(model=model, default_scope='mmdet')
        with pytest.raises(ValueError, match=message):
            make_runner(cfg, tmp_path / 'run').train()
        assert_nothing_was_trained(tmp_path / 'run', tools)

    return check


def test_teacher_without_a_checkpoint(refused_teacher):
    refused_teacher(None, 'the teacher has no checkpoint; set model.teacher.checkpoint')


def test_missing_teacher(refused_teacher, tmp_path):
    refused_teacher(str(tmp_path / 'x.pth'), 'x.pth.* does not exist; set model.teacher.checkpoint')


@pytest.mark.parametrize('fraction', [0, 0.5, 0.99])
def test_truncated_teacher(fraction, refused_teacher, teacher_files, tmp_path):
    content = Path(teacher_files['retinanet']['checkpoint']).read_bytes()
    (tmp_path / 'x.pth').write_bytes(content[: int(fraction * len(content))])
    refused_teacher(str(tmp_path / 'x.pth'), 'x.pth.* truncated or not a checkpoint')


def test_teacher_of_another_architecture(refused_teacher, teacher_files):
    refused_teacher(
        teacher_files['gfl']['checkpoint'],
        'does not fit the teacher config; it looks like another architecture',
    )


def test_teacher_of_other_classes(refused_teacher, teacher_model, write_teacher):
    other = teacher_model('retinanet', num_classes=5)
    checkpoint = write_teacher(other)['checkpoint']
    refused_teacher(checkpoint, 'a model with another number of classes')
    refused_teacher(checkpoint, 'the student has 3 classes, the teacher 5.*class_map=', other)


@pytest.mark.parametrize('url', ['http://127.0.0.1:9/x.pth', 'https://127.0.0.1:9/x.pth'])
def test_teacher_url_without_a_network(url, refused_teacher, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    refused_teacher(url, 'can not be downloaded.*download it where there is a network')


def test_pyramids_that_do_not_fit(refused_teacher, teacher_model, write_teacher):
    other = teacher_model('retinanet')
    other.neck.start_level, other.neck.num_outs = 2, 2
    checkpoint = write_teacher(other)['checkpoint']
    refused_teacher(checkpoint, 'pyramids do not fit: level 0 .* stride 8.*among', other)


def test_without_the_state_hook(distill_config, make_runner, tmp_path, tools):
    cfg = distill_config()
    cfg.default_hooks.pop('distill_state')
    with pytest.raises(RuntimeError, match='the Distiller needs DistillStateHook'):
        make_runner(cfg, tmp_path).train()
    assert_nothing_was_trained(tmp_path, tools)


def test_a_runner_that_is_not_the_plain_one(distill_config, tmp_path, tools):
    cfg = distill_config(losses='pkd')
    cfg.strategy = dict(type='SingleDeviceStrategy')
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    with pytest.raises(RuntimeError, match="If it is there.* mmengine's plain Runner, without run"):
        FlexibleRunner.from_cfg(cfg).train()
    assert_nothing_was_trained(tmp_path, tools)


def test_the_state_hook_without_a_distiller(plain_config, make_runner, tmp_path, tools):
    cfg = plain_config()
    cfg.default_hooks.distill_state = dict(type='mmkd_fm.DistillStateHook')
    message = 'needs a model of type mmkd_fm.Distiller, but got RetinaNet; remove default_hooks'
    with pytest.raises(TypeError, match=message):
        make_runner(cfg, tmp_path).train()
    assert_nothing_was_trained(tmp_path, tools)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('where', ['model.teacher.checkpoint', 'load_from', 'resume'])
def test_malicious_checkpoints(
    where, legacy, distill_config, distilled, make_runner, tmp_path, tools
):
    content = tools.load(distilled.work_dir / 'epoch_1.pth')
    content['meta']['note'] = [Payload(tmp_path / 'marker')]
    file = str(tmp_path / 'x.pth')
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    runner = make_runner(distill_config(), tmp_path / 'run', **{where: file})
    with pytest.raises(pickle.UnpicklingError, match='refused to unpickle posix.mkdir'):
        runner.train()
    assert not (tmp_path / 'marker').exists()
    assert_nothing_was_trained(tmp_path / 'run', tools)


@pytest.fixture
def refused_by_the_tool(distill_config, data, tmp_path, tools, monkeypatch):
    """Assert that tools/train.py ends with this message."""

    def check(message, work_dir=None, config=None, **options):
        cfg = distill_config()
        cfg.merge_from_dict(options)
        cfg.experiment_name = cfg.visualizer.name = tmp_path.name
        cfg.dump(tmp_path / 'config.py')
        work_dir = work_dir or tmp_path / 'run'
        config = config or tmp_path / 'config.py'
        monkeypatch.setattr(sys, 'argv', ['train.py', str(config), '--work-dir', str(work_dir)])
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tools.root / 'tools'))
        with pytest.raises((SystemExit, ValueError, OSError), match=message):
            runpy.run_path(str(tools.root / 'tools' / 'train.py'), run_name='__main__')
        assert_nothing_was_trained(tmp_path, tools)

    return check


ANNOTATIONS = [
    ('{"images": [], "annotations": [], "categories": []}', 'x.json lists no images'),
    ('[1, 2]', 'x.json is not a COCO annotation file: lists images, .* expected, got list'),
    ('{"images": [1], "annotations": [], "categories": []}', 'x.json has no boxes'),
    ('{"shapes": 1}', 'x.json is not a COCO annotation file: .* got shapes'),
    ('images', 'x.json is not JSON'),
]


@pytest.mark.parametrize('content, message', ANNOTATIONS)
def test_annotation_files(content, message, refused_by_the_tool, tmp_path):
    loader = 'val_dataloader' if content == '[1, 2]' else 'train_dataloader'
    (tmp_path / 'x.json').write_text(content)
    refused_by_the_tool(
        f'{loader}.dataset: .*{message}', **{f'{loader}.dataset.ann_file': str(tmp_path / 'x.json')}
    )


def test_annotation_file_that_is_missing(refused_by_the_tool, tmp_path):
    refused_by_the_tool(
        'there is no annotation file .*x.json',
        **{'train_dataloader.dataset.ann_file': str(tmp_path / 'x.json')},
    )


def test_annotations_without_boxes(refused_by_the_tool, data, tools):
    tools.sparse(data, 0)
    refused_by_the_tool(
        'sparse.json has no boxes',
        **{
            'train_dataloader.dataset.ann_file': 'sparse.json',
            'train_dataloader.dataset.filter_cfg': dict(filter_empty_gt=True),
        },
    )


def test_annotations_of_other_classes(refused_by_the_tool):
    refused_by_the_tool(
        'none of the classes cat, dog: its categories are red, green, blue',
        **{
            'train_dataloader.dataset.metainfo': dict(classes=('cat', 'dog')),
            'train_dataloader.dataset.filter_cfg': dict(filter_empty_gt=True),
        },
    )


def test_no_image_is_left(distill_config, make_runner, data, tmp_path, tools):
    tools.sparse(data, 0)
    runner = make_runner(
        distill_config(),
        tmp_path,
        **{
            'train_dataloader.dataset.ann_file': 'sparse.json',
            'train_dataloader.dataset.serialize_data': False,
            'train_dataloader.dataset.filter_cfg': dict(filter_empty_gt=True),
        },
    )
    with pytest.raises(ValueError, match='no image to train on.*filter_empty_gt'):
        runner.train()
    assert_nothing_was_trained(tmp_path, tools)


def test_empty_image_folder(refused_by_the_tool, tmp_path):
    (tmp_path / 'empty').mkdir()
    refused_by_the_tool(
        'no such file; check data_root and data_prefix.img',
        **{'train_dataloader.dataset.data_prefix.img': f'{tmp_path}/empty/'},
    )


@pytest.mark.parametrize('num_images', [1, 3, 1000])
def test_as_many_images_are_looked_for_as_are_asked_for(
    num_images, distill_config, make_runner, tmp_path, monkeypatch
):
    runner = make_runner(distill_config(losses='pkd'), tmp_path)
    dataset, looked = runner.train_dataloader.dataset, []
    get_data_info = type(dataset).get_data_info
    monkeypatch.setattr(
        type(dataset), 'get_data_info', lambda self, i: looked.append(i) or get_data_info(self, i)
    )
    DataCheckHook(num_images).before_train(runner)
    count = min(num_images, len(dataset))
    assert looked == [i * len(dataset) // count for i in range(count)]


def test_no_image_at_all_is_not_to_be_looked_for():
    with pytest.raises(ValueError, match='num_images must be at least 1, but got 0'):
        DataCheckHook(0)


class Elsewhere(LocalBackend):
    """Has the images of any path in a folder of its own, as an object store or a data base has."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def get(self, filepath):
        return super().get(self.folder / Path(filepath).name)


@pytest.mark.parametrize('wrapped', [False, True], ids=['', 'wrapped'])
def test_images_that_are_read_from_elsewhere(
    wrapped, distill_config, make_runner, data, tmp_path, tools
):
    register_backend('elsewhere', Elsewhere, force=True)
    cfg = distill_config(losses='pkd')
    dataset = cfg.train_dataloader.dataset
    dataset.data_prefix.img = 'absent/'
    dataset.pipeline[0].backend_args = dict(backend='elsewhere', folder=str(data / 'images'))
    if wrapped:
        cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=dataset)
    make_runner(cfg, tmp_path).train()
    assert len(tools.read_losses(tmp_path)) == 4


def test_paths_that_are_no_text(distill_config, make_runner, monkeypatch, tmp_path, tools):
    from mmdet.datasets import CocoDataset

    parse = CocoDataset.parse_data_info
    monkeypatch.setattr(
        CocoDataset,
        'parse_data_info',
        lambda self, raw: dict(info := parse(self, raw), img_path=Path(info['img_path'])),
    )
    make_runner(distill_config(losses='pkd'), tmp_path).train()
    assert len(tools.read_losses(tmp_path)) == 4


@pytest.mark.parametrize(
    'read',
    [
        dict(backend_args=None),
        dict(backend_args=dict(backend='local')),
        dict(file_client_args=dict(backend='disk')),
    ],
    ids=str,
)
def test_images_that_are_missing_on_the_disk(read, distill_config, make_runner, tmp_path, tools):
    cfg = distill_config(losses='pkd')
    dataset = cfg.train_dataloader.dataset
    dataset.data_prefix.img = 'absent/'
    dataset.pipeline[0] = dict(type='LoadImageFromFile', **read)
    with pytest.raises(FileNotFoundError, match='absent/.*no such file; check data_root and data'):
        make_runner(cfg, tmp_path).train()
    assert_nothing_was_trained(tmp_path, tools)


def test_work_dir_below_a_file(refused_by_the_tool, tmp_path):
    (tmp_path / 'file').write_text('')
    refused_by_the_tool('the work directory can not be made', work_dir=tmp_path / 'file' / 'run')


def test_config_that_is_missing(refused_by_the_tool, tmp_path):
    refused_by_the_tool('there is no config file', config=tmp_path / 'absent.py')


def test_model_errors_reach_the_tool(refused_by_the_tool, tmp_path):
    refused_by_the_tool(
        "teacher checkpoint '/absent.pth' does not exist",
        **{'model.teacher.checkpoint': '/absent.pth'},
    )
