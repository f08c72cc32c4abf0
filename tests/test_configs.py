"""Every file under configs/ parses, builds and says what it is."""

import ast
import copy
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

ROOT = Path(__file__).parents[1] / 'configs'
FILES = sorted(
    p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*.py') if '_base_' not in p.parts
)
# of full size: seconds to build
LARGE = ('retinanet/', 'gfl/')


@cache
def parse(file):
    return Config.fromfile(ROOT / file)


def is_distillation(cfg):
    return cfg.model.type == 'mmkd_fm.Distiller'


def code_lines(path):
    """Lines of a file that are neither blank, comment nor docstring."""
    text = path.read_text(encoding='utf-8')
    first = ast.parse(text).body[0]
    body = text.splitlines()[first.end_lineno :]
    return [line for line in body if line.strip() and not line.strip().startswith('#')]


files = pytest.mark.parametrize('file', FILES)


def test_there_are_configs():
    assert len(FILES) >= 10


@files
def test_docstring_says_what_it_is(file):
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding='utf-8')))
    assert docstring
    assert len(docstring.splitlines()[0]) > 10


@files
def test_file_parses(file):
    cfg = parse(file)
    assert {'model', 'train_dataloader', 'optim_wrapper', 'default_hooks'} <= set(cfg)
    assert cfg.default_scope == 'mmdet'


@files
def test_distillation_adds_at_most_twenty_lines(file):
    cfg = parse(file)
    if is_distillation(cfg):
        assert 1 <= len(code_lines(ROOT / file)) <= 20
        assert cfg.default_hooks.distill_state.type == 'mmkd_fm.DistillStateHook'
        assert cfg.default_hooks.checkpoint.type == 'CheckpointHook'  # the base's are kept


@pytest.mark.parametrize(
    'file',
    [pytest.param(f, marks=pytest.mark.slow) if f.startswith(LARGE) else f for f in FILES],
)
def test_model_builds_and_its_taps_exist(file, mmdet_scope):
    from mmengine.registry import MODELS

    cfg = parse(file)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    if not is_distillation(cfg):
        assert type(model).__name__ == cfg.model.type.split('.')[-1]
        return
    assert list(model.distill_losses) == list(cfg.model.losses)
    assert not model.teacher.is_loaded
    student = sum(p.numel() for p in model.student.parameters())
    assert sum(p.numel() for p in model.teacher.model.parameters()) > student
    for name, loss in model.distill_losses.items():
        expected = cfg.model.losses[name].get('levels')
        if expected is not None:
            assert [i for i, _ in loss.pairs] == expected
    published = cfg.model.teacher.checkpoint
    assert published.endswith('.pth')
