"""Pictures of a flow: its numbers against the transport itself, its maps, and its errors."""

import copy
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.visualization.vis_backend import TensorboardVisBackend
from torch import nn

import visualize_flow
import visualize_flow_figure as figure
import visualize_flow_trace as trace
from mmkd_fm.functional import get_schedule, mse_loss, pkd_loss, transport
from mmkd_fm.registry import MODELS

STEPS = 4
HEIGHT, WIDTH = 72, 96  # padded to 96 x 96
KINDS = {
    'own': dict(),
    'neck': dict(flow='neck', theta_weight=0),
    'velocity': dict(
        objective=dict(type='mmkd_fm.VelocityMatching'), metric=dict(type='mmkd_fm.MSELoss')
    ),
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory, retinanet, write_teacher):
    """Folder with KIND.py and KIND.pth, as training writes them, of each kind, and image.png."""
    folder = tmp_path_factory.mktemp('trained')
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / 'image.png'), cv2.GaussianBlur(pixels, (9, 9), 0))
    teacher = write_teacher(retinanet(width=12, channels=24))
    for name, fmkt in KINDS.items():
        student = copy.deepcopy(retinanet())
        if name == 'neck':
            student.neck = dict(type='mmkd_fm.FlowNeck', neck=student.neck, levels=[0, 1, 2])
        else:
            fmkt = dict(fmkt, levels=[0, 1, 2])
        losses = dict(
            pkd=dict(type='mmkd_fm.PKDLoss', tap='neck'),
            fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', **fmkt),
        )
        model = dict(type='mmkd_fm.Distiller', student=student, teacher=teacher, losses=losses)
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True),
            dict(type='PackDetInputs'),
        ]
        loader = dict(dataset=dict(pipeline=pipeline))
        cfg = Config(dict(model=model, test_dataloader=loader, default_scope='mmdet'))
        cfg.dump(folder / f'{name}.py')
        torch.manual_seed(0)
        built = MODELS.build(cfg.model)
        for parameter_name, parameter in built.named_parameters():
            if 'meta_encoder' in parameter_name:  # away from the zero velocity of the beginning
                nn.init.normal_(parameter, std=0.2)
        state = dict(extras=built.distill_losses.state_dict(), averaged_extras={})
        torch.save(
            dict(state_dict=built.state_dict(), meta={}, distill_state=state),
            folder / f'{name}.pth',
        )
    return folder


def run(folder, name, *options, checkpoint=None, image='image.png'):
    return visualize_flow.main(
        [
            str(folder / f'{name}.py'),
            str(checkpoint or folder / f'{name}.pth'),
            str(folder / image),
            '--device=cpu',
            *options,
        ]
    )


def load(folder, name):
    cfg = Config.fromfile(folder / f'{name}.py')
    model, loss_name = trace.load_distiller(cfg, str(folder / f'{name}.pth'), None, None, 'cpu')
    assert loss_name == 'fmkt'
    return model, trace.read_image(cfg, str(folder / 'image.png'))


@torch.no_grad()
def expected_flow(folder, kind, level, num_steps):
    """X^S, X^T and the transport between them, from the networks and the formula alone."""
    model, data = load(folder, kind)
    batch = model.data_preprocessor(dict(inputs=[data['inputs']], data_samples=None), False)
    features = model.student.backbone(batch['inputs'])
    neck, loss = model.student.neck, model.distill_losses.fmkt
    x = (neck.neck if kind == 'neck' else neck)(features)[level]
    teacher = model.teacher.model
    target = teacher.neck(teacher.backbone(batch['inputs']))[level]
    flow = (neck if kind == 'neck' else loss).flows[str(level)]
    objective = loss.objectives[level]
    run = transport(x, lambda z, t: flow.meta_encoder(z, flow.time_embedding(t, z)), num_steps)
    if kind == 'velocity':
        return x, objective.teacher_map(target), run, nn.Identity()
    return x, target, run, objective.decode


def test_a_teacher_s_further_padding_is_cut(trained):
    _, data = load(trained, 'own')
    cfg = Config.fromfile(trained / 'own.py')
    cfg.model.teacher.config.model.data_preprocessor.pad_size_divisor = 128
    cfg.dump(trained / 'padded.py')
    padded, _ = trace.load_distiller(cfg, str(trained / 'own.pth'), None, None, 'cpu')
    for level in trace.trace_flow(padded, 'fmkt', data, STEPS):
        size = level.maps['student'].shape[-2:]
        assert level.maps['teacher'].shape[-2:] == size
        pixels = padded.teacher.view([data['inputs']])
        maps = padded.teacher.model.neck(padded.teacher.model.backbone(pixels))[level.level]
        assert maps.shape[-1] > size[-1]
        torch.testing.assert_close(level.maps['teacher'], maps[..., : size[0], : size[1]])


@pytest.mark.parametrize('kind', KINDS)
def test_the_numbers_are_those_of_the_transport(trained, kind, tmp_path, capsys):
    options = ['--steps', str(STEPS), '--level', '0', '2', '--out-dir', str(tmp_path)]
    assert run(trained, kind, *options) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / 'image.json').read_text())
    name, metric = ('MSELoss', mse_loss) if kind == 'velocity' else ('PKDLoss', pkd_loss)
    assert (report['metric'], report['steps'], report['loss']) == (name, STEPS, 'fmkt')
    assert [(level['level'], level['name']) for level in report['levels']] == [(0, 'P3'), (2, 'P5')]
    for level in report['levels']:
        x, target, flow, decode = expected_flow(trained, kind, level['level'], STEPS)
        means = [flow.estimates[: k + 1].mean(0) for k in range(STEPS)]
        states = [x - flow.velocities[: k + 1].sum(0) / STEPS for k in range(STEPS)]
        maps = dict(student=[x], estimates=flow.estimates, means=means, states=states)
        assert set(level['distances']) == set(maps)
        for key, distances in level['distances'].items():
            expected = [metric(decode(one), target).item() for one in maps[key]]
            assert distances == pytest.approx(expected, rel=1e-4), key
            assert f'{distances[-1]:.4f}' in printed or key == 'states'
        change = metric(decode(flow.endpoint), decode(x)).item()
        assert level['change'] == pytest.approx(change, rel=1e-3)
        assert change > 1e-3  # there was a flow to see
        assert level['times'] == [1, 0.75, 0.5, 0.25]
    # the picture, and what the backends were given
    picture = cv2.imread(str(tmp_path / 'image.png'))
    published = cv2.imread(str(tmp_path / 'vis_data/vis_image/flow_image_0.png'))
    np.testing.assert_array_equal(picture, published)
    scalars = [json.loads(s) for s in (tmp_path / 'vis_data/scalars.json').read_text().splitlines()]
    assert [row['step'] for row in scalars] == list(range(STEPS + 1))
    for level in report['levels']:
        passed_on = level['distances']['student'] + level['distances']['means']
        assert [row[f'flow_image/{level["name"]}'] for row in scalars] == passed_on


@pytest.mark.parametrize('kind', KINDS)
def test_the_last_mean_is_the_endpoint_and_where_the_steps_end(trained, kind):
    model, data = load(trained, kind)
    for flow in trace.trace_flow(model, 'fmkt', data, STEPS):
        _, target, run, decode = expected_flow(trained, kind, flow.level, STEPS)
        near = dict(rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(flow.maps['means'][-1], decode(run.endpoint)[0], **near)
        torch.testing.assert_close(flow.maps['states'][-1], flow.maps['means'][-1], **near)
        torch.testing.assert_close(flow.maps['teacher'], target, **near)
        assert flow.ends == [0.75, 0.5, 0.25, 0]


def test_midpoint_follows_the_path_more_closely_than_euler(trained):
    model, data = load(trained, 'own')

    def ends(*settings):
        return trace.trace_flow(model, 'fmkt', data, *settings, levels=[0])[0].maps['states'][-1]

    fine = ends(64, 'euler')
    assert (ends(4, 'midpoint') - fine).norm() < 0.5 * (ends(4, 'euler') - fine).norm()


def test_averaged_weights_come_with_their_averaged_flows(trained, tmp_path):
    """With EMA the checkpoint's student is the averaged one."""
    loaded = torch.load(trained / 'own.pth')
    state = loaded['distill_state']
    state['averaged_extras'] = {'EMAHook': {k: v + 1 for k, v in state['extras'].items()}}
    torch.save(loaded, tmp_path / 'own.pth')
    (tmp_path / 'own.py').write_text((trained / 'own.py').read_text())
    (tmp_path / 'image.png').write_bytes((trained / 'image.png').read_bytes())
    model, _ = load(tmp_path, 'own')
    for name, value in model.distill_losses.fmkt.state_dict().items():
        torch.testing.assert_close(value, state['extras'][f'fmkt.{name}'] + 1)


@torch.no_grad()
def test_states_of_a_schedule_that_starts_later(trained):
    """VP is singular at t = 1: its steps are shorter, and do not end in the mean estimate."""
    model, data = load(trained, 'own')
    flow, objective = model.distill_losses.fmkt.flows['0'], model.distill_losses.fmkt.objectives[0]
    flow.schedule = get_schedule('vp')
    traced = trace.trace_flow(model, 'fmkt', data, STEPS, levels=[0])[0]
    x, *_ = expected_flow(trained, 'own', 0, STEPS)
    z, step = x, (1 - 0.5 / STEPS) / STEPS
    for k in range(STEPS):
        t = torch.tensor([(STEPS - k) * step])
        residual = flow.meta_encoder(z, flow.time_embedding(t, z))
        z = z - step * flow.schedule.residual_velocity(x, residual, t)
        torch.testing.assert_close(
            traced.maps['states'][k], objective.decode(z)[0], rtol=1e-4, atol=1e-5
        )
    assert not torch.allclose(traced.maps['states'][-1], traced.maps['means'][-1], atol=1e-2)


def level_flow(student, teacher, steps=1, stride=8):
    """A LevelFlow of which student and teacher are given, (C, H, W)."""
    maps = dict(student=student[None], teacher=teacher[None])
    maps.update({key: student[None].repeat(steps, 1, 1, 1) for key in figure.CURVES})
    distances = {key: [0.25] * len(value) for key, value in maps.items()}
    times = [1 - k / steps for k in range(steps)]
    return trace.LevelFlow(0, stride, times, maps, distances, 0.0)


def test_the_student_s_preprocessor_at_the_top_of_the_config(trained):
    cfg = Config.fromfile(trained / 'own.py')
    before = trace.load_distiller(cfg, str(trained / 'own.pth'), None, None, 'cpu')[0]
    cfg.data_preprocessor = cfg.model.student.pop('data_preprocessor')
    model = trace.load_distiller(cfg, str(trained / 'own.pth'), None, None, 'cpu')[0]
    batch = dict(inputs=[torch.full((3, 64, 64), 99, dtype=torch.uint8)], data_samples=None)
    expected = before.student.data_preprocessor(batch, False)['inputs']
    assert torch.equal(model.student.data_preprocessor(batch, False)['inputs'], expected)
    assert expected.abs().max() < 3  # normalised


def test_a_config_without_a_scope(trained, tmp_path):
    options = ('--steps', '1', '--out-dir', str(tmp_path), '--cfg-options', 'default_scope=None')
    assert run(trained, 'own', *options) == 0


def test_an_image_is_not_replaced_by_its_picture(trained, capsys):
    before = (trained / 'image.png').read_bytes()
    assert run(trained, 'own', '--steps', '1', '--out-dir', str(trained)) == 1
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'image.png is an image that is read; choose another --out-dir' in shown
    assert (trained / 'image.png').read_bytes() == before


def test_images_of_floats_are_drawn_as_those_of_bytes(trained, tmp_path, monkeypatch):
    drawn, draw_flow = [], visualize_flow.draw_flow

    def keep(image, *args):
        drawn.append(image)
        return draw_flow(image, *args)

    monkeypatch.setattr(visualize_flow, 'draw_flow', keep)
    shutil.copy(trained / 'own.pth', tmp_path)
    shutil.copy(trained / 'image.png', tmp_path)
    for to_float32 in (False, True):
        cfg = Config.fromfile(trained / 'own.py')
        cfg.test_dataloader.dataset.pipeline[0].to_float32 = to_float32
        cfg.dump(tmp_path / 'own.py')
        assert run(tmp_path, 'own', '--steps', '1', '--out-dir', str(tmp_path / 'out')) == 0
    of_bytes, of_floats = drawn
    assert of_bytes.dtype == of_floats.dtype == np.uint8
    np.testing.assert_allclose(of_bytes.astype(int), of_floats.astype(int), atol=1)


def test_a_teacher_that_sees_the_image_larger_is_shown_whole():
    torch.manual_seed(0)
    pictures = figure.colour(level_flow(torch.randn(4, 8, 8), torch.randn(4, 12, 12)), (48, 64))
    assert pictures['student'].shape[1:3] == (6, 8) and pictures['teacher'].shape[1:3] == (9, 12)


@pytest.mark.parametrize('channels', [1, 2, 16])
def test_colours_ignore_scale_and_shift_and_leave_out_the_padding(channels):
    torch.manual_seed(0)
    teacher = torch.randn(channels, 6, 8)
    scale, shift = torch.rand(channels, 1, 1) + 0.1, torch.randn(channels, 1, 1)
    pictures = figure.colour(level_flow(scale * teacher + shift, teacher), (33, 61))
    assert pictures['teacher'].shape == (1, 5, 8, 3)  # rows and columns of which a part is image
    np.testing.assert_allclose(pictures['student'], pictures['teacher'], atol=1e-4)
    np.testing.assert_allclose(pictures['change'], 0, atol=1e-6)
    assert pictures['teacher'][..., :channels].std((0, 1, 2)).min() > 0.1
    np.testing.assert_array_equal(pictures['teacher'][..., channels:], 0.5)


def test_the_first_colour_is_the_first_principal_component():
    """A map that varies along one direction only varies in red only."""
    ramp = torch.linspace(-1, 1, 48).view(1, 6, 8)
    teacher = ramp.repeat(4, 1, 1) + 1e-3 * torch.randn(4, 6, 8)
    red = figure.colour(level_flow(teacher, teacher), (48, 64))['teacher'][0, ..., 0].ravel()
    assert np.corrcoef(red, ramp.ravel())[0, 1] > 0.999


@pytest.mark.parametrize('shape', [(60, 90), (400, 40), (40, 400)])
@pytest.mark.parametrize('steps, columns', [(1, 6), (4, 9), (8, 13), (20, 13)])
def test_panels(steps, columns, shape):
    torch.manual_seed(0)
    size = [side // 8 for side in shape]
    flows = [level_flow(torch.randn(4, *size), torch.randn(4, *size), steps) for _ in range(2)]
    drawn = figure.draw_flow(np.zeros((*shape, 3), np.uint8), flows, 'title', 'estimates')
    *maps, panel = drawn.axes
    assert len(maps) == 2 * columns
    assert [len(axes.images) for axes in maps] == [1] * len(maps)
    captions = [axes.get_xlabel() for axes in maps[:columns]]
    assert captions == ['P3, stride 8', *['0.2500'] * (columns - 3), '', '0.0000']
    assert maps[2].get_title() == 'estimate\nt = 1'  # the first step is shown, and the last
    assert maps[columns - 4].get_title() == f'estimate\nt = {1 / steps:.3g}'
    curves = [line.get_ydata() for line in panel.lines[:6]]
    assert [len(curve) for curve in curves] == 2 * [steps, steps, steps + 1]
    np.testing.assert_allclose(np.concatenate(curves), 100)  # all as far as the student
    width, height = drawn.canvas.get_width_height()
    assert width <= 1800 and height <= 1800
    renderer = drawn.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer).padded(-1) for axes in drawn.axes]  # with all text
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    'kind, lacking', [('own', 'flows of losses.fmkt'), ('neck', 'maps to the channels')]
)
def test_an_exported_student_is_refused(trained, kind, lacking, tmp_path, capsys):
    loaded = torch.load(trained / f'{kind}.pth')
    del loaded['distill_state']
    torch.save(loaded, tmp_path / 'exported.pth')
    assert run(trained, kind, checkpoint=tmp_path / 'exported.pth') == 1
    said = ' '.join(capsys.readouterr().out.split())
    assert lacking in said and 'epoch_N.pth' in said


WRONG = {
    'no image': (dict(image='none.jpg'), 'there is no image'),
    'no picture': (dict(image='own.py'), 'can not be read'),
    'no level': (
        dict(options=['--level', '1', '3']),
        'level 3 has no flow; valid levels: [0, 1, 2]',
    ),
    'no such loss': (
        dict(options=['--loss', 'wttm']),
        'fmkt (FMKTLoss), pkd (PKDLoss); valid names: fmkt',
    ),
    'another loss': (dict(options=['--loss', 'pkd']), "FMKTLoss named 'pkd'"),
    'no FMKTLoss': (
        dict(options=['--cfg-options', 'model.losses.fmkt.loss_weight=0']),
        'expected an FMKTLoss, but the losses of the config (without those of weight 0) are: pkd',
    ),
    'no Distiller': (
        dict(options=['--cfg-options', 'model.type=RetinaNet']),
        "expected a config with model.type mmkd_fm.Distiller, got 'RetinaNet'",
    ),
    'no checkpoint': (dict(checkpoint='none.pth'), 'none.pth can not be found'),
    'another student': (
        dict(options=['--cfg-options', 'model.student.bbox_head.num_classes=7']),
        'does not fit the config; give the config and the --cfg-options of its training',
    ),
    'no teacher': (dict(options=['--teacher-checkpoint', 'none.pth']), "'none.pth' does not exist"),
    'no config': (dict(name='none'), 'there is no config file'),
}


@pytest.mark.parametrize('mistake', WRONG)
def test_mistakes_are_explained(trained, mistake, tmp_path, capsys):
    arguments, expected = copy.deepcopy(WRONG[mistake])
    options = ['--out-dir', str(tmp_path), *arguments.pop('options', [])]
    assert run(trained, arguments.pop('name', 'own'), *options, **arguments) == 1
    assert expected in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize('option', ['--steps=0', '--solver=rk4', '--show=all'])
def test_arguments_out_of_range_are_refused(trained, option):
    with pytest.raises(SystemExit) as exit_:
        run(trained, 'own', option)
    assert exit_.value.code == 2


def test_a_backend_that_is_not_installed_is_named(trained, tmp_path, monkeypatch, capsys):
    def init(self):
        raise ImportError('Please install tensorboard')

    monkeypatch.setattr(TensorboardVisBackend, '_init_env', init)
    cfg = Config.fromfile(trained / 'own.py')
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])
    cfg.dump(tmp_path / 'own.py')
    arguments = [str(tmp_path / 'own.py'), str(trained / 'own.pth'), str(trained / 'image.png')]
    assert visualize_flow.main([*arguments, '--device=cpu', '--out-dir', str(tmp_path)]) == 1
    said = ' '.join(capsys.readouterr().out.split())
    assert 'Please install tensorboard' in said and 'visualizer.vis_backends' in said
    assert (tmp_path / 'image.png').is_file()
