"""Two processes train one model, with gradients averaged by gloo."""

from pathlib import Path

import pytest

from mmkd_fm.functional import draw_num_steps

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name('gloo_worker.py')


@pytest.fixture(scope='module')
def train_with_two(tools):
    """Train a config with two processes; gives the work dir."""

    def run(cfg, work_dir, *resume):
        work_dir.mkdir()
        cfg.dump(work_dir / 'config.py')
        tools.run_python(
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            2,
            WORKER,
            work_dir / 'config.py',
            *resume,
            cwd=work_dir,
        )
        return work_dir

    return run


def assert_ranks_are_equal(work_dir, tools):
    ranks = [tools.load(work_dir / f'rank{rank}.pth') for rank in range(2)]
    assert tools.differences(*ranks) == []
    assert any(name.startswith('distill_losses.') for name in ranks[0])
    assert len(ranks[0]) > 50


def test_pkd(distill_config, train_with_two, tmp_path, tools):
    work_dir = train_with_two(distill_config('gfl', losses='pkd'), tmp_path / 'run')
    assert_ranks_are_equal(work_dir, tools)
    assert len(tools.read_losses(work_dir)) == 2  # 5 images for each process, in batches of 3


def test_a_flow_at_inference_of_any_steps(distill_config, train_with_two, tmp_path, tools):
    cfg = distill_config(losses='any-nfe', max_epochs=3)
    work_dir = train_with_two(cfg, tmp_path / 'run')
    assert_ranks_are_equal(work_dir, tools)
    drawn = [draw_num_steps((0, 1, 2), 1, i) for i in range(6)]
    assert set(drawn) == {0, 1, 2}
    taken = [line['fmkt_steps'] for line in tools.read_losses(work_dir).values()]
    assert taken == [max(steps, 1) for steps in drawn]


def test_resume_equals_the_uninterrupted_run(
    distill_config, train_with_two, train, tmp_path, tools
):
    cfg = distill_config(max_epochs=2, ema=True)
    straight = train_with_two(cfg, tmp_path / 'straight')
    resumed = train_with_two(cfg, tmp_path / 'resumed', straight / 'epoch_1.pth')
    assert_ranks_are_equal(straight, tools)
    expected, got = (tools.load(run / 'epoch_2.pth') for run in (straight, resumed))
    assert len(expected['distill_state']['generators']) == 2
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'distill_state'):
        assert tools.differences(expected[key], got[key], key) == []
    expected, got = (tools.read_losses(run) for run in (straight, resumed))
    assert list(got) == [3, 4]
    assert tools.differences({i: expected[i] for i in got}, got) == []

    alone = train(cfg, tmp_path / 'alone', resume=straight / 'epoch_1.pth')
    assert 'the checkpoint is of 2 processes, this run has 1' in tools.read_log(alone)
