"""What the demo shows: the table, what follows from it, and the figure."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from experiments_statistics import paired_difference
from markdown_tables import markdown_table

METRICS = dict(AP='mAP', AP50='mAP_50', AP75='mAP_75', APs='mAP_s', APm='mAP_m', APl='mAP_l')
LABELS = dict(teacher='Teacher', plain='Student, plain', distilled='Student, distilled')
COLOURS = dict(teacher='#555555', plain='#d1663a', distilled='#2166ac')
SCORE = 0.4  # boxes below it are not drawn
IOU = 0.5  # overlap from which a drawn box counts as right


@dataclass
class Result:
    """One evaluated model.

    Attributes:
        kind: 'teacher', 'plain' or 'distilled'.
        seed: Seed of its training.
        parameters: Number of parameters.
        gflops: Multiply-adds of one image in units of 1e9, as mmengine counts them.
        seconds_per_image: Median time of one image on one thread.
        curve: (epoch, validation AP) pairs.
        scores: Test scores in percent by the names of METRICS; negative where undefined.
    """

    kind: str
    seed: int
    parameters: int
    gflops: float
    seconds_per_image: float
    curve: list
    scores: dict[str, float]


@dataclass
class Tile:
    """A test image with the boxes of one model, or with the true ones.

    Attributes:
        image: Pixels, RGB, shape (height, width, 3).
        boxes: Drawn boxes, shape (boxes, 4), as x1, y1, x2, y2.
        names: Class of each box.
        right: Whether each box is right.
        missed: Objects that no box found, shape (missed, 4).
    """

    image: np.ndarray
    boxes: np.ndarray
    names: list[str]
    right: list[bool]
    missed: np.ndarray


def spread(values: list[float], digits: int) -> str:
    """'31.2', or '31.2 ± 0.4' (standard deviation) for several values.

    COCO's -1, for a size that no test object has, becomes a dash.
    """
    if min(values) < 0:
        return '-'
    text = f'{statistics.mean(values):.{digits}f}'
    return text if len(values) == 1 else f'{text} ± {statistics.stdev(values):.{digits}f}'


def table_rows(results: list[Result]) -> list[list[str]]:
    """Header, then one row for each quantity, with a column for each kind of model."""
    groups = [[result for result in results if result.kind == kind] for kind in LABELS]
    return [
        ['', *LABELS.values()],
        *(
            [name, *(spread([result.scores[name] for result in group], 1) for group in groups)]
            for name in METRICS
        ),
        ['parameters', *(f'{group[0].parameters / 1e6:.2f} M' for group in groups)],
        ['GFLOPs', *(f'{group[0].gflops:.3f}' for group in groups)],
        [
            's/image',
            *(
                spread([statistics.mean(result.seconds_per_image for result in group)], 4)
                for group in groups
            ),
        ],
    ]


def verdict(results: list[Result]) -> str:
    """What the table says about distillation, and how far it can be trusted."""
    by_kind = {
        kind: {r.seed: r.scores['AP'] for r in results if r.kind == kind}
        for kind in ('plain', 'distilled')
    }
    gains = {seed: ap - by_kind['plain'][seed] for seed, ap in by_kind['distilled'].items()}
    each = ', '.join(f'{gain:+.1f} (seed {seed})' for seed, gain in gains.items())
    text = f'Distilled minus plain student, test AP: {each}.'
    if len(gains) == 1:
        return (
            f'{text} One seed cannot separate this from chance: '
            '`--seeds 0 1 2` repeats the students.'
        )
    gain = paired_difference(by_kind['distilled'], by_kind['plain'])
    low, high = gain.mean - gain.half, gain.mean + gain.half
    judgement = (
        'distillation helps here'
        if low > 0
        else 'distillation harms here'
        if high < 0
        else 'these seeds do not establish a difference'
    )
    return (
        f'{text} Mean {gain.mean:+.1f}, 95 % interval {low:+.1f} to {high:+.1f} over '
        f'{len(gain.seeds)} seeds: {judgement}.'
    )


def print_report(results: list[Result], notes: list[str], console: Console) -> None:
    """Show the table, what follows from it, and how it came about."""
    header, *rows = table_rows(results)
    table = Table(title='COCO scores on the test images, in percent')
    for index, name in enumerate(header):
        table.add_column(name, justify='right' if index else 'left', no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in [verdict(results), *notes]:
        console.print(note, markup=False)


def write_report(results: list[Result], notes: list[str], folder: Path) -> None:
    """Write report.md and report.json."""
    header, *rows = table_rows(results)
    lines = [
        '# Demo',
        '',
        'COCO scores on the test images, in percent.',
        '',
        *markdown_table(header, rows),
        '',
        verdict(results),
        '',
        *(f'- {note}' for note in notes),
        '',
        '![AP over epochs, and boxes on test images](figure.png)',
        '',
    ]
    (folder / 'report.md').write_text('\n'.join(lines))
    report = dict(
        models=[asdict(result) for result in results], verdict=verdict(results), notes=notes
    )
    (folder / 'report.json').write_text(json.dumps(report, indent=1))


def draw_curves(axes: plt.Axes, results: list[Result]) -> None:
    """Validation AP over epochs; thin lines are single seeds, thick ones their mean."""
    for kind in ('plain', 'distilled'):
        group = [np.array(result.curve) for result in results if result.kind == kind]
        for curve in group if len(group) > 1 else []:
            axes.plot(*curve.T, color=COLOURS[kind], linewidth=0.8, alpha=0.4)
        axes.plot(
            group[0][:, 0],
            np.mean([curve[:, 1] for curve in group], axis=0),
            color=COLOURS[kind],
            linewidth=2.2,
            marker='o',
            markersize=4,
            label=LABELS[kind] + (f', mean of {len(group)}' if len(group) > 1 else ''),
        )
    teacher = next(result for result in results if result.kind == 'teacher').curve[-1][1]
    axes.axhline(
        teacher,
        color=COLOURS['teacher'],
        linestyle='--',
        linewidth=1.4,
        label='Teacher, at its end',
    )
    axes.set(
        xlabel='epoch',
        ylabel='AP on the validation images (percent)',
        ylim=(0, None),
        title='Same network, images, schedule and seed',
    )
    axes.grid(alpha=0.25)
    axes.legend(loc='lower right', frameon=False)
    axes.spines[['top', 'right']].set_visible(False)


def draw_tile(axes: plt.Axes, tile: Tile) -> None:
    """Right boxes in green, wrong ones in red, missed objects dotted in white."""
    axes.imshow(tile.image, interpolation='nearest')
    axes.set(xticks=[], yticks=[])
    styles = [(box, dict(edgecolor='white', linestyle=':', linewidth=1.6)) for box in tile.missed]
    styles += [
        (box, dict(edgecolor='#1aff66' if right else '#ff2a2a', linewidth=1.6))
        for box, right in zip(tile.boxes, tile.right)
    ]
    for (x1, y1, x2, y2), style in styles:
        axes.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, **style))
    for (x1, y1, _, _), name, right in zip(tile.boxes, tile.names, tile.right):
        axes.text(
            max(x1, 1),
            max(y1 - 1.5, 7),
            name,
            fontsize=6.5,
            color='black',
            bbox=dict(facecolor='#1aff66' if right else '#ff7b7b', alpha=0.8, pad=0.6, linewidth=0),
        )


def tally(row: list[Tile]) -> str:
    """How many objects a row of tiles finds, and how many boxes are wrong."""
    right = sum(sum(tile.right) for tile in row)
    wrong = sum(len(tile.right) for tile in row) - right
    missed = sum(len(tile.missed) for tile in row)
    return f'{right} found, {wrong} wrong' if wrong or missed else f'{right} objects'


def draw_figure(results: list[Result], tiles: dict[str, list[Tile]], path: Path) -> None:
    """Curves on the left; on the right a row of tiles for each title.

    Args:
        results: All evaluated models.
        tiles: Row title -> tiles of the same images in the same order.
        path: PNG file to write.
    """
    columns = len(next(iter(tiles.values())))
    figure = plt.figure(figsize=(6.2 + 2.3 * columns, 2.45 * len(tiles) + 0.5), dpi=110)
    left, right = figure.subfigures(1, 2, width_ratios=[5.6, 2.3 * columns])
    draw_curves(
        left.subplots(gridspec_kw=dict(left=0.13, right=0.97, bottom=0.07, top=0.95)), results
    )
    grid = right.subplots(
        len(tiles),
        columns,
        squeeze=False,
        gridspec_kw=dict(left=0.04, right=0.995, bottom=0.005, top=0.95, wspace=0.03, hspace=0.03),
    )
    for axes_row, (title, row) in zip(grid, tiles.items()):
        axes_row[0].set_ylabel(f'{title}: {tally(row)}', fontsize=10)
        for axes, tile in zip(axes_row, row):
            draw_tile(axes, tile)
    right.suptitle(
        f'First test images, boxes with a score of at least {SCORE}. Green: right class '
        f'and IoU ≥ {IOU}; red: wrong; dotted: missed',
        fontsize=10.5,
        y=0.98,
    )
    figure.savefig(path)
    plt.close(figure)
