"""A plain config becomes a distillation by arguments of the command line."""

import copy
import errno
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import mm_tool
import one_line
from mmkd_fm.models.teacher import FrozenTeacher

RUNTIME = dict(
    default_scope='mmdet',
    default_hooks=dict(logger=dict(type='LoggerHook', interval=7)),
    custom_hooks=[dict(type='EMAHook'), dict(type='PipelineSwitchHook', switch_epoch=3)],
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
)


@pytest.fixture
def files(retinanet, write_teacher, tmp_path):
    """Config of a student, config and checkpoint of a teacher, and where to write, as strings."""
    Config(dict(RUNTIME, model=retinanet())).dump(tmp_path / 'small.py')
    teacher = write_teacher(retinanet(width=12, channels=24))
    Config(teacher['config']).dump(tmp_path / 'large.py')
    return dict(
        student=str(tmp_path / 'small.py'),
        teacher=str(tmp_path / 'large.py'),
        checkpoint=teacher['checkpoint'],
        work_dir=str(tmp_path / 'out'),
    )


@pytest.fixture
def run(files):
    """The arguments that the tool is given, and the written config: `run(*more, teacher=True)`."""

    def make(*more, teacher=True):
        named = ['--teacher', files['teacher'], '--teacher-checkpoint', files['checkpoint']]
        arguments = [files['student'], '--work-dir', files['work_dir'], *named * teacher, *more]
        result = one_line.with_resolved_config(arguments)
        path = next(argument for argument in result if argument.endswith('.py'))
        return result, Config.fromfile(path)

    return make


def without_the_run(cfg):
    return {k: v for k, v in cfg.items() if k not in ('model', 'work_dir', 'default_hooks')}


def test_only_the_model_and_our_hooks_are_added(run, files):
    arguments, cfg = run('--amp', '--launcher', 'none', '--resume')
    path = f'{files["work_dir"]}/small_distilled.py'
    kept = ['--amp', '--launcher', 'none', '--resume']
    assert arguments == [path, *kept, '--work-dir', files['work_dir']]
    plain = Config.fromfile(files['student'])
    assert cfg.model.student == plain.model
    assert without_the_run(cfg) == without_the_run(plain)
    assert cfg.custom_hooks == RUNTIME['custom_hooks']
    hooks = {name: hook.type for name, hook in cfg.default_hooks.items()}
    assert hooks == dict(
        logger='LoggerHook',
        distill_state='mmkd_fm.DistillStateHook',
        distill_clip='mmkd_fm.ClipApartHook',
        distill_data='mmkd_fm.DataCheckHook',
    )
    assert cfg.work_dir == files['work_dir']
    assert list(cfg.model.losses) == ['fmkt']  # the default


def test_the_written_config_needs_no_other_file(run, files):
    teacher = Config.fromfile(files['teacher'])
    cfg = run('--distill', 'fmkt', 'wttm')[1]
    assert list(cfg.model.losses) == ['fmkt', 'wttm']
    assert cfg.model.teacher.config.model == teacher.model
    assert cfg.model.teacher.checkpoint == files['checkpoint']
    FrozenTeacher(**cfg.model.teacher).load('cpu')


def test_a_relative_checkpoint_is_made_absolute(run, files, monkeypatch, tmp_path):
    (tmp_path / 'weights.pth').write_bytes(b'')
    monkeypatch.chdir(tmp_path)
    cfg = run('--teacher-checkpoint', 'weights.pth')[1]
    assert cfg.model.teacher.checkpoint == str(tmp_path / 'weights.pth')


def test_a_teacher_of_the_zoo_has_published_weights(files):
    zoo = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    cfg = one_line.resolve(files['student'], zoo, names=['pkd'])
    assert cfg.model.teacher.config == zoo
    assert cfg.model.teacher.checkpoint.startswith('https://download.openmmlab.com/')


def test_a_student_of_the_zoo_by_its_name(files):
    cfg = one_line.resolve('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', files['teacher'])
    assert cfg.model.student.backbone.depth == 18


def test_options_are_of_the_resolved_config(run):
    options = ('model.losses.fmkt.loss_weight=2', 'model.student.neck.num_outs=4', 'x.y=1')
    arguments, cfg = run('--cfg-options', *options)
    assert '--cfg-options' not in arguments
    assert (cfg.model.losses.fmkt.loss_weight, cfg.model.student.neck.num_outs) == (2, 4)
    assert cfg.x.y == 1


@pytest.mark.parametrize(
    ('outs', 'levels'), [(5, [0, 1, 2, 3]), (3, [0, 1, 2])], ids=['as by default', 'fewer']
)
def test_levels_fit_the_student(outs, levels, run):
    option = f'model.student.neck.num_outs={outs}'
    losses = run('--distill', 'fmkt', 'pkd', '--cfg-options', option)[1].model.losses
    assert losses.fmkt.levels == losses.pkd.levels == levels


def test_levels_fit_the_teacher(run, files):
    teacher = Config.fromfile(files['teacher'])
    teacher.model.neck.update(start_level=0, add_extra_convs=False, num_outs=4)  # strides 4 to 32
    teacher.dump(files['teacher'])
    assert run()[1].model.losses.fmkt.levels == [0, 1, 2]
    mine = 'model.losses.fmkt.levels=[1,2]'
    assert run('--cfg-options', mine)[1].model.losses.fmkt.levels == [1, 2]
    of_logits = ['--distill', 'wttm', '--cfg-options', 'model.losses.wttm.levels=[1,2]']
    assert run(*of_logits)[1].model.losses.wttm.levels == [1, 2]  # which has none by default


def test_pyramids_without_a_common_stride(run, files):
    teacher = Config.fromfile(files['teacher'])
    teacher.model.neck.update(start_level=0, end_level=0, num_outs=1)  # stride 4 alone
    teacher.dump(files['teacher'])
    with pytest.raises(SystemExit, match='error: losses.fmkt: the pyramids do not fit'):
        run()


def test_the_teacher_s_imports_come_along(run, files, tmp_path, monkeypatch):
    (tmp_path / 'my_teacher_code.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    teacher = Config.fromfile(files['teacher'])
    teacher.custom_imports = dict(imports=['my_teacher_code'])
    teacher.dump(files['teacher'])
    assert run()[1].custom_imports == dict(imports=['my_teacher_code'])


def test_a_hook_checks_the_teacher(run, files):
    cfg = run('--check-teacher', '50')[1]
    assert cfg.default_hooks.distill_teacher == dict(type='mmkd_fm.TeacherCheckHook', num_images=50)
    written = copy.deepcopy(cfg)
    written.dump(files['student'])  # a distillation's own config
    options = ['default_hooks.distill_teacher.type=mmkd_fm.TeacherCheckHook']
    options.append('default_hooks.distill_teacher.num_images=8')
    arguments = [files['student'], '--check-teacher', '8', '--amp']
    expected = [files['student'], '--amp', '--cfg-options', *options]
    assert one_line.with_resolved_config(arguments) == expected


def test_other_arguments_are_left_alone(files):
    arguments = [files['student'], '--resume', '--cfg-options', 'a=1', 'b=[2,3]']
    assert one_line.with_resolved_config(arguments) == arguments


def test_the_config_that_a_training_left_is_not_trained_over(files, monkeypatch, tmp_path):
    """It says where the plain student's checkpoints are, and perhaps to resume from one."""
    monkeypatch.chdir(tmp_path)
    left = Config.fromfile(files['student'])
    left.merge_from_dict(dict(work_dir=str(tmp_path), resume=True, load_from='epoch_9.pth'))
    left.dump(tmp_path / 'left.py')
    teacher = ['--teacher', files['teacher'], '--teacher-checkpoint', files['checkpoint']]

    def resolved(*more):
        arguments = one_line.with_resolved_config([str(tmp_path / 'left.py'), *teacher, *more])
        return arguments[-1], Config.fromfile(arguments[0])

    folder, cfg = resolved('--distill', 'pkd')
    assert folder == cfg.work_dir == str(tmp_path / 'work_dirs' / 'left_distilled_from_large_pkd')
    assert not cfg.resume and cfg.load_from is None
    folder, cfg = resolved('--cfg-options', f'work_dir={tmp_path}/asked', 'load_from=start.pth')
    assert folder == cfg.work_dir == str(tmp_path / 'asked')
    assert not cfg.resume and cfg.load_from == 'start.pth'


def test_each_choice_of_methods_has_its_work_dir(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    teacher = ['--teacher', files['teacher'], '--teacher-checkpoint', files['checkpoint']]

    def folder(*names):
        arguments = [files['student'], *teacher, '--distill', *names]
        return one_line.with_resolved_config(arguments)[-1]

    work_dirs = str(tmp_path / 'work_dirs' / 'small_distilled_from_large_')
    assert folder('pkd') == f'{work_dirs}pkd'
    assert folder('fmkt', 'wttm') == f'{work_dirs}fmkt_wttm'


def test_a_disk_that_is_full_is_told_and_nothing_is_left(run, files, monkeypatch, capsys):
    def write(path, text, **_):
        path.touch()
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', write)
    with pytest.raises(SystemExit) as stop:
        run('--distill', 'pkd')
    said = f'{stop.value}{capsys.readouterr().err}'
    assert 'can not be written: [Errno 28] No space left' in said and '--work-dir' in said
    assert list(Path(files['work_dir']).iterdir()) == []


def test_weights_that_the_student_starts_from_are_said(run, files, capsys):
    cfg = Config.fromfile(files['student'])
    cfg.load_from = 'start.pth'
    cfg.dump(files['student'])
    assert run('--distill', 'pkd')[1].load_from == 'start.pth'
    assert 'the student starts from load_from=start.pth' in capsys.readouterr().out


def test_only_what_was_trained_is_resumed(run, tmp_path):
    """Nothing is written where another method is asked for."""
    path = Path(run('--distill', 'pkd')[0][0])
    run('--distill', 'cwd', '--resume')  # nothing was saved yet
    run('--distill', 'pkd', '--resume', '--cfg-options', 'model.losses.pkd.loss_weight=2.0')
    text = path.read_text()
    saved = path.parent / 'epoch_1.pth'
    torch.save(dict(state_dict={}, distill_state=dict(terms=['pkd'])), saved)
    (path.parent / 'last_checkpoint').write_text(str(saved))
    for more in (['--distill', 'cwd', '--resume'], ['--distill', 'cwd', '--resume', str(saved)]):
        with pytest.raises(SystemExit, match='was trained with pkd, not with cwd'):
            run(*more)
    assert path.read_text() == text
    run('--distill', 'pkd', '--resume')


def test_no_images_to_check_the_teacher_on(run, capsys):
    with pytest.raises(SystemExit):
        run('--distill', 'pkd', '--check-teacher', '0')
    assert "expected a number of images, 1 or more, got '0'" in capsys.readouterr().err


@pytest.mark.parametrize(('chosen', 'scheduled'), [('wttm', None), ('fmkt', ['fmkt'])])
def test_schedules_go_with_their_terms(chosen, scheduled):
    names = [f'mmpretrain::resnet/resnet{depth}_8xb32_in1k.py' for depth in (18, 34)]
    cfg = one_line.resolve(names[0], names[1], None, [chosen], None)
    assert list(cfg.model.losses) == [chosen]
    hook = cfg.default_hooks.get('weights')
    assert (hook and list(hook.schedules)) == scheduled


BAD = {
    'method': (['--distill', 'fmtk'], r"unknown method 'fmtk'; valid names .*: fmkt, pkd, cwd"),
    'order': (['--distill', 'x.py'], r'the config stands before --distill'),
    'option': (
        ['--cfg-options', 'model.backbone.depth=34'],
        r'model.backbone.depth: the model is the Distiller.* write model.student.backbone.depth',
    ),
    'short': (['--work', 'elsewhere'], r'--work is short for --work-dir; write it out'),
    'short, with a value': (['--res=x.pth'], r'--res is short for --resume; write it out'),
    'misspelt': (
        ['--teacher-chekpoint=x.pth'],
        r'unrecognized option --teacher-chekpoint; did you mean --teacher-checkpoint\?',
    ),
    'weight': (
        ['--distill', 'wttm', '--cfg-options', 'model.losses.wttm.loss_weight=-1'],
        r'losses.wttm.loss_weight: expected a finite number of at least 0, got -1',
    ),
    'loss': (['--cfg-options', 'model.losses.fmkt=3'], r'losses.fmkt: expected a dict, .*, got 3'),
    'levels': (
        ['--cfg-options', 'model.losses.fmkt.levels=0'],
        r'losses.fmkt: levels=0: expected a list of indices, such as \[0, 1\]',
    ),
    'tap': (
        ['--cfg-options', 'model.losses.fmkt.tap=bbox_head.retina_cls'],
        r'called 5 times in one forward',
    ),
    'checkpoint': (['--teacher-checkpoint', 'no.pth'], r"'no.pth' does not exist; give"),
    'teacher': (['--teacher', 'no.py'], r"there is no config file 'no.py'"),
    'package': (['--teacher', 'nopkg::x.py'], "'nopkg::x.py': expected a name of mmdet or mmpretr"),
    'zoo': (['--teacher', 'mmdet::retinanet/no.py'], r"there is no config 'mmdet::retinanet/no.py"),
}


def test_options_of_a_term_are_given_by_cfg_options(run):
    options = ['model.losses.wttm.anchors=max', 'model.losses.wttm.class_map=[0,2,1]']
    wttm = run('--distill', 'wttm', '--cfg-options', options[0])[1].model.losses.wttm
    assert wttm.anchors == 'max'
    wttm = run('--distill', 'wttm', '--cfg-options', options[1])[1].model.losses.wttm
    assert wttm.class_map == [0, 2, 1]


@pytest.mark.parametrize('case', BAD)
def test_errors_name_the_remedy(case, run):
    more, message = BAD[case]
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        run(*more)


def test_no_teacher(run):
    with pytest.raises(SystemExit, match='--distill needs a teacher: --teacher CONFIG, a file or'):
        run('--distill', 'fmkt', teacher=False)


def test_no_config(files):
    with pytest.raises(SystemExit, match="expected the student's config before --teacher"):
        one_line.with_resolved_config(['--teacher', files['teacher']])


def test_a_distillation_s_config_is_no_student(run, files):
    run()[1].dump(files['student'])
    with pytest.raises(SystemExit, match="is a distillation's config already: run it without"):
        run()


def test_a_loss_that_does_not_fit_says_so(run, gfl, write_teacher, files):
    Config(write_teacher(gfl())['config']).dump(files['teacher'])
    with pytest.raises(
        SystemExit, match=r'error: losses.wttm: WTTMLoss compares .* distil features'
    ):
        run('--distill', 'fmkt', 'wttm')


def test_a_teacher_without_published_weights_needs_a_file(files):
    base = 'mmdet::_base_/models/retinanet_r50_fpn.py'
    arguments = [files['student'], '--work-dir', files['work_dir'], '--teacher', base]
    with pytest.raises(SystemExit, match='no published checkpoint of .*give --teacher-checkpoint'):
        one_line.with_resolved_config(arguments)


def test_help_names_the_methods(capsys):
    assert one_line.with_resolved_config(['--help']) == ['--help']
    shown = ' '.join(capsys.readouterr().out.split())
    for text in ('--teacher', '--teacher-checkpoint', '--check-teacher', 'fmkt (default)', 'wttm'):
        assert text in shown


def test_paths_are_added_once(monkeypatch):
    monkeypatch.setattr(sys, 'path', ['script', 'other'])
    mm_tool.make_importable()
    mm_tool.make_importable()
    assert sys.path == [str(mm_tool.ROOT), str(mm_tool.ROOT / 'tools'), 'other']


def test_numbers_that_python_has_no_name_for(run, files):
    plain = Config.fromfile(files['student'])
    clip = dict(error_if=-float('inf'), max_norm=float('inf'), of=[float('nan'), 'inf or nan'])
    plain.optim_wrapper.clip_grad = clip
    Path(files['student']).write_text(one_line._readable(plain.pretty_text))
    written = run()[1].optim_wrapper.clip_grad
    assert str(dict(written)) == str(clip)


def test_options_of_the_tool_may_be_short_where_nothing_is_distilled(files):
    arguments = [files['student'], '--work', 'elsewhere']
    assert one_line.with_resolved_config(arguments) == arguments
