"""Our tools, and mmdet's own, run one and the same distillation config."""

import json
import pickle
from pathlib import Path

import mmdet
import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def project(distill_config, tmp_path_factory, tools):
    """A folder with a config file: this repository, mmdet and the data lie elsewhere."""
    folder = tmp_path_factory.mktemp('project')
    distill_config(losses='fmkt-wttm', ema=True).dump(folder / 'distill.py')
    return folder


@pytest.fixture(scope='module')
def run_tool(project, tools):
    """Run 'ours' or 'mmdet' tool in the project folder; gives what it printed."""
    folders = dict(ours=tools.root / 'tools', mmdet=Path(mmdet.__file__).parent / '.mim' / 'tools')

    def run(whose, name, *arguments):
        return tools.run_python(folders[whose] / name, *arguments, cwd=project)[1]

    return run


@pytest.fixture(scope='module')
def trained(project, run_tool):
    """Work dir of a training of one epoch, with tools/train.py."""
    run_tool('ours', 'train.py', 'distill.py', '--cfg-options', 'randomness.seed=3')
    return project / 'work_dirs' / 'distill'  # the default


def test_train_and_resume(trained, project, run_tool, tools):
    first = tools.load(trained / 'epoch_1.pth')
    assert first['meta']['seed'] == 3
    longer = ('--cfg-options', 'train_cfg.max_epochs=2', 'randomness.seed=3')
    run_tool('mmdet', 'train.py', 'distill.py', '--work-dir', 'all_mmdet', *longer)
    output = run_tool('ours', 'train.py', 'distill.py', '--resume', *longer)
    assert 'resumed epoch: 1, iter: 4' in output
    run_tool(
        'mmdet',
        'train.py',
        'distill.py',
        '--work-dir',
        'mmdet_resumed',
        '--resume',
        trained / 'epoch_1.pth',
        *longer,
    )
    ours, *others = (
        tools.load(folder / 'epoch_2.pth')
        for folder in (trained, project / 'all_mmdet', project / 'mmdet_resumed')
    )
    for other in others:
        for key in ('state_dict', 'ema_state_dict', 'optimizer', 'distill_state'):
            assert tools.differences(ours[key], other[key], key) == []


def test_a_file_to_resume_from_that_is_not_there(project, tools):
    arguments = ('distill.py', '--resume', 'no_such.pth')
    status, output = tools.run_python(
        tools.root / 'tools' / 'train.py', *arguments, cwd=project, check=False
    )
    assert status == 1 and 'error: --resume: there is no file no_such.pth' in output
    assert 'Traceback' not in output


@pytest.fixture(scope='module')
def without_teacher(project):
    """The config, with a teacher checkpoint that does not exist."""
    text = (project / 'distill.py').read_text()
    (project / 'test.py').write_text(text.replace('/teacher.pth', '/deleted.pth'))
    assert (project / 'test.py').read_text() != text
    return 'test.py'


@pytest.mark.parametrize('tta', [(), ('--tta',)], ids=['plain', 'tta'])
def test_evaluation(tta, trained, without_teacher, project, run_tool):
    results, metrics = [], []
    for whose in ('ours', 'mmdet'):
        out, work_dir = project / f'{whose}{len(tta)}.pkl', project / f'{whose}{len(tta)}_test'
        run_tool(
            whose,
            'test.py',
            without_teacher,
            trained / 'epoch_1.pth',
            '--work-dir',
            work_dir,
            '--out',
            out,
            '--show-dir',
            'drawn',
            *tta,
        )
        results.append(pickle.loads(out.read_bytes()))
        metrics.append(json.loads(next(work_dir.glob('*/*.json')).read_text()))
        assert len(list(work_dir.glob('*/drawn/*.png'))) == 4
    assert len(results[0]) == 4
    for ours, mmdets in zip(*results):
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(ours['pred_instances'][key], mmdets['pred_instances'][key])
        assert len(ours['pred_instances']['bboxes']) > 10
    drop = ('data_time', 'time')
    ours, mmdets = ({k: v for k, v in m.items() if k not in drop} for m in metrics)
    assert ours == mmdets and 'coco/bbox_mAP' in ours


@pytest.mark.parametrize('name, option', [('train.py', '--resume'), ('test.py', '--tta')])
def test_help(name, option, run_tool):
    output = run_tool('ours', name, '--help')
    assert option in output and '--cfg-options' in output and '--work-dir' in output
