"""Test one checkpoint with several numbers of flow steps, and draw AP against cost."""

import argparse
import json
from pathlib import Path
from typing import Optional

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from complexity import gflops, latency, num_parameters
from mmkd_fm.functional.transport import SOLVERS
from mmkd_fm.models import FlowNeck

METRICS = ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_75')


def main() -> None:
    """Test, print the table, write nfe.json and nfe.png to the work directory."""
    arguments = _parse()
    cfg = Config.fromfile(arguments.config)
    cfg.merge_from_dict(arguments.cfg_options)
    folder = Path(arguments.work_dir or Path('work_dirs') / Path(arguments.config).stem)
    cfg.work_dir = str(folder)
    cfg.load_from = arguments.checkpoint
    cfg.launcher = arguments.launcher
    runner = Runner.from_cfg(cfg)
    rows = []
    for nfe in arguments.nfe:
        runner.logger.info(f'NFE {nfe}, {len(rows) + 1} of {len(arguments.nfe)}')
        rows.append(evaluate(runner, nfe, arguments.solver))
        if is_main_process():
            (folder / 'nfe.json').write_text(json.dumps(rows, indent=1))
    if is_main_process():
        Console().print(table(rows))
        draw(rows, folder / 'nfe.png')
        Console().print(f'written: {folder / "nfe.json"}, {folder / "nfe.png"}')


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Test one checkpoint with several numbers of flow steps: AP against latency '
        'and GFLOPs, as a table and a picture.'
    )
    parser.add_argument('config', help='config of a student with a FlowNeck, or of its Distiller')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument(
        '--nfe',
        type=int,
        nargs='*',
        metavar='N',
        help='numbers of flow steps; 0 is the plain detector (default: 0 1 2 4 8)',
    )
    parser.add_argument(
        '--solver',
        choices=sorted(SOLVERS),
        help='midpoint and heun evaluate the network twice a step (default: that of the config)',
    )
    parser.add_argument('--work-dir', help='where results go (default: work_dirs/CONFIG)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    arguments = parser.parse_args()
    arguments.nfe = arguments.nfe or [0, 1, 2, 4, 8]
    if min(arguments.nfe) < 0:
        parser.error(f'--nfe takes numbers of steps, 0 or more, but got {min(arguments.nfe)}')
    if not Path(arguments.checkpoint).is_file() and '://' not in arguments.checkpoint:
        parser.error(f'there is no checkpoint {arguments.checkpoint!r}')
    return arguments


def evaluate(runner: Runner, nfe: int, solver: Optional[str] = None) -> dict[str, float]:
    """Metrics and cost of one number of steps.

    Args:
        runner: Runner of a model with flows, whose checkpoint is loaded by `load_from`.
        nfe: Number of steps, 0 or more.
        solver: Solver of the flows; None keeps theirs.

    Raises:
        ValueError: If the model has no flow that runs at inference.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    flowed = [module for module in model.modules() if isinstance(module, FlowNeck)]
    if not flowed:
        raise ValueError(
            'the student has no FlowNeck, so it costs the same whatever --nfe: test it without '
            '--nfe. A student with the flow at inference has neck=dict(type=FlowNeck, neck=...)'
        )
    for module in flowed:
        module.nfe = nfe
        module.solver = solver or module.solver
    metrics = runner.test()  # empty if nothing at all is found
    model.eval()
    image = _first_image(runner, model)
    unused = 0 if nfe else sum(num_parameters(module.flows) for module in flowed)
    return dict(
        nfe=nfe,
        parameters=num_parameters(_student(model)) - unused,
        gflops=gflops(model, image),
        milliseconds=1000 * latency(model, image),
        **{name: metrics.get(name, 0.0) for name in METRICS},
    )


def _student(model: nn.Module) -> nn.Module:
    return getattr(model, 'student', model)


def _first_image(runner: Runner, model: nn.Module) -> Tensor:
    batch = pseudo_collate([runner.test_dataloader.dataset[0]])
    return model.data_preprocessor(batch, False)['inputs']


def table(rows: list[dict[str, float]]) -> Table:
    """AP and cost of each number of steps."""
    result = Table(title='Flow steps at inference', title_justify='left')
    for header in ('NFE', 'AP', 'AP50', 'AP75', 'parameters (M)', 'GFLOPs', 'ms/image'):
        result.add_column(header, justify='right')
    for row in rows:
        result.add_row(
            str(row['nfe']),
            *(f'{100 * row[name]:.1f}' for name in METRICS),
            f'{row["parameters"] / 1e6:.3f}',
            f'{row["gflops"]:.3f}',
            f'{row["milliseconds"]:.1f}',
        )
    result.caption = (
        'GFLOPs are multiply-adds; ms/image: median forward of the network, one image, no NMS'
    )
    return result


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """AP against latency and against GFLOPs, as a PNG."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout='constrained')
    for axis, key, label in zip(axes, ('milliseconds', 'gflops'), ('ms per image', 'GFLOPs')):
        x, y = [row[key] for row in rows], [100 * row[METRICS[0]] for row in rows]
        axis.plot(x, y, 'o-', color='tab:blue')
        for row, *point in zip(rows, x, y):
            axis.annotate(row['nfe'], point, xytext=(0, 7), textcoords='offset points', ha='center')
        axis.set_xlabel(label)
        axis.margins(0.1)
        axis.grid(alpha=0.3)
    # a few tenths are noise and shall look like it
    middle, half = (max(y) + min(y)) / 2, max(2.5, 0.7 * (max(y) - min(y)))
    axes[0].set_ylim(middle - half, middle + half)
    axes[0].set_ylabel('box AP')
    figure.suptitle('Number of flow steps at inference, at each point', fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
