"""Which package's tools run a config, and what is said if it is not there."""

import sys

import pytest
from mmengine.config import Config

import mm_tool

FIND = mm_tool.find_spec


@pytest.fixture
def without(monkeypatch):
    """Hide packages: `without('mmdet')`."""

    def hide(*names):
        spec = lambda name: None if name in names else FIND(name)  # noqa: E731
        monkeypatch.setattr(mm_tool, 'find_spec', spec)

    return hide


@pytest.fixture
def explained(monkeypatch, tmp_path):
    """The config that a tool reads: `explained(text, *arguments)`."""

    def run(text, *arguments):
        (tmp_path / 'config.py').write_text(text)
        argv = ['tool.py', str(tmp_path / 'config.py'), '--work-dir', str(tmp_path), *arguments]
        monkeypatch.setattr(sys, 'argv', argv)
        monkeypatch.setattr(sys, 'path', list(sys.path))
        with mm_tool.explained(('train_dataloader', 'val_dataloader')) as cfg:
            return cfg

    return run


def test_the_scope_of_the_config_decides(without):
    without()
    pytest.importorskip('mmpretrain')
    for scope in ('mmdet', 'mmpretrain'):
        assert mm_tool.tool_package(dict(default_scope=scope)) == scope
    for cfg in (None, {}, dict(default_scope=None), dict(default_scope='mmengine')):
        assert mm_tool.tool_package(cfg) == 'mmdet'


def test_the_model_decides_where_the_config_has_no_scope():
    from mmdet.models import RetinaNet

    classifiers = pytest.importorskip('mmpretrain.models')

    class OwnClassifier(classifiers.ImageClassifier):
        pass

    def package(kind, **cfg):
        return mm_tool.package_of(Config(dict(model=dict(type=kind), **cfg)))

    own = dict(type='mmkd_fm.Distiller', student=dict(type=OwnClassifier))
    assert package(RetinaNet) == package('mmdet.RetinaNet', default_scope=None) == 'mmdet'
    dumped = 'mmpretrain.models.classifiers.image.ImageClassifier'
    for kind in (classifiers.ImageClassifier, OwnClassifier, dumped):
        assert package(kind) == 'mmpretrain'
    assert mm_tool.package_of(dict(model=own, default_scope=None)) == 'mmpretrain'
    assert package(OwnClassifier, default_scope='mmdet') == 'mmdet'
    for cfg in (dict(), dict(model=dict()), dict(model=dict(type='RetinaNet', student='r18'))):
        assert mm_tool.package_of(cfg) is None


def test_a_package_that_is_not_there(without):
    without('mmpretrain')
    message = r'mmpretrain not installed.*; pip install "mmpretrain>=1.2", or: .*"\.\[imagenet\]"'
    with pytest.raises(SystemExit, match=message):
        mm_tool.tool_package(dict(default_scope='mmpretrain'))
    assert mm_tool.tool_package(None) == 'mmdet'
    without('torchvision')
    message = r'error: torchvision not installed.*--no-deps torchvision==\.\.\. pillow'
    with pytest.raises(SystemExit, match=message):
        mm_tool.tool_package(dict(default_scope='mmpretrain'))
    without('mmdet', 'mmpretrain')
    with pytest.raises(SystemExit, match=r'mmdet not installed.*pip install "mmdet>=3.3,<4"'):
        mm_tool.tool_package(None)


def test_without_mmdet_the_other_is_the_default(without):
    pytest.importorskip('mmpretrain')
    without('mmdet')
    assert mm_tool.tool_package(None) == 'mmpretrain'


def test_a_base_of_a_package_that_is_not_there(without, explained, monkeypatch):
    without('mmpretrain')
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda name: name != 'mmpretrain')
    with pytest.raises(SystemExit, match='mmpretrain not installed'):
        explained("_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'")


def test_the_options_of_the_command_line_count(explained, tmp_path):
    cfg = explained(
        'a = 1; model = {}', '--launcher', 'none', '--cfg-options', 'a=2', 'default_scope=x'
    )
    assert (cfg.a, cfg.default_scope) == (2, 'x')


def test_a_config_that_can_not_be_read_is_left_to_the_tool(explained):
    assert explained('a = (') is None


def test_folders_are_looked_at_before_anything_runs(explained, tmp_path):
    dataset = "dict(type='CustomDataset', data_root='absent')"
    message = 'error: val_dataloader.dataset: there is no image folder absent; check data_root'
    text = f'model = dict(); {{}}_dataloader = dict(dataset={dataset})'
    with pytest.raises(SystemExit, match=message):
        explained(text.format('val'))
    assert explained(text.format('val'), '--no-validate') is not None
    assert explained(text.format('test')) is not None  # not read here


def test_a_config_without_a_model_is_told(explained):
    with pytest.raises(SystemExit, match='config.py has no model; give a complete config'):
        explained('a = 1')


def test_a_checkpoint_that_is_missing():
    for path in (__file__, 'https://x/y.pth', 's3://x/y.pth', 'open-mmlab://resnet50'):
        mm_tool.check_checkpoint(['config.py', path, '--wait-time', '2', '--tta'])
    mm_tool.check_checkpoint(['--help'])
    with pytest.raises(SystemExit, match=r"error: there is no checkpoint 'absent.pth'; give a"):
        mm_tool.check_checkpoint(['config.py', 'absent.pth', '--work-dir', 'x'])


def test_weights_are_no_config(explained, tmp_path, monkeypatch):
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    monkeypatch.setattr(sys, 'argv', ['tool.py', str(tmp_path / 'epoch_1.pth')])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    message = r'expected a config, .py .*got .*epoch_1.pth.*--teacher-checkpoint'
    with pytest.raises(SystemExit, match=message), mm_tool.explained():
        pass


def test_a_base_that_stays_in_the_distiller_is_told(explained):
    model = "dict(type='mmkd_fm.Distiller', student=dict(), losses=dict(), backbone=dict())"
    with pytest.raises(SystemExit, match="config.py: model: Distiller has no option 'backbone'"):
        explained(f'model = {model}')
