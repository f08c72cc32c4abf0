"""Students that keep their flow at inference: tested with any number of steps, and exported."""

import copy
import json
import re
from types import SimpleNamespace

import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config, ConfigDict

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def any_nfe(distill_config, train, tmp_path_factory):
    """Config file, config and checkpoint of an any-NFE student with EMA, briefly trained."""
    folder = tmp_path_factory.mktemp('any_nfe')
    cfg = distill_config(losses='any-nfe', max_epochs=2, ema=True)
    cfg.dump(folder / 'any.py')
    work_dir = train(cfg, folder / 'run')
    return SimpleNamespace(
        cfg=cfg, folder=folder, config=folder / 'any.py', file=work_dir / 'epoch_2.pth'
    )


@pytest.fixture(scope='module')
def image(data):
    return str(data / 'images' / 'val_0.png')


def boxes(config, file, image):
    result = inference_detector(init_detector(config, str(file), device='cpu'), image)
    assert len(result.pred_instances) > 10
    return result.pred_instances


def assert_same(got, expected):
    for key in ('bboxes', 'scores', 'labels'):
        assert torch.equal(got[key], expected[key])


def flowed(cfg, nfe):
    """Config of the student alone, with a number of steps."""
    cfg = Config(cfg.to_dict())
    cfg.model = ConfigDict(cfg.model.student)
    cfg.model.neck.nfe = nfe
    for name in ('distill_state', 'distill_clip', 'distill_data'):
        cfg.default_hooks.pop(name)
    return cfg


def export(any_nfe, tools, out, *options, check=True):
    return tools.run_python(
        tools.root / 'tools' / 'export_student.py',
        any_nfe.config,
        any_nfe.file,
        out,
        *options,
        cwd=any_nfe.folder,
        check=check,
    )


def test_one_checkpoint_is_tested_with_any_number_of_steps(any_nfe, tools, make_runner, tmp_path):
    script = tools.root / 'tools' / 'test.py'
    arguments = ['--nfe', 0, 1, 4, '--work-dir', tmp_path]
    _, output = tools.run_python(
        script, any_nfe.config, any_nfe.file, *arguments, cwd=any_nfe.folder
    )
    assert 'Flow steps at inference' in output
    assert (tmp_path / 'nfe.png').stat().st_size > 10_000
    rows = json.loads((tmp_path / 'nfe.json').read_text())
    assert [row['nfe'] for row in rows] == [0, 1, 4]
    none, one, four = (row['gflops'] for row in rows)
    # each step costs the same
    assert four - none == pytest.approx(4 * (one - none), rel=1e-6)
    assert one > none > 0
    assert rows[0]['parameters'] < rows[1]['parameters'] == rows[2]['parameters']
    for row in rows:
        alone = make_runner(
            flowed(any_nfe.cfg, row['nfe']),
            tmp_path / f'alone{row["nfe"]}',
            load_from=str(any_nfe.file),
        )
        assert row.get('coco/bbox_mAP', 0) == alone.test().get('coco/bbox_mAP', 0)


def test_the_sweep_reports_other_metrics_than_those_of_coco(any_nfe, tools, tmp_path):
    cfg = copy.deepcopy(any_nfe.cfg)
    cfg.test_evaluator = dict(type='VOCMetric', metric='mAP', eval_mode='area')
    cfg.dump(tmp_path / 'voc.py')
    script = tools.root / 'tools' / 'test.py'
    arguments = ['--nfe', 0, '--work-dir', tmp_path]
    _, output = tools.run_python(
        script, tmp_path / 'voc.py', any_nfe.file, *arguments, cwd=any_nfe.folder
    )
    (row,) = json.loads((tmp_path / 'nfe.json').read_text())
    header = next(line for line in output.splitlines() if 'GFLOPs' in line and 'NFE' in line)
    assert 'mAP' in header and 'AP50' not in header
    assert re.search(f'│ +0 │ +{100 * row["pascal_voc/mAP"]:.1f} │', output)


def test_exported_without_steps_it_is_the_plain_detector(
    any_nfe, tools, plain_config, image, tmp_path, build
):
    _, output = export(any_nfe, tools, tmp_path)
    assert 'loaded strictly' in output
    plain, cfg = plain_config(), Config.fromfile(tmp_path / 'any.py')
    assert 'mmkd_fm' not in cfg.pretty_text
    assert cfg.model.neck == plain.model.neck
    state = torch.load(tmp_path / 'student.pth', weights_only=True)['state_dict']  # as anyone can
    build(plain.model).load_state_dict(state, strict=True)
    got = boxes(plain, tmp_path / 'student.pth', image)
    assert_same(got, boxes(flowed(any_nfe.cfg, 0), any_nfe.file, image))
    assert_same(got, boxes(cfg, tmp_path / 'student.pth', image))


def test_exported_with_steps_it_keeps_its_flow(any_nfe, tools, image, tmp_path):
    export(any_nfe, tools, tmp_path, '--nfe', 2)
    cfg = Config.fromfile(tmp_path / 'any.py')
    assert (cfg.model.neck.type, cfg.model.neck.nfe) == ('mmkd_fm.FlowNeck', 2)
    got = boxes(cfg, tmp_path / 'student.pth', image)
    assert_same(got, boxes(flowed(any_nfe.cfg, 2), any_nfe.file, image))
    other = boxes(flowed(any_nfe.cfg, 0), any_nfe.file, image)
    assert len(other) != len(got) or not torch.equal(got.scores, other.scores)


def test_a_student_that_never_went_without_its_flow_is_not_exported_without(
    any_nfe, tools, tmp_path
):
    options = ['--cfg-options', 'model.student.neck.flow.num_steps=2']
    code, output = export(any_nfe, tools, tmp_path / 'out', *options, check=False)
    assert code == 1
    assert 'error: this student was trained with 2 flow steps' in output
    assert not (tmp_path / 'out').exists()


def test_a_zero_cost_student_is_exported_too(distilled, tools, plain_config, image, tmp_path):
    distilled.cfg.dump(tmp_path / 'distill.py')
    file = distilled.work_dir / 'epoch_2.pth'
    script = tools.root / 'tools' / 'export_student.py'
    tools.run_python(script, tmp_path / 'distill.py', file, tmp_path / 'out', cwd=tmp_path)
    exported = tmp_path / 'out' / 'student.pth'
    assert exported.stat().st_size < file.stat().st_size / 2  # no optimiser, no extras
    cfg = Config.fromfile(tmp_path / 'out' / 'distill.py')
    assert 'mmkd_fm' not in cfg.pretty_text
    assert_same(boxes(cfg, exported, image), boxes(plain_config(), file, image))


def test_averaging_includes_the_flow(any_nfe, tools):
    saved = tools.load(any_nfe.file)
    averaged = {key[len('module.') :]: v for key, v in saved['ema_state_dict'].items()}
    flow = [key for key in saved['state_dict'] if key.startswith('neck.flows.')]
    assert len(flow) > 10
    moving = [key for key in flow if key.endswith('weight') and 'norm' not in key]
    assert any(not torch.equal(saved['state_dict'][key], averaged[key]) for key in moving)


def test_steps_need_a_flow(distilled, tools, tmp_path):
    distilled.cfg.dump(tmp_path / 'distill.py')
    code, output = tools.run_python(
        tools.root / 'tools' / 'test.py',
        tmp_path / 'distill.py',
        distilled.work_dir / 'epoch_2.pth',
        '--nfe',
        1,
        cwd=tmp_path,
        check=False,
    )
    assert code != 0 and 'Traceback' not in output
    assert 'error: the student has no FlowNeck, so it costs the same whatever --nfe' in output


@pytest.mark.parametrize('lacks', ['flow', 'width'])
def test_a_checkpoint_of_another_student_is_not_swept(any_nfe, plain, tools, tmp_path, lacks):
    file = plain.work_dir / 'epoch_1.pth'
    if lacks == 'width':
        state = tools.load(any_nfe.file)['state_dict']
        narrow = next(key for key in state if key.startswith('neck.flows.'))
        state[narrow] = state[narrow][:-1]
        file = tmp_path / 'narrow.pth'
        torch.save(dict(state_dict=state), file)
    code, output = tools.run_python(
        tools.root / 'tools' / 'test.py',
        any_nfe.config,
        file,
        *('--nfe', 0, 1, '--work-dir', tmp_path),
        cwd=any_nfe.folder,
        check=False,
    )
    assert code != 0 and 'Traceback' not in output
    assert 'of another student, say without this flow' in ' '.join(output.split())
    assert not (tmp_path / 'nfe.json').exists()


def test_a_plain_checkpoint_starts_a_flow_student(
    distill_config, plain, make_runner, tmp_path, tools
):
    file = plain.work_dir / 'epoch_1.pth'
    runner = make_runner(
        distill_config(losses='any-nfe'),
        tmp_path,
        load_from=str(file),
        **{'optim_wrapper.optimizer.lr': 0.0},
    )
    runner.train()
    expected, got = tools.load(file)['state_dict'], runner.model.state_dict()
    for key, value in expected.items():
        if 'running' not in key and 'num_batches' not in key:
            key = key.replace('neck.', 'neck.neck.', 1) if key.startswith('neck.') else key
            assert torch.equal(got[key], value), key


def test_the_student_with_a_flow_trains_without_a_teacher(distill_config, train, tmp_path, tools):
    cfg = flowed(distill_config(losses='any-nfe'), 1)
    cfg.model.neck.flow.num_steps = [1, 2]
    work_dir = train(cfg, tmp_path)
    weights = tools.load(work_dir / 'epoch_1.pth')['state_dict']
    assert weights['neck.flows.0.meta_encoder.conv2.weight'].abs().max() > 0  # from zero


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--nfe', '--help'], 'AP against latency'),
        (['any.py', 'absent.pth', '--nfe'], "there is no checkpoint 'absent.pth'"),
        (['any.py', 'run/epoch_2.pth', '--nfe', '-1'], '0 or more, but got -1'),
    ],
)
def test_the_sweep_explains_its_arguments(any_nfe, tools, arguments, message):
    script = tools.root / 'tools' / 'test.py'
    _, output = tools.run_python(script, *arguments, cwd=any_nfe.folder, check=False)
    assert message in ' '.join(output.split())
