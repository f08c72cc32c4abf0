"""What diagnose.py found as tables, on the screen and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from markdown_tables import markdown_table

NAMES = dict(
    gradients='Gradients',
    distances='Distances to the teacher',
    scores='Calibration of the class scores',
    detection='Recall against localisation',
)


@dataclass
class Sheet:
    """A table.

    Attributes:
        title: Above it.
        header: Names of the columns.
        rows: Its cells.
        notes: How to read it, below.
    """

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]]
    notes: list[str]


def sheets(report: dict) -> Iterator[Sheet]:
    """The tables of a report.

    Args:
        report: What diagnose.py writes as JSON.
    """
    makers = dict(gradients=_gradients, distances=_distances, scores=_scores, detection=_detection)
    for part, make in makers.items():
        if part in report:
            yield make(report[part])
        if part == 'distances' and any('teacher_map' in row for row in report.get(part, ())):
            yield _teacher_maps(report[part])


def _gradients(rows: list[dict]) -> Sheet:
    return Sheet(
        f'{NAMES["gradients"]}, mean of {rows[0]["batches"]} training batches',
        ('loss', 'value', 'part', 'norm', 'share', 'cosine with task'),
        [
            (
                row['term'],
                _number(row['loss']),
                row['part'],
                _number(row['norm']),
                f'{row["share"]:.1%}',
                _spread(row['cosine'], row['cosine_deviation']),
            )
            for row in rows
        ],
        [
            "task is the sum of the student's own losses. A share is the norm over the sum of the "
            'norms; a cosine below 0 means that a loss pulls against the task, +- is the deviation '
            'between batches.'
        ],
    )


def _distances(rows: list[dict]) -> Sheet:
    steps = sorted({one['steps'] for row in rows for one in row['estimates']})
    cells = []
    for row in rows:
        of_steps = {one['steps']: one for one in row['estimates']}
        line = [row['term'], str(row['level']), f'{row["stride"]:g}', f'{row["student"]:.4f}']
        line += [f'{of_steps[n]["distance"]:.4f}' if n in of_steps else '-' for n in steps]
        if steps:
            last = of_steps.get(steps[-1], {}).get('change')
            line += [_percent(last, '+.2f'), _number(row['velocity']), _number(row['spread'])]
        cells.append(line)
    notes = [
        'PKD distances on test images: 0 equal, 1 unrelated. Channels are standardised over each '
        'batch of the test data loader, so that they compare at equal batch sizes alone.'
    ]
    if steps:
        notes.append(
            f'NFE n is the mean estimate of n steps of the flow, change that from X^S to NFE '
            f'{steps[-1]}. v/X^S is the size of its velocities, spread the deviation of its '
            f'estimates from their mean, both over the size of X^S. Where v/X^S is near 0 the term '
            f'is a feature loss on X^S (docs/fmkt.md, section 7).'
        )
    flow = [*(f'NFE {n}' for n in steps), *(['change', 'v/X^S', 'spread'] if steps else [])]
    return Sheet(NAMES['distances'], ('term', 'level', 'stride', 'X^S', *flow), cells, notes)


def _teacher_maps(rows: list[dict]) -> Sheet:
    maps = [(row, row['teacher_map']) for row in rows if 'teacher_map' in row]
    return Sheet(
        'What VelocityMatching maps the teacher to, T(X^T)',
        ('term', 'level', 'stride', 'norm', 'rank', 'channels'),
        [
            (
                row['term'],
                str(row['level']),
                f'{row["stride"]:g}',
                _number(found['norm']),
                f'{found["rank"]:.1f}',
                str(found['channels']),
            )
            for row, found in maps
        ],
        [
            'Norm is the root of the mean square, rank the participation ratio of the covariance, '
            'at most the channels. A norm near 0 or a rank near 1 is the collapse of T '
            '(docs/fmkt.md, section 6).'
        ],
    )


def _scores(scores: dict) -> Sheet:
    return Sheet(
        f'{NAMES["scores"]}, foreground by {scores["foreground_by"]}',
        ('model', 'where', 'rows', 'confidence', 'right', 'ECE', 'score'),
        [
            (
                row['owner'],
                row['where'],
                f'{row["count"]:,}',
                _number(row['confidence']),
                _percent(row['accuracy']),
                _number(row['ece']),
                _number(row['score']),
            )
            for row in scores['rows']
        ],
        [
            'Confidence is the largest class score, right the share of the rows whose best class '
            'is theirs, ECE the expected distance of both in 15 bins; score is that of the '
            "row's class, on background the largest.",
            'Only over all rows is a low ECE calibration: rows that are chosen by their label are '
            'right more often than a score says, or never. Scores that estimate an overlap (GFL '
            'and the like) are below what is right by design.',
            *scores['notes'],
        ],
    )


def _detection(detection: dict) -> Sheet:
    rows = detection['rows']
    classes = list(rows[0]['classes'])
    shown = classes if len(classes) <= 6 else []
    keys = ('AP', 'AP50', 'AP75', 'AR@100')
    notes = [
        "Oracles put one thing right: boxes gives a detection the box of the same class's ground "
        'truth that it overlaps by 0.5 (what that gains is localisation, what then lacks is '
        'classification and recall), labels its class, scores their order by overlap.',
        *detection['notes'],
    ]
    where = 'are the last columns' if shown else 'are in the JSON file'
    notes.append(f'The AP of the {len(classes)} classes {where}.')
    return Sheet(
        f'{NAMES["detection"]}, in percent',
        ('model', 'oracle', *keys, *shown),
        [
            (
                row['owner'],
                row['oracle'],
                *(_points(row[key]) for key in keys),
                *(_points(row['classes'][name]) for name in shown),
            )
            for row in rows
        ],
        notes,
    )


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3g}'


def _points(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'


def _percent(value: float | None, form: str = '.1f') -> str:
    return '-' if value is None else f'{100 * value:{form}} %'


def _spread(value: float | None, deviation: float | None) -> str:
    if value is None:
        return '-'
    return f'{value:+.3f}' + ('' if deviation is None else f' +- {deviation:.3f}')


def show(report: dict, console: Console) -> None:
    """Print all tables, and what was left out and why."""
    for sheet in sheets(report):
        table = Table(title=sheet.title, title_justify='left', box=SIMPLE_HEAD, padding=0)
        for n, name in enumerate(sheet.header):
            words = all(not row[n][:1].isdigit() for row in sheet.rows)
            table.add_column(name, justify='left' if words else 'right', no_wrap=True)
        before = sheet.rows[0][0]
        for row in sheet.rows:
            if row[0] != before:
                table.add_section()
            table.add_row(*row)
            before = row[0]
        console.print(table)
        for note in sheet.notes:
            console.print(note, style='dim', markup=False, highlight=False)
        console.print()
    for part, reason in report['left_out'].items():
        console.print(f'{NAMES[part]} left out: {reason}', markup=False, highlight=False)


def markdown(report: dict) -> str:
    """All tables as a page."""
    head = f'{report["test_images"]} test images' if report['test_images'] else 'no test images'
    lines = [
        f'# What distillation does: {report["config"]}',
        '',
        f'`{report["checkpoint"]}`, {head}.',
        '',
        '![All parts](diagnose.png)',
        '',
    ]
    for sheet in sheets(report):
        rows = markdown_table(sheet.header, sheet.rows, text=len(sheet.header))
        lines += [f'## {sheet.title}', '', *rows, '', *(f'- {note}' for note in sheet.notes), '']
    if report['left_out']:
        lines += ['## Left out', '']
        lines += [f'- {NAMES[part]}: {reason}' for part, reason in report['left_out'].items()]
        lines.append('')
    return '\n'.join(lines)
