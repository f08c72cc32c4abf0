"""Test one checkpoint with several numbers of flow steps, and draw AP or top-1 against cost."""

import argparse
import json
from numbers import Real
from pathlib import Path
from typing import NamedTuple, Optional

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from rich.console import Console
from rich.table import Table
from torch import nn

from complexity import gflops, latency, num_parameters
from mmkd_fm.evaluation.main_metric import main_metric
from mmkd_fm.functional.transport import SOLVERS
from mmkd_fm.models import FlowClsHead, FlowNeck


class Scores(NamedTuple):
    """What is reported of an evaluator: percents, the first is drawn.

    Attributes:
        title: Of the axis.
        keys: Names of the metrics by column.
        factor: From the evaluator's unit to percent.
    """

    title: str
    keys: dict[str, str]
    factor: float


SCORES = (
    Scores(
        'box AP',
        {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'},
        100.0,
    ),
    Scores('top-1', {'top-1': 'accuracy/top1', 'top-5': 'accuracy/top5'}, 1.0),
)

COSTS = ('steps', 'nfe', 'parameters', 'gflops', 'milliseconds')
"""What is in a row beside the metrics."""

EVALUATIONS = {'euler': 1, 'midpoint': 2, 'heun': 2}
"""Evaluations of the network in a step of each solver."""


def main() -> None:
    """Test, print the table, write nfe.json and nfe.png to the work directory."""
    arguments = _parse()
    cfg = Config.fromfile(arguments.config)
    cfg.merge_from_dict(arguments.cfg_options)
    default = Path('work_dirs') / Path(arguments.config).stem
    folder = Path(arguments.work_dir or cfg.get('work_dir') or default)
    cfg.work_dir = str(folder)
    cfg.load_from = arguments.checkpoint
    cfg.resume = False  # the config in the work dir of a resumed training says otherwise
    cfg.launcher = arguments.launcher
    runner = Runner.from_cfg(cfg)
    try:
        check_flows(runner.model, arguments.checkpoint)
    except ValueError as error:
        raise SystemExit(f'error: {error}') from None
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
        'and GFLOPs, or top-1 of a classifier, as a table and a picture.'
    )
    parser.add_argument('config', help='config of a student with a flow, or of its Distiller')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument(
        '--nfe',
        type=int,
        nargs='*',
        metavar='N',
        help='numbers of flow steps; 0 is the plain model (default: 0 1 2 4 8)',
    )
    parser.add_argument(
        '--solver',
        choices=sorted(SOLVERS),
        help='midpoint and heun evaluate the network twice a step (default: that of the config)',
    )
    parser.add_argument(
        '--work-dir', help="where results go (default: the config's, else work_dirs/CONFIG)"
    )
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
    model, flowed = flowed_parts(runner.model)
    for module in flowed:
        module.nfe = nfe
        module.solver = solver or module.solver
    runner._has_loaded = False  # EMA hooks start anew in each test, and take the file's weights
    metrics = runner.test()  # empty if nothing at all is found
    model.eval()
    data = _first_image(runner, model)
    image, samples = data['inputs'], data.get('data_samples')
    unused = 0 if nfe else sum(num_parameters(_flow(module)) for module in flowed)
    return dict(
        steps=nfe,
        nfe=nfe * EVALUATIONS[flowed[0].solver],
        parameters=num_parameters(_student(model)) - unused,
        gflops=gflops(model, image, samples),
        milliseconds=1000 * latency(model, image, samples),
        **{key: float(value) for key, value in metrics.items() if isinstance(value, Real)},
    )


def flowed_parts(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """The model without what a Runner wraps it in, and its parts with a flow.

    Raises:
        ValueError: If there are none.
    """
    model = model.module if is_model_wrapper(model) else model
    flowed = [module for module in model.modules() if isinstance(module, (FlowNeck, FlowClsHead))]
    if not flowed:
        raise ValueError(
            'the student has no FlowNeck, so it costs the same whatever --nfe: test it without '
            '--nfe. A student with the flow at inference has neck=dict(type=FlowNeck, neck=...), '
            'a classifier head=dict(type=FlowClsHead, head=...)'
        )
    return model, flowed


def check_flows(model: nn.Module, checkpoint: str) -> None:
    """Refuse a checkpoint without the flows, which a Runner would test with random ones.

    Raises:
        ValueError: If the model has no flow, or the checkpoint lacks a tensor of the student or
            has it in another shape.
    """
    student = _student(flowed_parts(model)[0])
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    found = {
        key.removeprefix('module.'): value.shape
        for key, value in loaded.get('state_dict', loaded).items()
        if hasattr(value, 'shape')
    }
    wanted = {key: value.shape for key, value in student.state_dict().items()}
    missing = [key for key, shape in wanted.items() if found.get(key) != shape]
    if missing:
        raise ValueError(
            f'{checkpoint} lacks {len(missing)} tensors of the student, as {missing[0]} of shape '
            f'{tuple(wanted[missing[0]])}: it is of '
            f'another student, say without this flow; give one that was trained with this '
            f'config, or test it with its own, without --nfe'
        )


def scores_of(rows: list[dict[str, float]]) -> Scores:
    """What is reported of the metrics in the rows; those of COCO, if nothing was ever found."""
    metrics = {key: value for row in rows for key, value in row.items() if key not in COSTS}
    for scores in SCORES:
        if next(iter(scores.keys.values())) in metrics or not metrics:
            return scores
    name, factor = main_metric(metrics)
    return Scores(name, {name.rpartition('/')[2]: name}, factor)


def _flow(module: nn.Module) -> nn.Module:
    return module.flows if isinstance(module, FlowNeck) else module.flow


def _student(model: nn.Module) -> nn.Module:
    return getattr(model, 'student', model)


def _first_image(runner: Runner, model: nn.Module) -> dict:
    batch = pseudo_collate([runner.test_dataloader.dataset[0]])
    return model.data_preprocessor(batch, False)


def table(rows: list[dict[str, float]]) -> Table:
    """Scores and cost of each number of steps."""
    scores = scores_of(rows)
    keys = set().union(*rows) - set(COSTS)
    columns = {name: key for name, key in scores.keys.items() if key in keys or not keys}
    several = any(row['steps'] != row['nfe'] for row in rows)  # evaluations in a step
    result = Table(title='Flow steps at inference', title_justify='left')
    headers = [*(['steps'] if several else []), 'NFE', *columns]
    for header in (*headers, 'parameters (M)', 'GFLOPs', 'ms/image'):
        result.add_column(header, justify='right')
    for row in rows:
        result.add_row(
            *([str(row['steps'])] if several else []),
            str(row['nfe']),
            *(f'{scores.factor * row.get(key, 0):.1f}' for key in columns.values()),
            f'{row["parameters"] / 1e6:.3f}',
            f'{row["gflops"]:.3f}',
            f'{row["milliseconds"]:.1f}',
        )
    result.caption = (
        'GFLOPs are multiply-adds; ms/image: median forward of the network, one image, no NMS'
        + ('; NFE: evaluations of the flow network, two in a step' if several else '')
    )
    return result


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """The first score against latency and against GFLOPs, as a PNG."""
    scores = scores_of(rows)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout='constrained')
    for axis, key, label in zip(axes, ('milliseconds', 'gflops'), ('ms per image', 'GFLOPs')):
        x = [row[key] for row in rows]
        y = [scores.factor * row.get(next(iter(scores.keys.values())), 0) for row in rows]
        axis.plot(x, y, 'o-', color='tab:blue')
        for row, *point in zip(rows, x, y):
            axis.annotate(
                row['steps'], point, xytext=(0, 7), textcoords='offset points', ha='center'
            )
        axis.set_xlabel(label)
        axis.margins(0.1)
        axis.grid(alpha=0.3)
    # a few tenths are noise and shall look like it
    middle, half = (max(y) + min(y)) / 2, max(2.5, 0.7 * (max(y) - min(y)))
    axes[0].set_ylim(middle - half, middle + half)
    axes[0].set_ylabel(scores.title)
    figure.suptitle('Number of flow steps at inference, at each point', fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
