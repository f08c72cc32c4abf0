"""What diagnose.py found as one picture, a panel for each part."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diagnose_detection import ORACLES
from diagnose_report import NAMES

COLOURS = ('#2166ac', '#d1663a', '#3a8f4d', '#8e4fa8', '#555555', '#b8860b')
STYLES = dict(student='-', teacher='--')


def draw(report: dict) -> Figure:
    """A picture of six panels; what was left out has its reason there.

    Args:
        report: What diagnose.py writes as JSON.
    """
    figure = Figure(figsize=(14, 7.6), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(f'{report["config"]}\n{report["checkpoint"]}', fontsize=10)
    panels = (
        ('gradients', _norms),
        ('gradients', _cosines),
        ('distances', _distances),
        ('scores', _reliability),
        ('scores', _histograms),
        ('detection', _detection),
    )
    for axes, (part, paint) in zip(figure.subplots(2, 3).flat, panels):
        if part in report:
            paint(axes, report[part])
            axes.spines[['top', 'right']].set_visible(False)
            axes.tick_params(labelsize=8, which='both')
        else:
            reason = report['left_out'].get(part, 'not asked for')
            axes.set_title(NAMES[part], fontsize=9, loc='left')
            axes.text(0.5, 0.5, f'left out:\n{reason[:200]}', ha='center', va='center', wrap=True)
            axes.axis('off')
    return figure


def _bars(axes: Axes, bars: dict[str, dict[str, float | None]], styles: dict[str, dict]) -> None:
    """Bars in groups.

    Args:
        axes: Where to.
        bars: Of each series the height in each group; None draws none.
        styles: Of each series, how its bars look.
    """
    groups = list(dict.fromkeys(group for of_series in bars.values() for group in of_series))
    width = 0.8 / len(bars)
    for n, (name, heights) in enumerate(bars.items()):
        heights = [heights.get(group) for group in groups]
        heights = [np.nan if height is None else height for height in heights]
        at = np.arange(len(groups)) + (n - (len(bars) - 1) / 2) * width
        axes.bar(at, heights, width, label=name, **styles[name])
    axes.set_xticks(range(len(groups)), groups)
    _legend_below(axes, len(bars))


def _legend_below(axes: Axes, entries: int) -> None:
    columns = min(entries, 4)
    place = dict(loc='upper center', bbox_to_anchor=(0.5, -0.09), frameon=False)
    axes.legend(fontsize=7, ncols=columns, **place)


def _of_losses(axes: Axes, rows: list[dict], key: str, but: str | None = None) -> None:
    """Bars of each loss but one, in the same colours in each panel."""
    terms = list(dict.fromkeys(row['term'] for row in rows))
    styles = {term: dict(color=c) for term, c in zip(terms, COLOURS * len(terms))}
    shown = [term for term in terms if term != but] or terms
    bars = {term: {r['part']: r[key] for r in rows if r['term'] == term} for term in shown}
    _bars(axes, bars, styles)


def _norms(axes: Axes, rows: list[dict]) -> None:
    _of_losses(axes, rows, 'norm')
    if any(row['norm'] for row in rows):
        axes.set_yscale('log')
    axes.set_title('Gradient norm of each loss', fontsize=9, loc='left')


def _cosines(axes: Axes, rows: list[dict]) -> None:
    _of_losses(axes, rows, 'cosine', but='task')
    axes.axhline(0, color='black', linewidth=0.8)
    axes.set_title("Cosine with the task's gradient", fontsize=9, loc='left')


def _distances(axes: Axes, rows: list[dict]) -> None:
    for row, colour in zip(rows, COLOURS * len(rows)):
        steps = [0, *(one['steps'] for one in row['estimates'])]
        values = [row['student'], *(one['distance'] for one in row['estimates'])]
        name = f'{row["term"]}, stride {row["stride"]:g}'
        axes.plot(steps, values, 'o-', color=colour, label=name, markersize=4)
    axes.set_xticks(sorted({one['steps'] for row in rows for one in row['estimates']} | {0}))
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel('NFE; 0 is the student', fontsize=8)
    axes.set_title('PKD distance to the teacher', fontsize=9, loc='left')
    axes.legend(fontsize=7)


def _reliability(axes: Axes, scores: dict) -> None:
    axes.plot([0, 1], [0, 1], color='#aaaaaa', linewidth=0.8)
    for row in scores['rows']:
        if row['where'] == 'background':  # nothing is right there
            continue
        colour = COLOURS[0] if row['where'] == 'foreground' else COLOURS[1]
        x, y = ([point[key] for point in row['curve']] for key in ('confidence', 'accuracy'))
        name = f'{row["owner"]}, {row["where"]}'
        if row['ece'] is not None:
            name += f', ECE {row["ece"]:.3f}'
        style = dict(color=colour, linestyle=STYLES[row['owner']])
        axes.plot(x, y, marker='o', markersize=3, label=name, **style)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel('confidence', fontsize=8)
    axes.set_title('Reliability: share that is right', fontsize=9, loc='left')
    axes.legend(fontsize=7)


def _histograms(axes: Axes, scores: dict) -> None:
    for row in scores['rows']:
        if row['where'] == 'all' or not row['count']:
            continue
        colour = COLOURS[0] if row['where'] == 'foreground' else COLOURS[4]
        shares = np.array(row['histogram']) / row['count']
        style = dict(color=colour, linestyle=STYLES[row['owner']])
        edges = np.linspace(0, 1, len(shares) + 1)
        axes.stairs(shares, edges, label=f'{row["owner"]}, {row["where"]}', **style)
    axes.set_yscale('log')
    axes.set_xlabel("score of the row's class; on background the largest", fontsize=8)
    axes.set_title('Share of the rows with a score', fontsize=9, loc='left')
    axes.legend(fontsize=7)


def _detection(axes: Axes, detection: dict) -> None:
    bars, styles = {}, {}
    for row, colour in zip(detection['rows'], COLOURS[: len(ORACLES)] * len(STYLES)):
        name = f'{row["owner"]}, {row["oracle"]}'
        keys = ('AP', 'AP50', 'AP75', 'AR@100')
        bars[name] = {key: None if row[key] is None else 100 * row[key] for key in keys}
        styles[name] = dict(color=colour, alpha=1 if row['owner'] == 'student' else 0.45)
    _bars(axes, bars, styles)
    axes.set_title('AP and recall, with oracles, in percent', fontsize=9, loc='left')
