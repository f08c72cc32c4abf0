"""The tables of benchmark.py, on the screen and as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmark_measure import ratios
from benchmark_report import BARE, Cost, Report, spread
from markdown_tables import markdown_table

PHASES = (
    'teacher forward',
    'student forward',
    'flow forward',
    'metric',
    'backward',
    'optimizer',
    'the rest',
)


@dataclass
class Sheet:
    """A table; the rows whose numbers are in `strong` are highlighted."""

    title: str
    header: Sequence[str]
    rows: list[list[str]]
    strong: set[int] = field(default_factory=set)
    note: str = ''


def sheets(report: Report) -> list[Sheet]:
    """All tables, the targets last."""
    verdicts = {None: 'not measured', True: 'OK', False: 'MISSED'}
    flows = (_training, _flows, _inference, _phases)
    return [
        *(sheet(report) for sheet in flows if report.costs),
        *([_logits(report)] if report.logits else []),
        Sheet(
            'Targets',
            ['target', 'measured', ''],
            [[name, got, verdicts[met]] for name, got, met in report.targets()],
        ),
    ]


def _training(report: Report) -> Sheet:
    by_key = {(c.encoder, c.steps, c.checkpoint): c for c in report.costs}
    rows, strong = [], set()
    for encoder in dict.fromkeys(c.encoder for c in report.costs):
        for steps in dict.fromkeys(c.steps for c in report.costs if c.encoder == encoder):
            pair = [by_key.get((encoder, steps, checkpoint)) for checkpoint in (False, True)]
            rows.append(_training_row(encoder, str(steps), pair))
        pair = [report.average(encoder, checkpoint) for checkpoint in (False, True)]
        if any(pair):
            if encoder == report.encoder:
                strong.add(len(rows))
            rows.append(_training_row(encoder, '/'.join(map(str, report.policy)), pair))
    return Sheet(
        'A training step over (student step + teacher forward)',
        ['meta-encoder', 'steps', 'time', 'time, recomputed', 'memory', 'memory, recomputed'],
        rows,
        strong,
        f'The base: student step {statistics.median(report.student):.3f} s, teacher forward '
        f'{statistics.median(report.teacher):.3f} s, peak memory '
        f'{report.costs[-1].base_memory / 2**20:.0f} MiB. Time: median (smallest-largest) of the '
        f'rounds. Steps 1/2/4: drawn from these; time is averaged over the draw, memory is the '
        f"largest. Recomputed: flow=dict(checkpoint=True). The config's meta-encoder is "
        f'{report.encoder}; {BARE!r} is its metric alone, without a flow.',
    )


def _training_row(encoder: str, steps: str, pair: Sequence[Cost | None]) -> list[str]:
    times = [spread(cost.time) if cost else '-' for cost in pair]
    return [
        _short(encoder),
        steps,
        *times,
        *(f'{cost.space:.2f}' if cost else '-' for cost in pair),
    ]


def _flows(report: Report) -> Sheet:
    levels = list(next(iter(report.flows.values())))
    rows = []
    for encoder, costs in report.flows.items():
        parameters = sum(number for number, _ in costs.values()) / 1e6
        total = sum(gflops for _, gflops in costs.values())
        rows.append(
            [
                _short(encoder),
                f'{parameters:.3f} M',
                *(f'{costs[level][1]:.4f}' for level in levels),
                f'{total:.4f}',
                f'{total / report.students[0].gflops:.1%}',
            ]
        )
    return Sheet(
        'The flow: one step on one image',
        [
            'meta-encoder',
            'parameters',
            *(f'level {level}' for level in levels),
            'all levels',
            'over student',
        ],
        rows,
        {list(report.flows).index(report.encoder)},
        'Parameters of all levels; GFLOPs (multiply-adds of convolutions and matrix products, the '
        "time embedding's too) of each level and of all, these also over the plain student's.",
    )


def _inference(report: Report) -> Sheet:
    plain = report.students[0]
    return Sheet(
        'Inference: one image',
        ['student', 'parameters', 'GFLOPs', 'seconds', 'time over plain'],
        [
            [
                student.name,
                f'{student.parameters / 1e6:.3f} M',
                f'{student.gflops:.3f}',
                f'{statistics.median(student.seconds):.4f}',
                spread(ratios(student.seconds, plain.seconds)),
            ]
            for student in report.students
        ],
        note='The network, without box decoding and NMS.',
    )


def _phases(report: Report) -> Sheet:
    columns = report.phases['base'], report.phases['distillation']
    percent = sum(columns[0].values()) / 100
    rows = [
        [name, *(f'{times.get(name, 0) / percent:.1f}' for times in columns)] for name in PHASES
    ]
    rows.append(['all', *(f'{sum(times.values()) / percent:.1f}' for times in columns)])
    return Sheet(
        'Where the time goes, in percent of (student step + teacher forward)',
        ['phase', 'student + teacher', 'distillation'],
        rows,
        note=f'The mean of {report.encoder} with {"/".join(map(str, report.policy))} steps.',
    )


def _logits(report: Report) -> Sheet:
    own = report.logits[0]
    return Sheet(
        'A training step with a logit loss only, over (student step + teacher forward)',
        ['loss', 'form', 'diagnostics', 'time', 'of the loss', 'memory added', 'of the loss'],
        [
            [
                cost.name,
                cost.form,
                cost.diagnostics,
                spread(cost.time, 3),
                spread(ratios(cost.alone, cost.base), 3),
                f'{cost.space:.2f}',
                f'{cost.memory_alone / cost.logits:.2f}',
            ]
            for cost in report.logits
        ],
        {0},
        f'The base: student step {statistics.median(own.student):.3f} s, teacher forward '
        f'{statistics.median(own.teacher):.3f} s, peak memory {own.base_memory / 2**20:.0f} MiB '
        f"with the teacher's logits. Memory added: by the peak of the step to that of the base, in "
        f"times the student's logits, {own.logits / 2**20:.1f} MiB. Of the loss: its forward and "
        f'backward alone, on given logits; the memory includes their gradient.',
    )


def _short(encoder: str) -> str:
    return encoder.replace('MetaEncoder', '')


def show(report: Report, console: Console) -> None:
    """Print all tables."""
    for sheet in sheets(report):
        table = Table(title=sheet.title, title_justify='left')
        for index, name in enumerate(sheet.header):
            table.add_column(name, justify='right' if index else 'left')
        for index, row in enumerate(sheet.rows):
            table.add_row(*row, style='bold green' if index in sheet.strong else None)
        console.print(table)
        if sheet.note:
            console.print(sheet.note, markup=False, highlight=False)


def markdown(report: Report) -> str:
    """All tables and the settings as Markdown."""
    lines = [', '.join(f'{key} {value}' for key, value in report.settings.items()) + '.', '']
    for sheet in sheets(report):
        marks = ['**' if index in sheet.strong else '' for index in range(len(sheet.rows))]
        rows = [[f'{mark}{cell}{mark}' for cell in row] for mark, row in zip(marks, sheet.rows)]
        lines += [f'## {sheet.title}', '', *markdown_table(sheet.header, rows), '']
        lines += [sheet.note, ''] if sheet.note else []
    return '\n'.join(lines)


def write(report: Report, out: Path | None, markdown_file: Path | None) -> None:
    """Write all figures as JSON, and the tables as Markdown, where asked for."""
    texts = [(out, json.dumps(asdict(report), indent=1)), (markdown_file, markdown(report))]
    for path, text in texts:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
