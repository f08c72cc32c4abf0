"""What is left of a config when its student is exported."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import export_student
from mmkd_fm.models import FlowNeck
from mmkd_fm.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
DISTILLED = ROOT / 'configs' / 'bccd' / 'fmkt-wttm_gfl_r18_r18-quarter_bccd.py'


def stripped(path, **parts):
    cfg = Config.fromfile(path)
    for name, part in parts.items():
        cfg[name] = part
    cfg.model = cfg.model.student
    export_student.strip(cfg)
    return cfg


def test_a_config_with_kept_images_stays_one_that_trains():
    before, cfg = Config.fromfile(DISTILLED), stripped(DISTILLED, work_dir='run', resume=False)
    assert 'mmkd_fm' in str(before.train_dataloader)
    assert 'mmkd_fm' not in cfg.pretty_text
    assert 'work_dir' not in cfg
    for name in ('train', 'val', 'test'):
        assert {f'{name}_dataloader', f'{name}_cfg'} <= set(cfg)
    (kept, *random), pipeline = before.train_pipeline, cfg.train_dataloader.dataset.pipeline
    assert kept.type == 'mmkd_fm.InMemory'
    assert pipeline == [*kept.transforms, *random]
    assert cfg.train_dataloader.batch_size == before.train_dataloader.batch_size


def test_what_a_resumed_run_leaves_is_not_exported():
    left = stripped(DISTILLED, resume=True, load_from='run/epoch_1.pth')
    assert not left.resume and left.load_from is None
    assert stripped(DISTILLED, load_from='start.pth').load_from == 'start.pth'


@pytest.mark.parametrize(
    ('load_from', 'kept'),
    [('run/epoch_2.pth', None), ('moved/epoch_1.pth', None), ('start.pth', 'start.pth')],
)
def test_a_baseline_does_not_start_from_the_students_weights(
    load_from, kept, tmp_path, monkeypatch, capsys
):
    """mmdet's own test leaves what it tested as load_from in the config of the work dir."""
    monkeypatch.chdir(tmp_path)
    cfg = dict(work_dir=str(tmp_path / 'run'), load_from=load_from)
    export_student.drop_own_weights(cfg, 'moved/epoch_1.pth')
    assert cfg['load_from'] == kept
    assert ('weights of this training' in capsys.readouterr().out) == (kept is None)


def test_its_settings_are_those_of_the_plain_student():
    cfg, plain = stripped(DISTILLED), Config.fromfile(DISTILLED.parent / 'gfl_r18-quarter_bccd.py')
    for name in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'default_hooks'):
        assert cfg[name] == plain[name], name


def test_imports_of_others_stay():
    imports = dict(imports=['my_backbone', 'mmkd_fm.models'], allow_failed_imports=False)
    expected = dict(imports=['my_backbone'], allow_failed_imports=False)
    assert stripped(DISTILLED, custom_imports=imports).custom_imports == expected
    assert stripped(DISTILLED, custom_imports=dict(imports='mmkd_fm')).custom_imports.imports == []


def test_what_a_runner_takes_is_never_dropped():
    """Another part of ours in a pipeline stays, and the export says that it is needed."""
    loader = dict(dataset=dict(pipeline=[dict(type='mmkd_fm.Other')]))
    cfg = stripped(DISTILLED, train_dataloader=loader)
    assert cfg.train_dataloader == loader
    assert list(export_student.own_types(list(cfg.values()))) == ['mmkd_fm.Other']


def test_an_exported_student_normalises_as_in_training(monkeypatch, tmp_path):
    cfg = Config.fromfile(DISTILLED)
    expected = cfg.model.student.pop('data_preprocessor')
    cfg.model.data_preprocessor = expected
    cfg.dump(tmp_path / 'distilled.py')
    export_student.enter_scope(cfg)
    student = MODELS.build(cfg.model.student)
    torch.save(dict(state_dict=student.state_dict()), tmp_path / 'epoch_1.pth')
    run(monkeypatch, tmp_path / 'distilled.py', tmp_path / 'epoch_1.pth', tmp_path / 'out')
    exported = Config.fromfile(tmp_path / 'out/distilled.py')
    assert exported.model.data_preprocessor == expected and expected.mean


def test_necks_without_a_flow_stay():
    state = {'neck.0.weight': torch.ones(1)}
    for neck in (None, [dict(type='FPN'), dict(type='DyHead')], dict(type='SemanticFlowFPN')):
        model = dict(neck=neck)
        assert export_student.flows(model) == []
        assert export_student.unwrap(model, dict(state)) == state and model == dict(neck=neck)


def test_flows_are_found_by_name_and_by_type():
    for kind in ('FlowNeck', 'mmkd_fm.FlowNeck', FlowNeck):
        assert export_student.flows(dict(neck=dict(type=kind))) == ['neck']
        with pytest.raises(SystemExit, match='neck is a list with a flow in it'):
            export_student.flows(dict(neck=[dict(type=kind), dict(type='DyHead')]))


def test_a_list_of_necks_in_a_flow_comes_out_whole(retinanet, build):
    wrapped = [retinanet().neck, dict(type='ChannelMapper', in_channels=[16] * 5, out_channels=16)]
    model = retinanet()
    model.neck = dict(type='mmkd_fm.FlowNeck', neck=wrapped, flow=dict(num_steps=[0, 1]))
    state = export_student.unwrap(model, build(model, 0).state_dict())
    assert model.neck == wrapped
    build(model, 1).load_state_dict(state, strict=True)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['export_student.py', *map(str, arguments)])
    export_student.main()


LAZY = """
from mmengine.config import read_base
from mmkd_fm.hooks import DistillStateHook
from mmkd_fm.models import Distiller, PKDLoss

with read_base():
    from .lazy_student import *

default_hooks.update(dict(distill_state=dict(type=DistillStateHook)))
model = dict(
    type=Distiller,
    student=model,
    teacher=dict(config=dict(model=model)),
    losses=dict(pkd=dict(type=PKDLoss, tap='neck')),
)
"""


@pytest.fixture
def lazy(retinanet, build, tmp_path):
    """A distillation in mmengine's pure Python style, and a checkpoint of its student."""
    imports = (
        'from mmdet.models import RetinaNet\n'
        'from mmengine.hooks import CheckpointHook, LoggerHook\n'
    )
    hooks = 'dict(logger=dict(type=LoggerHook), checkpoint=dict(type=CheckpointHook, interval=3))'
    model = {k: v for k, v in retinanet().items() if k != 'type'}
    text = f'{imports}default_hooks = {hooks}\nmodel = dict(type=RetinaNet, **{model})\n'
    (tmp_path / 'lazy_student.py').write_text(text)
    (tmp_path / 'lazy.py').write_text(LAZY)
    torch.save(dict(state_dict=build(retinanet()).state_dict()), tmp_path / 'epoch_1.pth')
    return tmp_path


def test_a_config_in_pure_python_is_exported(lazy, monkeypatch):
    run(monkeypatch, lazy / 'lazy.py', lazy / 'epoch_1.pth', lazy / 'out')
    text = (lazy / 'out' / 'lazy.py').read_text()
    assert 'mmkd_fm' not in text and '<class' not in text
    cfg = Config.fromfile(lazy / 'out' / 'lazy.py')
    assert sorted(cfg.default_hooks) == ['checkpoint', 'logger']
    assert cfg.default_hooks.checkpoint.interval == 3
    state = torch.load(lazy / 'out' / 'student.pth', weights_only=True)['state_dict']
    MODELS.build(cfg.model).load_state_dict(state, strict=True)


def test_nothing_is_written_if_the_config_can_not_be(lazy, monkeypatch):
    def fail(*_):
        raise SyntaxError('no config')

    monkeypatch.setattr(Config, 'dump', fail)
    with pytest.raises(SyntaxError):
        run(monkeypatch, lazy / 'lazy.py', lazy / 'epoch_1.pth', lazy / 'out')
    assert not (lazy / 'out').exists()


def test_what_is_read_is_not_overwritten(monkeypatch, tmp_path):
    config, checkpoint = tmp_path / 'distilled.py', tmp_path / 'student.pth'
    Config.fromfile(DISTILLED).dump(config)
    torch.save(dict(state_dict={}), checkpoint)
    text = config.read_text()
    for out in (tmp_path, tmp_path / 'absent' / '..'):
        with pytest.raises(SystemExit, match=r'distilled.py would be overwritten; .* OUT_DIR'):
            run(monkeypatch, config, checkpoint, out)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'student.pth').symlink_to(checkpoint)
    with pytest.raises(SystemExit, match=r'student.pth would be overwritten'):
        run(monkeypatch, config, checkpoint, tmp_path / 'out')
    assert config.read_text() == text


def test_nothing_is_exported_into_a_file_or_without_a_model(monkeypatch, tmp_path):
    checkpoint, config = tmp_path / 'epoch_1.pth', tmp_path / 'part.py'
    torch.save(dict(state_dict={}), checkpoint)
    with pytest.raises(SystemExit, match='epoch_1.pth is a file; choose another OUT_DIR'):
        run(monkeypatch, DISTILLED, checkpoint, checkpoint)
    config.write_text('a = 1')
    with pytest.raises(SystemExit, match='part.py has no model; give a complete config'):
        run(monkeypatch, config, checkpoint, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_the_config_in_a_work_dir_is_not_overwritten(monkeypatch, tmp_path):
    """The Runner keeps the whole config there, under the name of the file that was run."""
    kept = tmp_path / DISTILLED.name
    Config.fromfile(DISTILLED).dump(kept)
    text = kept.read_text()
    torch.save(dict(state_dict={}), tmp_path / 'epoch_1.pth')
    with pytest.raises(SystemExit, match=rf'{DISTILLED.name} would be overwritten; .* OUT_DIR'):
        run(monkeypatch, DISTILLED, tmp_path / 'epoch_1.pth', tmp_path)
    assert kept.read_text() == text
    for other in ("model = dict(type='GFL')", 'a = 1', 'a = ('):  # exported before, or no config
        kept.write_text(other)
        with pytest.raises(SystemExit, match='does not fit the student'):
            run(monkeypatch, DISTILLED, tmp_path / 'epoch_1.pth', tmp_path)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.pth', 'out'], "error: there is no checkpoint 'absent.pth'"),
        (['other.pth', 'out', '--nfe', '-1'], 'error: --nfe: expected 0 or more, got -1'),
        (['other.pth', 'out'], r'(?s)error: other.pth does not fit the student of .*Missing key'),
        (['cut.pth', 'out'], 'error: cut.pth is truncated or not a checkpoint'),
    ],
)
def test_mistakes_are_explained(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), 'other.pth')
    Path('cut.pth').write_bytes(Path('other.pth').read_bytes()[:-100])
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, DISTILLED, *arguments)
    assert not (tmp_path / 'out').exists()
