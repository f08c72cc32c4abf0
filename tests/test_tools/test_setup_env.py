import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import setup_env
import setup_mmcv
from setup_env import Plan
from setup_mmcv import Build
from setup_steps import SetupError, ask, progress, run_step

ROOT = Path(setup_env.__file__).parents[1]


def run_script(*args, env=None):
    command = [sys.executable, str(ROOT / 'tools' / 'setup_env.py'), *args]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(env or {})}
    )


# ------------------------------------------------------------------ what is chosen


@pytest.mark.parametrize(
    'python, torch',
    [((3, 9), '2.1.2'), ((3, 10), '2.1.2'), ((3, 11), '2.1.2'), ((3, 12), '2.13.0')],
)
def test_default_torch(python, torch):
    assert setup_env.python_problem(python) == ''
    assert setup_env.default_torch(python) == torch
    Plan(torch, python)  # is a set that exists


@pytest.mark.parametrize('python', [(3, 7), (3, 8), (3, 13)])
def test_a_python_outside_the_window_is_named_with_the_remedy(python):
    problem = setup_env.python_problem(python)
    assert f'expected Python 3.9 to 3.12, got {python[0]}.{python[1]}' in problem
    assert 'make env BASE_PYTHON=python3.' in problem


@pytest.mark.parametrize(
    'target, kept', [(None, False), ('no such file', False), (sys.executable, True)]
)
def test_make_keeps_the_python_of_an_environment(tmp_path, target, kept):
    """An environment made with BASE_PYTHON needs no BASE_PYTHON from then on."""
    if target is not None:
        (tmp_path / 'bin').mkdir()
        (tmp_path / 'bin/python').symlink_to(target)
    command = ['make', '-n', '--no-print-directory', 'env', f'VENV={tmp_path}']
    given = ('MAKEFLAGS', 'MAKEOVERRIDES', 'BASE_PYTHON', 'PYTHON', 'TORCH')  # of `make test`
    variables = {name: value for name, value in os.environ.items() if name not in given}
    for more, expected in [
        ([], f'{tmp_path}/bin/python' if kept else 'python3'),
        (['BASE_PYTHON=python3.10'], 'python3.10'),
    ]:
        printed = subprocess.run(
            command + more, cwd=ROOT, env=variables, capture_output=True, text=True, check=True
        )
        assert printed.stdout.split()[:2] == [expected, 'tools/setup_env.py'], printed.stdout


@pytest.mark.parametrize(
    'torch, python, message',
    [
        ('2.1.2', (3, 12), r'no wheels for Python 3\.12.*TORCH=2\.13\.0'),
        ('2.13.0', (3, 9), r'needs Python 3\.10.*TORCH=2\.1\.2'),
        ('1.13.1', (3, 9), r'expected torch 2\.1 or newer, got 1\.13\.1'),
        ('2.13', (3, 11), r"expected a whole torch version such as 2\.13\.0, got '2\.13'"),
    ],
)
def test_a_set_that_does_not_exist_is_refused(torch, python, message):
    with pytest.raises(SetupError, match=message):
        Plan(torch, python)


def test_old_torch_keeps_numpy_1():
    assert Plan('2.1.2', (3, 11)).torch_set == ('torch==2.1.2', 'numpy<2', 'opencv-python<4.12')
    assert Plan('2.13.0', (3, 11)).torch_set == ('torch==2.13.0', 'numpy', 'opencv-python')


@pytest.mark.parametrize('torch, vision', [('2.1.2', '0.16.2'), ('2.13.0+cpu', '0.28.0')])
def test_torchvision_belongs_to_torch(torch, vision):
    assert setup_env.torchvision_for(torch) == vision


def test_the_ruff_of_the_dev_extra_is_the_one_of_the_configuration():
    setup_py = (ROOT / 'setup.py').read_text()
    pyproject = (ROOT / 'pyproject.toml').read_text()
    version = pyproject.split('required-version = "==')[1].split('"')[0]
    assert f"'ruff=={version}'" in setup_py


def test_dry_run_prints_the_plan_and_changes_nothing(tmp_path):
    venv = tmp_path / 'venv'
    env = {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    result = run_script('--dry-run', '--venv', str(venv), '--torch', '2.4.1', env=env)
    assert result.returncode == 0, result.stderr
    for part in (
        str(venv),
        'torch==2.4.1',
        'torchvision==0.19.1',
        'setuptools>=64,<81',
        'mmcv2.1.0',
    ):
        assert part in result.stdout
    assert "OpenMMLab's wheel" not in result.stdout  # there is none for this torch
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_version_on_the_command_line_is_one_readable_line():
    result = run_script('--dry-run', '--torch', 'newest')
    assert result.returncode == 1
    assert "got 'newest'" in result.stderr and 'Traceback' not in result.stderr


# ------------------------------------------------------------------ when it is ready


@pytest.fixture
def venv(tmp_path):
    """A folder that answers like the environment in which the tests run."""
    (tmp_path / 'bin').mkdir()
    python = tmp_path / 'bin' / 'python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return tmp_path


def test_the_key_follows_all_that_the_environment_depends_on(tmp_path):
    setup_py = tmp_path / 'setup.py'
    setup_py.write_text('1')
    plan = Plan('2.1.2', (3, 11))
    key = plan.key(tmp_path, setup_py)
    assert key == plan.key(tmp_path, setup_py)
    others = [
        Plan('2.1.1', (3, 11)).key(tmp_path, setup_py),
        Plan('2.1.2', (3, 10)).key(tmp_path, setup_py),
        plan.key(tmp_path / 'elsewhere', setup_py),
    ]
    setup_py.write_text('2')
    others.append(plan.key(tmp_path, setup_py))
    assert len({key, *others}) == 5


def test_ready_means_the_same_key_and_unchanged_versions(venv, monkeypatch):
    monkeypatch.setattr(setup_env, 'WATCHED', ('torch', 'numpy', 'mmcv'))
    versions = setup_env.installed(venv)
    assert set(versions) == {'torch', 'numpy', 'mmcv'}
    assert not setup_env.is_ready(venv, 'key')  # never finished
    setup_env.stamp_file(venv).write_text(json.dumps({'key': 'key', 'versions': versions}))
    assert setup_env.is_ready(venv, 'key')
    assert not setup_env.is_ready(venv, 'another key')
    changed = {**versions, 'numpy': '1.0.0'}
    setup_env.stamp_file(venv).write_text(json.dumps({'key': 'key', 'versions': changed}))
    assert not setup_env.is_ready(venv, 'key')
    setup_env.stamp_file(venv).write_text('{"key":')  # cut off
    assert not setup_env.is_ready(venv, 'key')


def test_a_missing_package_is_not_ready(venv, monkeypatch):
    monkeypatch.setattr(setup_env, 'WATCHED', ('torch', 'no-such-distribution'))
    assert setup_env.installed(venv) is None
    assert setup_env.installed(venv / 'nowhere') is None


def test_files_in_the_temporary_folder_shadow_no_module(monkeypatch, tmp_path):
    (tmp_path / 'types.py').write_text('raise ImportError')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    answer = ask(Path(sys.executable), 'import pip, types; print(types.__file__)')
    assert answer.returncode == 0 and str(tmp_path) not in answer.stdout


def test_a_venv_of_another_python_is_left_alone(venv):
    with pytest.raises(SetupError, match=r'(?s)hold Python 3\.8 with pip, it holds 3\..*rm -r'):
        setup_env.make_venv(venv, (3, 8))
    assert (venv / 'bin' / 'python').exists()


@pytest.mark.parametrize('python', [None, 'nowhere'])
def test_a_folder_without_a_python_is_refused_with_the_remedy(tmp_path, python):
    venv = tmp_path / 'venv'
    (venv / 'bin').mkdir(parents=True)
    if python:
        (venv / 'bin' / 'python').symlink_to(tmp_path / python)
    result = run_script('--venv', str(venv))
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert (
        f'it holds none that starts and has pip.\n  Remove it and run this again: rm -r {venv}'
        in (result.stderr)
    )
    assert venv.exists()


def test_a_venv_that_can_not_be_made_says_why(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(
        SetupError, match=r'(?s)cannot make a virtual.*Not a directory.*apt install'
    ):
        setup_env.make_venv(tmp_path / 'file' / 'venv', sys.version_info[:2])


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_half_made_venv(tmp_path, number):
    venv = tmp_path / 'venv'
    script = str(ROOT / 'tools' / 'setup_env.py')
    process = subprocess.Popen(
        [sys.executable, script, '--venv', str(venv)],
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has it ignored, and so would the tool
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 30
        while not (venv / 'bin' / 'python').exists():  # pip follows, which takes seconds
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert 'interrupted' in process.communicate(timeout=60)[1]
    finally:
        process.terminate()  # else it would go on to install everything
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ torchvision


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """Asks the real pip for a torchvision that does not exist: `torchvision(*options of pip)`."""
    for name in [name for name in os.environ if name.startswith('PIP_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)

    def install(*options):
        pip = [sys.executable, '-m', 'pip', 'install', '--dry-run', *options]
        return setup_env.install_torchvision(Plan('2.99.0', (3, 11)), pip, tmp_path / 'log')

    return install


def test_a_torchvision_that_does_not_exist_is_left_out(torchvision, capsys):
    assert torchvision('--no-index') == ()
    assert 'skipped, it does not fit this torch: ERROR: No matching' in capsys.readouterr().out


def test_a_torchvision_that_conflicts_is_left_out(torchvision, tmp_path, capsys):
    (tmp_path / 'constraints').write_text('torchvision<0.1')
    assert torchvision('--no-index', '-c', str(tmp_path / 'constraints')) == ()
    assert 'skipped, it does not fit this torch: ERROR: Resolution' in capsys.readouterr().out


@pytest.mark.parametrize(
    'options, message',
    [
        (('--index-url', 'http://127.0.0.1:9/simple', '--retries', '1'), 'connection broken'),
        (('-c', '/nowhere/constraints'), 'No such file'),
    ],
)
def test_another_failure_of_pip_is_not_taken_for_a_misfit(torchvision, options, message):
    with pytest.raises(SetupError, match=f'(?s){message}.*The whole log'):
        torchvision(*options)


# ------------------------------------------------------------------ mmcv


def build(**changes):
    values = dict(torch='2.1.2+cu121', cuda='12.1', ops_on_gpu=False, python='3.11', include='/x')
    return Build(**{**values, **changes})


def test_a_wheel_is_kept_by_torch_python_and_accelerator(monkeypatch, tmp_path):
    assert build().key == 'mmcv2.1.0-torch2.1.2+cu121-cp311-cpu'
    assert build(ops_on_gpu=True).key == 'mmcv2.1.0-torch2.1.2+cu121-cp311-cu121'
    assert build(torch='2.13.0+cpu', cuda=None).key == 'mmcv2.1.0-torch2.13.0+cpu-cp311-cpu'
    assert build(python='3.9').key.endswith('-cp39-cpu')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert setup_mmcv.wheel_folder('key') == tmp_path / 'mmkd_fm' / 'wheels' / 'key'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert setup_mmcv.wheel_folder('key') == Path.home() / '.cache' / 'mmkd_fm' / 'wheels' / 'key'


def test_the_prebuilt_wheel_is_looked_for_by_torch_and_cuda():
    assert build().prebuilt_index.endswith('/mmcv/dist/cu121/torch2.1.0/index.html')
    assert build(cuda=None).prebuilt_index.endswith('/mmcv/dist/cpu/torch2.1.0/index.html')


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Records the pip commands instead of running them; a built wheel is an empty file."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(setup_mmcv, 'compiler_problem', lambda *_: '')
    ran = []

    def record(command, log, env=None):
        ran.append((command[3:], env))
        if 'wheel' in command:
            Path(command[command.index('-w') + 1], 'mmcv-2.1.0-fresh.whl').touch()

    monkeypatch.setattr(setup_mmcv, 'run_step', record)
    return ran


def answers(monkeypatch, works):
    """Lets the environment say its build, and after which command mmcv works."""

    def ask(python, code, *args):
        answer = subprocess.CompletedProcess([], 0, stdout='', stderr='')
        if code == setup_mmcv.DESCRIBE_BUILD:
            answer.stdout = json.dumps(vars(build()))
        elif code == setup_mmcv.OPS_WORK and not works():
            answer.returncode = 1
        return answer

    monkeypatch.setattr(setup_mmcv, 'ask', ask)


def test_a_kept_wheel_that_works_is_all_it_takes(commands, monkeypatch, tmp_path):
    kept = setup_mmcv.wheel_folder(build().key) / 'mmcv-2.1.0-kept.whl'
    kept.parent.mkdir(parents=True)
    kept.touch()
    answers(monkeypatch, works=lambda: len(commands) == 1)
    setup_mmcv.install_mmcv(Path('python'), tmp_path / 'log')
    (command, _), *rest = commands
    assert command[-1] == str(kept) and not rest
    assert kept.exists()


def test_a_broken_kept_wheel_is_removed_then_prebuilt_then_built(commands, monkeypatch, tmp_path):
    kept = setup_mmcv.wheel_folder(build().key) / 'mmcv-2.1.0-kept.whl'
    kept.parent.mkdir(parents=True)
    kept.touch()
    monkeypatch.delenv('CFLAGS', raising=False)
    answers(monkeypatch, works=lambda: len(commands) == 4)
    setup_mmcv.install_mmcv(Path('python'), tmp_path / 'log')

    first, prebuilt, built, last = [command for command, _ in commands]
    assert first[-1] == str(kept) and not kept.exists()
    assert {'--only-binary', '-f', build().prebuilt_index, '--timeout'} <= set(prebuilt)
    flags = {'--no-build-isolation', '--no-deps', '--no-cache-dir', '--no-binary', 'mmcv==2.1.0'}
    assert flags <= set(built)
    assert commands[2][1]['MMCV_WITH_OPS'] == '1' and commands[2][1]['CFLAGS'] == '-O1 -g0'
    fresh = kept.with_name('mmcv-2.1.0-fresh.whl')
    assert last[-1] == str(fresh) and fresh.exists()
    # pip's cache of built wheels does not know torch
    assert all('--no-cache-dir' in command for command, _ in commands)


def test_a_kept_wheel_stays_where_pip_could_not_install_it(commands, monkeypatch, tmp_path):
    kept = setup_mmcv.wheel_folder(build().key) / 'mmcv-2.1.0-kept.whl'
    kept.parent.mkdir(parents=True)
    kept.touch()
    record = setup_mmcv.run_step

    def no_space(command, *args):
        if command[-1] == str(kept):
            raise SetupError('no space left on device')
        record(command, *args)

    monkeypatch.setattr(setup_mmcv, 'run_step', no_space)
    answers(monkeypatch, works=lambda: len(commands) == 1)
    setup_mmcv.install_mmcv(Path('python'), tmp_path / 'log')
    assert build().prebuilt_index in commands[0][0]
    assert kept.exists()


def test_what_was_built_and_could_not_be_installed_is_not_called_broken(
    commands, monkeypatch, tmp_path
):
    record = setup_mmcv.run_step

    def no_space(command, *args):
        if 'install' in command:
            raise SetupError('no space left on device')
        record(command, *args)

    monkeypatch.setattr(setup_mmcv, 'run_step', no_space)
    answers(monkeypatch, works=lambda: False)
    with pytest.raises(SetupError, match='mmcv could not be installed: no space left on device'):
        setup_mmcv.install_mmcv(Path('python'), tmp_path / 'log')
    assert list(setup_mmcv.wheel_folder(build().key).glob('*.whl'))  # is kept for the next time


def test_an_opencv_that_does_not_import_is_named_before_anything_is_tried(
    commands, venv, monkeypatch
):
    (venv / 'cv2.py').write_text('raise ImportError("libGL.so.1: cannot open shared object file")')
    monkeypatch.setenv('PYTHONPATH', str(venv), prepend=os.pathsep)
    with pytest.raises(
        SetupError, match=r'(?s)opencv.*ImportError: libGL\.so\.1.*apt install libgl1'
    ):
        setup_mmcv.install_mmcv(venv / 'bin' / 'python', venv / 'log')
    assert commands == []


def test_an_mmcv_that_works_is_left_alone(commands, monkeypatch, tmp_path):
    answers(monkeypatch, works=lambda: True)
    setup_mmcv.install_mmcv(Path('python'), tmp_path / 'log')
    assert commands == []


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setenv('CFLAGS', '-O3')
    monkeypatch.setenv('MAX_JOBS', '7')
    env = setup_mmcv.build_variables()
    assert (env['CFLAGS'], env['MAX_JOBS']) == ('-O3', '7')


def test_a_missing_compiler_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    problem = setup_mmcv.compiler_problem('3.11', '/nowhere')
    assert 'expected no-such-compiler on the PATH, found none' in problem
    for remedy in ('apt install g++', 'dnf install gcc-c++', 'conda install'):
        assert remedy in problem


def test_missing_headers_are_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'true')
    problem = setup_mmcv.compiler_problem('3.11', str(tmp_path))
    assert f'expected {tmp_path}/Python.h, found none' in problem
    assert 'apt install python3.11-dev' in problem
    (tmp_path / 'Python.h').touch()
    assert setup_mmcv.compiler_problem('3.11', str(tmp_path)) == ''


# ------------------------------------------------------------------ running commands


def test_progress_counts_compiled_files_and_estimates_the_rest():
    output = '  [1/77] c++ -c a.cpp\n  [11/77] c++ -c b.cpp\n warning: [99/3] in the text\n'
    assert progress(output, elapsed=60) == 'compiled 11 of 77 files, about 6:00 left'
    assert progress('Collecting a\nDownloading b\n\n', elapsed=5) == 'Downloading b'
    assert progress('', elapsed=0) == ''


def test_a_failed_step_shows_the_end_of_its_output_and_the_log(tmp_path):
    log = tmp_path / 'log'
    log.write_text('earlier\n')
    code = 'print("\\n".join(map(str, range(100)))); raise SystemExit(3)'
    with pytest.raises(SetupError) as caught:
        run_step([sys.executable, '-c', code], log)
    message = str(caught.value)
    assert 'exit code 3' in message and str(log) in message
    assert '| 99' in message and '| 5\n' not in message and 'earlier' not in message
    assert log.read_text().startswith('earlier\n0\n')


def test_an_interrupt_in_the_moment_of_the_start_waits_for_it(tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess, 'Popen', Interrupted)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_step(['sleep', '60'], tmp_path / 'log')
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    (process,) = started
    assert process.poll() is not None, 'the child was left over'


def test_an_interrupt_ends_the_children_too(tmp_path):
    log = tmp_path / 'log'
    script = (
        'import signal\n'
        'from pathlib import Path\n'
        'from setup_steps import run_step\n'
        'signal.signal(signal.SIGTERM, signal.default_int_handler)\n'
        'ticking = "(while :; do echo tick; sleep 0.05; done) & wait"\n'
        f'run_step(["sh", "-c", ticking], Path({str(log)!r}))\n'
    )
    parent = subprocess.Popen(
        [sys.executable, '-c', script], cwd=ROOT / 'tools', stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not log.exists() or log.stat().st_size < 50:  # ten ticks: the step waits for its end
        assert time.monotonic() < deadline, 'the step did not start'
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=30) != 0
    size = log.stat().st_size
    time.sleep(0.5)
    assert log.stat().st_size == size, 'a child was left over'
