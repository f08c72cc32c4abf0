"""Tables of experiments: what is declared, run, kept, compared and refused."""

import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools/experiments.py'
TINY = """
title = 'Tiny'
metric = 'accuracy/top1'
seeds = [0, 1]
baselines = ['plain']
data = {data!r}
options = {{
    f'{{part}}_dataloader.{{key}}': value
    for part in ('train', 'val', 'test')
    for key, value in {{
        'num_workers': 0, 'persistent_workers': False, 'batch_size': 8, 'dataset.data_root': data
    }}.items()
}}
options['val_cfg.type'] = 'ValLoop'  # as detectors have it: not to be taken for a test
teachers = dict(
    resnet20=dict(
        config='configs/cifar10/resnet20_cifar10.py', options={{'train_cfg.max_epochs': 1}}, seed=5
    )
)
rows = dict(
    plain=dict(config='configs/cifar10/resnet8_cifar10.py', label='plain student'),
    kd=dict(
        config='configs/cifar10/wttm_resnet20_resnet8_cifar10.py',
        teacher='resnet20',
        options={{'model.terms': ['kd']}},
        evaluations=dict(few={{'test_dataloader.batch_size': 2}}),
    ),
)
"""


def draw_images(folder):
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        for label in range(2):
            (folder / split / f'class{label}').mkdir(parents=True)
            for i in range(12):
                image = rng.integers(0, 128, (32, 32, 3)) + 100 * label
                path = folder / split / f'class{label}' / f'{i}.png'
                cv2.imwrite(str(path), image.astype(np.uint8))
    return folder


def start(folder, work_dir, *options):
    command = [sys.executable, str(TOOL), str(folder), '--work-dir', str(work_dir), *options]
    env = dict(os.environ, COLUMNS='160')
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)


def results(folder):
    return {path.stem: path for path in (folder / 'runs').glob('*.json')}


@pytest.mark.slow
def test_a_table_is_interrupted_and_finished(tmp_path):
    pytest.importorskip('mmpretrain')
    data, folder = draw_images(tmp_path / 'data'), tmp_path / 'docs/results/tiny'
    folder.mkdir(parents=True)
    (folder / 'table.py').write_text(TINY.format(data=str(data)))
    process = start(folder, tmp_path / 'work')
    while not results(folder) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, said
    assert set(results(folder)) == {'plain_seed0'}
    first = results(folder)['plain_seed0'].stat().st_mtime_ns
    teacher = (tmp_path / 'work/teachers/resnet20/epoch_1.pth').stat().st_mtime_ns

    process = start(folder, tmp_path / 'work')
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    assert '3 to run' in said and 'none left' in said
    names = {f'{row}_seed{seed}' for row in ('plain', 'kd') for seed in (0, 1)}
    assert set(results(folder)) == names
    assert results(folder)['plain_seed0'].stat().st_mtime_ns == first
    assert (tmp_path / 'work/teachers/resnet20/epoch_1.pth').stat().st_mtime_ns == teacher

    runs = {name: json.loads(path.read_text()) for name, path in results(folder).items()}
    for name, run in runs.items():
        assert str(tmp_path) not in json.dumps(run) and str(ROOT) not in json.dumps(run)
        assert [epoch for epoch, _ in run['curve']] == [1, 2]
        last = run['evaluations']['validation']
        assert run['curve'][-1][1] == last['accuracy/top1'] and 'accuracy/top5' in last
        assert f'randomness.seed={name[-1]}' in run['command']
        assert run['seconds'] > 0 and run['epochs'] == 2
    kd = runs['kd_seed1']
    assert len(kd['teacher']['sha256']) == 64 and kd['teacher']['seed'] == 5
    assert kd['teacher']['sha256'] == runs['kd_seed0']['teacher']['sha256']
    # the same images in smaller batches
    few = kd['evaluations']['validation/few']
    assert few['accuracy/top1'] == pytest.approx(kd['evaluations']['validation']['accuracy/top1'])
    page = (tmp_path / 'docs/results/tiny.md').read_text()
    assert '| plain student | 2 |' in page and '| kd, few | 2 |' in page
    assert (tmp_path / 'docs/figures/tiny_results.png').stat().st_size > 5_000

    before = {path: path.read_bytes() for path in folder.parent.rglob('*') if path.is_file()}
    # trained again, also where what is kept was trained
    process = start(folder, tmp_path / 'work', '--reproduce', '--rows', 'kd', '--seeds', '0')
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    assert '2 to run' in said and 'kd, seed 0' in said and ': all metrics are equal' in said
    assert (tmp_path / 'work/reproduce/tiny/kd_seed0/epoch_2.pth').is_file()
    assert {path: path.read_bytes() for path in before} == before

    # another evaluation tests what is trained, and trains nothing; the last validation is read
    for path in results(folder).values():
        path.unlink()
    with open(folder / 'table.py', 'a') as table:
        half = "{'test_dataloader.dataset.data_prefix': 'train'}"
        table.write(f'evaluations = dict(half={half}, validation={{}})')
    process = start(folder, tmp_path / 'work', '--rows', 'kd', '--seeds', '1')
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    again = json.loads(results(folder)['kd_seed1'].read_text())
    assert set(again['evaluations']) == {'half', 'half/few', 'validation', 'validation/few'}
    assert again['evaluations']['validation'] == kd['evaluations']['validation']
    tests = tmp_path / 'work/kd_seed1/tests'
    assert not (tests / 'validation').exists() and (tests / 'half').exists()
    assert again['curve'] == kd['curve'] and again['legs'] == 1


TABLE = """
title = 'Two rows and a control'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2]
baselines = ['plain']
teachers = dict(big=dict(config='configs/bccd/retinanet_r18_bccd.py'))
evaluations = dict(val={}, test={'test_dataloader.batch_size': 2})
rows = dict(
    plain=dict(config='configs/bccd/retinanet_r18-quarter_bccd.py', label='plain student'),
    pkd=dict(
        config='configs/bccd/pkd_retinanet_r18_r18-quarter_bccd.py',
        teacher='big',
        options={'model.losses.pkd.loss_weight': 2.0},
    ),
    flow=dict(
        config='configs/bccd/flowneck_retinanet_r18-quarter_bccd.py',
        evaluations=dict(nfe4={'model.neck.nfe': 4}),
    ),
)
"""
VALUES = dict(plain=(0.40, 0.42, 0.41), pkd=(0.43, 0.43, 0.46))
MACHINE = dict(
    device='A processor',
    threads=1,
    torch='2.1.2',
    mmdet='3.3.0',
    mmkd_fm='0.1.0',
    commit='0123456789ab',
    dirty=False,
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'docs/results/drawn'
    (folder / 'runs').mkdir(parents=True)
    (folder / 'table.py').write_text(TABLE)
    return folder


@pytest.fixture
def write(folder):
    """Write the result of a run: `write('pkd', 0, 0.43, device='Another')`."""
    from experiments_record import declared, result_path, tests_of, write_json
    from experiments_table import read_table

    def make(row, seed, value, sha256='a' * 64, **machine):
        table = read_table(folder)
        part = table.row_of(row, seed)
        teacher = table.teachers.get(part.teacher)
        tests = tests_of(table, part)
        run = dict(
            row=row,
            seed=seed,
            **declared(part),
            tests=tests,
            command='python tools/train.py',
            teacher=part.teacher
            and dict(
                name=teacher.name,
                seed=0,
                **declared(teacher),
                sha256=sha256,
                by_hand=False,
                metrics={'coco/bbox_mAP': 0.5},
            ),
            evaluations={key: {'coco/bbox_mAP': value} for key in tests},
            curve=[[1, value]],
            seconds=1.0,
            seconds_per_iteration=0.25,
            epochs=1,
            legs=1,
            environment=dict(MACHINE, **machine),
            date='2026-01-02T03:04:05',
        )
        write_json(result_path(table, row, seed), run)
        return result_path(table, row, seed)

    return make


@pytest.fixture
def call(folder, capsys):
    """Run the tool: `status, text = call('--render')`."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*options):
        from experiments import main

        status = main([str(run.folder), '--work-dir', str(folder / 'work'), *options])
        return status, ' '.join(capsys.readouterr().out.split())

    run.folder = folder
    yield run
    signal.signal(signal.SIGTERM, before)


def page_of(folder):
    return folder.with_name('drawn.md').read_text()


def test_page_and_figure(folder, write, call):
    for row, values in VALUES.items():
        for seed, value in enumerate(values):
            write(row, seed, value)
    write('flow', 1, 0.44)
    (folder / 'notes.md').write_text('## Seen\n\nNothing | much.\n')
    assert call('--render')[0] == 0
    page = page_of(folder)
    # differences 3, 1, 5: mean 3, deviation 2, t(0.975; 2) = 4.303
    half = 4.302652729911275 * 2 / math.sqrt(3)
    assert f'| +3.00 ({3 - half:+.2f} to {3 + half:+.2f}) | 0.250 |' in page
    assert '| plain student | 3 | 40.00, 42.00, 41.00 | 41.00 ± 1.00 |  | 0.250 |' in page
    assert '| pkd | 3 | 43.00, 43.00, 46.00 | 44.00 ± 1.73 |' in page
    for label in ('flow', 'flow, nfe4'):
        assert f'| {label} | 1 of 3 (1) | 44.00 | 44.00 | +2.00 (one seed: no interval) |' in page
    # pooled over 2 + 2 degrees of freedom; the row with one seed, and its variant, add none
    assert f'pooled over the rows: {math.sqrt((2 * 1 + 2 * 3) / 4):.2f} (4 degrees' in page
    assert page.index('## Val') < page.index('## Test')
    assert 'Teacher big: `configs/bccd/retinanet_r18_bccd.py`, seed 0, 50.00 in' in page
    assert '`model.losses.pkd.loss_weight=2.0`' in page
    assert '- test: tested with `test_dataloader.batch_size=2`' in page
    assert '; nfe4: tested with `model.neck.nfe=4`' in page
    assert page.endswith('## Seen\n\nNothing | much.\n')
    assert 'arning' not in page
    figure = folder.parents[1] / 'figures/drawn_results.png'
    assert figure.read_bytes()[:4] == b'\x89PNG'


def test_a_table_shows_runs_of_another(folder, write, call):
    """Not trained again, and not kept twice; a row that is declared otherwise is refused."""
    from experiments_record import read_results
    from experiments_table import read_table

    for seed, value in enumerate((0.40, 0.42)):
        write('plain', seed, value)
    more = folder.with_name('more')
    text = """
_base_ = '../drawn/table.py'
runs_of = '../drawn'
seeds = [0, 1]
baselines = ['plain']
stronger = {'model.losses.pkd.loss_weight': 9.0}
rows = dict(_delete_=True, plain=_base_.rows.plain, pkd_9=dict(_base_.rows.pkd, options=stronger))
"""
    more.mkdir()
    (more / 'table.py').write_text(text)
    call.folder = more
    status, said = call('--dry-run')
    assert status == 0 and '3 to run' in said and 'plain, seed' not in said  # and the teacher
    runs = read_results(read_table(more))
    assert [(run['row'], run['seed']) for run in runs] == [('plain', 0), ('plain', 1)]
    assert call('--render')[0] == 0
    assert '| plain student | 2 | 40.00, 42.00 |' in more.with_name('more.md').read_text()
    assert not (more / 'runs').exists()

    third = folder.with_name('third')  # of both
    third.mkdir()
    (third / 'table.py').write_text(text.replace("'../drawn'\n", "['../drawn', '../more']\n"))
    assert read_table(third).elsewhere == dict(plain=folder, pkd_9=more)
    assert len(read_results(read_table(third))) == 2

    for old, new, message in [
        ('[0, 1]', '[0, 7]', "seeds of row 'plain', which is of drawn: 7 not known; valid names:"),
        ('plain=_b', 'plain=dict(_base_.rows.plain, label="x"), b=_b', "row 'plain' too, with ano"),
        ('pkd_9', 'pkd', "runs_of: drawn has a row 'pkd' too, with another row"),
        ("'../drawn'", "'../gone'", 'gone/table.py: expected the declaration of a table'),
    ]:
        assert old in text
        (more / 'table.py').write_text(text.replace(old, new, 1))
        status, said = call('--dry-run')
        assert status == 1 and message in said, said


def test_rows_of_another_group_are_not_compared(folder, write, call):
    from experiments_readme import summary
    from experiments_record import read_results
    from experiments_table import read_table

    text = TABLE.replace("label='plain student'", "label='plain student', group='small'")
    (folder / 'table.py').write_text(text)
    for row, values in VALUES.items():
        for seed, value in enumerate(values):
            write(row, seed, value)
    assert call('--render')[0] == 0
    assert '| pkd | 3 | 43.00, 43.00, 46.00 | 44.00 ± 1.73 |  | 0.250 |' in page_of(folder)
    table = read_table(folder)
    runs = read_results(table)
    assert 'minus plain student' in summary(table, runs, ['plain', 'pkd'])
    assert 'minus' not in summary(table, runs, ['pkd'])


def test_equal_differences_have_no_interval(folder, write, call):
    for seed, value in enumerate(VALUES['plain']):
        write('plain', seed, value)
        write('pkd', seed, value + 0.01)
    assert call('--render')[0] == 0
    assert '| +1.00 (in each: no interval) | 0.250 |' in page_of(folder)


def test_the_readme_has_the_table_between_its_marks(folder, write, call):
    for row, values in VALUES.items():
        for seed, value in enumerate(values):
            write(row, seed, value)
    for seed in (0, 1):  # too few for the README
        write('flow', seed, 0.5)
    readme = folder.parents[2] / 'README.md'
    readme.write_text('Before\n<!-- table: other -->\nkept\n<!-- end -->\n')
    assert call('--render')[0] == 0
    assert readme.read_text() == 'Before\n<!-- table: other -->\nkept\n<!-- end -->\n'
    readme.write_text('Before\n<!-- table: drawn -->\nold\n<!-- end -->\nAfter <!-- end -->\n')
    for _ in range(2):
        assert call('--render')[0] == 0
        before, *rows, after = readme.read_text().splitlines()
        assert (before, after) == ('Before', 'After <!-- end -->')
        assert rows[0] == '<!-- table: drawn -->' and rows[-1] == '<!-- end -->'
        assert rows[1] == '| student | seeds | val, mean ± s.d. | minus plain student |'
        assert rows[3] == '| plain student | 3 | 41.00 ± 1.00 |  |'
        assert rows[4].startswith('| pkd | 3 | 44.00 ± 1.73 | +3.00 (') and len(rows) == 6
    mark = '<!-- table: drawn, rows: pkd -->'  # the baseline is compared with all the same
    readme.write_text(f'Before\n{mark}\nold\n<!-- end -->\nAfter <!-- end -->\n')
    for _ in range(2):
        assert call('--render')[0] == 0
        before, begin, *chosen, end, after = readme.read_text().splitlines()
        assert (before, begin, end, after) == ('Before', mark, rows[-1], 'After <!-- end -->')
        assert chosen == [*rows[1:3], rows[4]]
    both = [f'{mark}\n<!-- end -->', '<!-- table: drawn -->\nold\n<!-- end -->']
    readme.write_text('\nBetween\n'.join(both))
    assert call('--render')[0] == 0
    first, second = readme.read_text().split('\nBetween\n')
    assert first.splitlines() == [mark, *chosen, rows[-1]] and second.splitlines() == rows
    readme.write_text('<!-- table: drawn, rows: pkd flow cwd -->\n<!-- end -->\n')
    status, text = call('--render')
    assert status == 1 and 'asks for rows flow, cwd, which have fewer than 3 seeds' in text
    assert 'there are plain, pkd' in text
    write('plain', 1, 0.42, torch='2.13.0')
    status, text = call('--render')
    assert status == 1 and 'expected runs of one kind of machine' in text


@pytest.mark.parametrize('file', ['README.md', 'docs/results/README.md'])
def test_the_readmes_of_the_project_have_what_was_run(file):
    from experiments_readme import summary
    from experiments_record import read_results
    from experiments_table import read_table

    readme = (ROOT / file).read_text(encoding='utf-8')
    marks = re.findall('<!-- (table: .+?) -->', readme)
    assert marks
    for mark in marks:
        name, _, rows = mark.removeprefix('table: ').partition(', rows: ')
        table = read_table(ROOT / 'docs/results' / name)
        text = summary(table, read_results(table), rows.split())
        assert f'<!-- {mark} -->\n{text}\n<!-- end -->' in readme, f'render {name} again'


def test_rows_without_runs_are_not_in_the_table(folder, write, call):
    write('plain', 0, 0.4)
    assert call('--render')[0] == 0
    page = page_of(folder)
    assert '| pkd |' not in page and '- pkd (not run)' in page
    assert 'the noise between seeds is not known' in page


@pytest.mark.parametrize('change', [dict(device='Another processor'), dict(torch='2.2.0')])
def test_machines_are_not_mixed(folder, write, call, change):
    write('plain', 0, 0.4)
    write('plain', 1, 0.41)
    write('pkd', 0, 0.45, **change)
    assert call('--render')[0] == 0
    page = page_of(folder)
    assert 'Warning: these runs come from 2 kinds of machines' in page
    assert page.count('### Val') == 2
    first, second = page.split('## A')[1:]
    assert 'plain student | 2 of 3' in first and '| pkd |' not in first
    assert '| pkd | 1 of 3 (0) | 45.00 | 45.00 | 0.250 |' in second  # no baseline here
    assert f'{"".join(change.values())}'.removeprefix('A') in second


def test_another_teacher_of_the_same_name_is_told(folder, write, call):
    write('pkd', 0, 0.4)
    write('pkd', 1, 0.4, sha256='b' * 64)
    assert call('--render')[0] == 0
    assert 'files of different trainings served as the same teacher' in page_of(folder)


def test_paired_difference_against_the_closed_form():
    from experiments_statistics import paired_difference

    got = paired_difference({0: 3.0, 1: 5.0, 7: 100.0}, {1: 1.0, 0: 1.0, 2: 0.0})
    assert got.seeds == [0, 1] and got.mean == 3.0
    # two values: t(0.975; 1) = tan(0.475 pi), deviation sqrt(2), sqrt(2) of the mean
    assert got.half == pytest.approx(math.tan(0.475 * math.pi))
    assert paired_difference({0: 2.0}, {0: 1.0}).half is None
    assert paired_difference({0: 2.0}, {1: 1.0}) is None


def test_seeds_of_a_fold_are_one_difference():
    from experiments_lines import show_difference
    from experiments_statistics import paired_difference

    base = {seed: 10.0 * seed for seed in range(4)}
    gains = {0: 1.0, 1: 5.0, 2: 3.0, 3: 7.0}  # of fold 0: 1 and 3, of fold 1: 5 and 7
    got = paired_difference({seed: base[seed] + gain for seed, gain in gains.items()}, base, 2)
    assert got.mean == 4.0 and got.half == paired_difference({0: 2.0, 1: 6.0}, {0: 0, 1: 0}).half
    one = paired_difference({1: 3.0, 3: 4.0}, {1: 1.0, 3: 1.0}, 2)
    assert one.mean == 2.5 and one.half is None
    assert show_difference(one) == '+2.50 (one fold: no interval)'
    assert show_difference(paired_difference({1: 3.0}, {1: 1.0})) == '+2.00 (one seed: no interval)'


def test_seeds_take_turns_on_folds(folder, write, call):
    table = TABLE.replace('[0, 1, 2]', '[0, 1, 2, 3]').replace("'big'", "'big_{fold}'")
    teacher = "dict(config='configs/bccd/retinanet_r18_bccd.py')"
    table = table.replace(f'big={teacher}', f'big_0={teacher}, big_1={teacher}')
    table += "folds = 2\noptions = {'train_dataloader.dataset.ann_file': 'fold{fold}.json'}\n"
    (folder / 'table.py').write_text(table)
    status, text = call('--dry-run', '--rows', 'pkd', '--seeds', '3', '2')
    assert status == 0 and '4 to run' in text  # the two teachers too
    second, third = text.split('pkd, seed 2: ')[1].split('pkd, seed 3: ')
    assert 'ann_file=fold0.json' in second and 'big_0/epoch_' in second
    assert 'ann_file=fold1.json' in third and 'big_1/epoch_' in third

    for row, values in dict(plain=(0.40, 0.50), pkd=(0.41, 0.53)).items():
        for seed, value in enumerate(values):
            write(row, seed, value)
    assert call('--render')[0] == 0
    page = page_of(folder)
    assert 'One training of each fold: the noise between seeds of a fold is not known.' in page
    assert 'nothing is established.' not in page

    for row, values in dict(plain=(0.40, 0.50, 0.42, 0.54), pkd=(0.41, 0.53, 0.45, 0.55)).items():
        for seed, value in enumerate(values):
            write(row, seed, value)
    assert call('--render')[0] == 0
    page = page_of(folder)
    # differences 1, 3, 3, 1: 2 in both folds. Between the seeds of a fold: 2, 4 and 4, 2.
    assert '+2.00 (in each: no interval)' in page
    deviation = math.sqrt((2**2 + 4**2 + 4**2 + 2**2) / 2 / 4)
    assert f'{deviation:.2f} (4 degrees of freedom)' in page
    assert f'one training each, by that: {deviation / math.sqrt(2):.2f}.' in page


def test_pooled_deviation_weighs_by_degrees_of_freedom():
    from experiments_statistics import pooled_deviation

    groups = [[1.0, 2.0, 4.0], [10.0, 13.0], [5.0], []]
    variances = [statistics.variance(groups[0]), statistics.variance(groups[1])]
    deviation, freedom = pooled_deviation(groups)
    assert freedom == 3
    assert deviation**2 == pytest.approx((2 * variances[0] + variances[1]) / 3)
    assert pooled_deviation([[1.0], [2.0]]) is None


@pytest.mark.parametrize('deviation, count', [(1.0, 17), (2.0, 64), (1.25, 26), (0.0, 2)])
def test_seeds_needed(deviation, count):
    """Effects of 1, 0.5 and 0.8 deviations need 17, 64, 26 values each (Cohen, 1992, table 2)."""
    from experiments_statistics import seeds_needed

    assert seeds_needed(deviation) == count
    assert seeds_needed(3 * deviation, 3.0) == count
    assert seeds_needed(1e-6) == 2


@pytest.mark.parametrize(
    'value',
    [['kd'], ['wttm', 'fmkt'], [1, [2.5, 'a']], 0.1, 3, True, None, 'mmkd_fm.X', 'a/b.json'],
)
def test_options_reach_the_config_as_declared(value):
    from mmengine.config import DictAction

    from experiments_table import as_arguments

    (argument,) = as_arguments({'model.x': value})
    key, _, text = argument.partition('=')
    assert key == 'model.x'
    got = DictAction._parse_iterable(text)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize('value', ['3', 'a b', 'x,y', 'x(,y', 'None'])
def test_options_that_a_command_line_would_change_are_refused(value):
    from experiments_table import as_arguments

    with pytest.raises(ValueError, match='option model.x: .* put it into a config'):
        as_arguments({'model.x': value})


def test_paths_of_the_machine_are_not_kept():
    from experiments_record import public

    work = Path('/home/someone/work')
    told = dict(
        command=f'python {ROOT}/tools/train.py --work-dir {work}/plain_seed0 a=[/data/x/y.json,3]',
        metrics={'coco/bbox_mAP': 0.5},
        config='configs/a.py',
        hub='mmdet::gfl/x.py',
        url='https://host/file.pth',
    )
    assert public(told, work) == dict(
        told,
        command='python tools/train.py --work-dir WORK_DIR/plain_seed0 a=[.../y.json,3]',
    )


def test_a_checkpoint_that_was_being_written_is_not_continued(tmp_path):
    from experiments_logs import last_checkpoint

    assert last_checkpoint(tmp_path, 'epoch') is None
    for epoch in (9, 10):
        with zipfile.ZipFile(tmp_path / f'epoch_{epoch}.pth', 'w') as file:
            file.writestr('data', 'x' * 1000)
    whole = (tmp_path / 'epoch_10.pth').read_bytes()
    (tmp_path / 'epoch_11.pth').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_11.pth')
    assert last_checkpoint(tmp_path, 'epoch') == (10, tmp_path / 'epoch_10.pth')
    (tmp_path / 'iter_1000.pth').write_bytes(whole)  # of a hook that counts otherwise
    assert last_checkpoint(tmp_path, 'epoch') == (10, tmp_path / 'epoch_10.pth')
    assert last_checkpoint(tmp_path, 'iter') == (1000, tmp_path / 'iter_1000.pth')


def test_logs_of_an_interrupted_training(tmp_path):
    from experiments_logs import curve, scalars, seconds, seconds_per_iteration, with_metric

    legs = {
        '20260102_030000': [
            dict(loss=2.0, time=0.5, iter=10, epoch=1, step=10),
            {'coco/bbox_mAP': 0.25, 'time': 9.0, 'data_time': 1.0, 'step': 1},
            dict(loss=1.0, time=0.7, iter=20, epoch=2, step=20),
        ],
        '20260102_040000': [
            dict(loss=1.0, time=0.6, iter=20, epoch=2, step=20),
            dict(time=9.0, data_time=1.0, step=2),  # nothing was found
        ],
    }
    for name, lines in legs.items():
        path = tmp_path / name / 'vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(map(json.dumps, lines)) + '\n{"loss": 0.')
        begun = time.mktime(time.strptime(name, '%Y%m%d_%H%M%S'))
        os.utime(path, (begun + 90, begun + 90))
    assert len(scalars(tmp_path)) == 5
    assert curve(tmp_path, 'coco/bbox_mAP') == [[1, 0.25], [2, 0.0]]
    assert seconds_per_iteration(tmp_path) == 0.6
    assert seconds(tmp_path) == 180
    with pytest.raises(ValueError, match='expected the metric accuracy/top1, got coco/bbox_mAP'):
        with_metric({'coco/bbox_mAP': 0.25}, 'accuracy/top1')


def test_a_work_dir_of_other_options_or_machines_is_refused(folder):
    from experiments_record import check_legs, note_start
    from experiments_run import _environment
    from experiments_table import read_table

    row, work = read_table(folder).rows['pkd'], folder / 'work/pkd_seed0'
    note_start(work, row, 0, MACHINE)
    note_start(work, row, 0, dict(MACHINE, commit='another'))
    assert [leg['environment']['commit'] for leg in check_legs(work, row, 0)] == [
        '0123456789ab',
        'another',
    ]
    legs = [
        dict(leg, environment=dict(leg['environment'], dirty=i > 0))
        for i, leg in enumerate(check_legs(work, row, 0))
    ]
    noted = dict(commit='0123456789ab, another', dirty=True)  # all code that it was run with
    assert _environment(legs) == dict(MACHINE, **noted)
    with pytest.raises(ValueError, match='begun with torch 2.1.2, this is 2.2.0'):
        note_start(work, row, 0, dict(MACHINE, torch='2.2.0'))
    with pytest.raises(ValueError, match='with other seed'):
        check_legs(work, row, 1)
    (folder / 'table.py').write_text(TABLE.replace('2.0', '4.0'))
    with pytest.raises(ValueError, match='with other options than table.py declares'):
        check_legs(work, read_table(folder).rows['pkd'], 0)
    by_hand = folder / 'work/pkd_seed1'
    by_hand.mkdir()
    with zipfile.ZipFile(by_hand / 'epoch_1.pth', 'w') as file:
        file.writestr('data', 'x')
    with pytest.raises(ValueError, match='no legs.json'):
        check_legs(by_hand, row, 1)


def test_dry_run_is_balanced_and_skips_what_is_there(write, call):
    write('plain', 0, 0.4)
    status, text = call('--dry-run', '--rows', 'pkd', 'plain', '--seeds', '1', '0')
    assert status == 0 and '4 to run' in text
    wanted = ('teacher big: python', 'pkd, seed 0: python', 'plain, seed 1:', 'pkd, seed 1:')
    places = [text.index(part) for part in wanted]
    assert places == sorted(places) and 'plain, seed 0' not in text
    assert 'model.losses.pkd.loss_weight=2.0 randomness.seed=1 model.teacher.checkpoint=' in text


@pytest.mark.parametrize(
    'old, new, message',
    [
        ("'plain']", "'plian']", 'baselines: plian not known; valid names: plain, pkd, flow'),
        ("teacher='big'", "teacher='bgi'", "teacher of row 'pkd': bgi not known; valid names: big"),
        ('pkd_retinanet', 'missing_retinanet', 'pkd: there is no config configs/bccd/missing'),
        ('rows = dict(', 'rows, _ = {}, dict(', 'expected rows, got none'),
        ('evaluations = ', 'evaluation = ', 'do you mean evaluations?'),
        ('label=', 'lable=', "parts of row 'plain': lable not known; valid names: config, options"),
        ('[0, 1, 2]', '[0, 0]', 'seeds are different non-negative integers; got [0, 0]'),
        ('title = ', 'title = (', 'can not be read: SyntaxError'),
        ('title =', 'folds = 1; title =', 'folds: expected a number of at least 2, or none, got 1'),
        ("teacher='big'", "teacher='big_{fold}'", "'{fold}' stays as it is"),
        (
            'loss_weight',
            "levels': ['{fold}'], 'model.losses.pkd.loss_weight",
            "row 'pkd': '{fold}' stays as it is; it is filled in as a teacher and in options",
        ),
        (
            'evaluations = ',
            "evaluations = dict(test={'test_evaluator.ann_file': '{fold}.json'}); other = ",
            "evaluations: '{fold}' is filled in as a teacher and in options of a row",
        ),
        ('dict(nfe4', "dict(**{'nfe/4': {}}, nfe4", "'nfe/4' is no name of a file"),
    ],
)
def test_tables_that_can_not_be_run(folder, call, old, new, message):
    assert old in TABLE
    (folder / 'table.py').write_text(TABLE.replace(old, new, 1))
    status, text = call('--dry-run')
    assert status == 1 and message in text


def test_unknown_rows_and_seeds(call):
    for options, message in {
        ('--rows', 'kd'): '--rows: kd not known; valid names: plain, pkd, flow',
        ('--seeds', '3'): '--seeds: 3 not known; valid names: 0, 1, 2',
    }.items():
        status, text = call('--dry-run', *options)
        assert status == 1 and message in text


def test_no_table(folder, call):
    (folder / 'table.py').unlink()
    status, text = call('--render')
    assert status == 1 and 'expected the declaration of a table, got no file' in text


def changed(**parts):
    return lambda text: json.dumps(dict(json.loads(text), **parts))


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda text: text[:-20], 'expected JSON, got'),
        (lambda text: '{"row": "plain"}', 'seed, config, options, tests'),
        (changed(row='kd'), 'row: kd not known; valid names: plain, pkd, flow'),
        (changed(seed=4), 'seed: 4 not known; valid names: 0, 1, 2'),
        (changed(seed=1), 'holds row plain, seed 1; its place is drawn/runs/plain_seed1.json'),
        (changed(options={'a': 1}), 'with other options than table.py declares: expected {}'),
        (changed(tests={'val': {}}), 'with other tests than table.py declares'),
        (changed(evaluations={'val': {}}), 'expected the evaluations val, test'),
        (changed(evaluations={'val': {}, 'test': {}}), 'expected a number for coco/bbox_mAP'),
    ],
)
def test_results_that_can_not_be_shown(write, call, change, message):
    path = write('plain', 0, 0.4)
    path.write_text(change(path.read_text()))
    status, text = call('--dry-run')
    assert status == 1 and 'plain_seed0.json' in text and message in text


def test_a_work_dir_is_left_to_the_process_in_it(tmp_path):
    from experiments_processes import locked

    work = tmp_path / 'plain_seed0'
    with locked(work), pytest.raises(RuntimeError, match='another process'), locked(work):
        pass
    with locked(work) as lock:
        assert not lock.closed


def test_newer_processors_compute_as_older_ones(tmp_path):
    """Kernels of AVX-512 add in another order: the same training ended with other metrics."""
    import torch

    from experiments_processes import Processes, locked
    from experiments_record import environment
    from machine import AVX2, device_name, has_avx2

    if torch.cuda.is_available() or not has_avx2():
        pytest.skip('needs a processor with AVX2, and no GPU')
    shown = f'torch.backends.cpu.get_cpu_capability(), *map(os.environ.get, {list(AVX2)})'
    code = f'import os, torch; print({shown})'
    with locked(tmp_path / 'run') as lock:
        Processes(1).call([sys.executable, '-c', code], tmp_path / 'log', None, lock)
    assert (tmp_path / 'log').read_text().split() == ['AVX2', *AVX2.values()]
    assert environment(1)['device'] == f'{device_name(torch.device("cpu"))}, AVX2'


def test_what_was_run_once_more_is_compared(folder, write, call):
    once_more = folder / 'work/reproduce/drawn/results/runs'
    once_more.mkdir(parents=True)
    for path in [*(write('plain', seed, 0.40) for seed in (0, 1, 2)), write('pkd', 0, 0.45)]:
        path.rename(once_more / path.name)
    write('plain', 0, 0.40)
    write('plain', 1, 0.41)
    write('plain', 2, 0.42, device='Another processor')
    before = sorted(folder.parent.rglob('*'))
    status, text = call('--reproduce', '--rows', 'plain')
    assert status == 0 and '0 to run' in text
    assert 'plain, seed 0: 40.00 / 40.00, kept 40.00 / 40.00: all metrics are equal' in text
    assert 'plain, seed 1: 40.00 / 40.00, kept 41.00 / 41.00: differs on a machine' in text
    assert 'other machines (A processor, torch 2.1.2; Another processor, torch 2.1.2)' in text
    assert 'pkd' not in text
    status, text = call('--reproduce', '--rows', 'pkd', '--seeds', '0')
    assert 'pkd, seed 0: 45.00 / 45.00, none kept' in text
    assert sorted(folder.parent.rglob('*')) == before  # no page, no figure, no result


@pytest.mark.slow
def test_a_failed_run_is_told_and_stops_no_other(folder, call):
    options = "options = {'model.backbone.depth': 17}"  # there is no such ResNet
    (folder / 'table.py').write_text(f'{TABLE}\n{options}\n')
    status, text = call('--rows', 'plain', '--seeds', '0', '1')
    assert status == 1
    for seed in (0, 1):
        assert f'plain, seed {seed}: failed: exit status 1; the end of' in text
    assert 'none left' in text and not list(folder.glob('runs/*'))
