"""What MMEngine leaves in the work dir of a training: checkpoints, scores and times."""

from __future__ import annotations

import json
import re
import statistics
import zipfile
from datetime import datetime
from pathlib import Path

from mmengine.config import Config

TIMES = ('time', 'data_time')


def length(cfg: Config) -> int:
    """Epochs of a config, or iterations if it counts these."""
    return cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters


def unit(cfg: Config) -> str:
    """What the training of a config counts: 'epoch' or 'iter'."""
    return 'epoch' if cfg.train_cfg.get('max_epochs') else 'iter'


def last_checkpoint(folder: Path, unit: str) -> tuple[int, Path] | None:
    """The latest whole checkpoint of a work dir, and its number of epochs or iterations.

    MMEngine's `last_checkpoint` is not asked: it names a place, and the folder may have been moved.

    Args:
        folder: The work dir.
        unit: What the training counts, 'epoch' or 'iter'; a hook may save by the other.
    """
    found = []
    for path in folder.glob(f'{unit}_*.pth'):
        match = re.fullmatch(rf'{unit}_(\d+)\.pth', path.name)
        if match and zipfile.is_zipfile(path):  # one that was being written is not
            found.append((int(match[1]), path))
    return max(found, default=None)


def _legs(folder: Path) -> list[Path]:
    return sorted(folder.glob('*/vis_data/scalars.json'))


def scalars(folder: Path) -> list[dict]:
    """What MMEngine's logger wrote, over all legs of an interrupted training."""
    lines = [line for path in _legs(folder) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith('}')]


def validations(folder: Path) -> dict[int, dict]:
    """Metrics of each validation of a training, by epoch (iteration)."""
    lines = [line for line in scalars(folder) if 'iter' not in line]
    return {
        line['step']: {key: line[key] for key in line if key not in (*TIMES, 'step')}
        for line in sorted(lines, key=lambda line: line['step'])
    }


def with_metric(metrics: dict, metric: str) -> dict:
    """Metrics that are sure to hold the main one; a detector that finds nothing has 0.

    Raises:
        ValueError: If the evaluator does not give it.
    """
    if metric in metrics:
        return metrics
    if not metrics and metric.startswith('coco/'):
        return {metric: 0.0}  # mmdet gives no numbers where no box is found
    raise ValueError(
        f'expected the metric {metric}, got {", ".join(metrics) or "none"}; name one of these in '
        'table.py, or change the evaluator'
    )


def curve(folder: Path, metric: str) -> list[list]:
    """(epoch, main metric) pairs of a training."""
    return [
        [step, with_metric(metrics, metric)[metric]]
        for step, metrics in validations(folder).items()
    ]


def seconds(folder: Path) -> float:
    """Time of all legs of a training, from the start of MMEngine's runner to its last line."""
    total = 0.0
    for path in _legs(folder):
        begun = datetime.strptime(path.parents[1].name[:15], '%Y%m%d_%H%M%S')
        total += path.stat().st_mtime - begun.timestamp()
    return round(total, 1)


def seconds_per_iteration(folder: Path) -> float | None:
    """Median of what the log says, data loading included."""
    times = [line['time'] for line in scalars(folder) if 'iter' in line and 'time' in line]
    return round(statistics.median(times), 4) if times else None
