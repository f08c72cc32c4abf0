"""A plan as tables, on the screen and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from markdown_tables import markdown_table
from plan_measure import Plan, Term

Sheet = tuple[str, Sequence[str], list[Sequence[str]]]
"""Title, header and rows of a table."""


def sheets(plan: Plan) -> Iterator[Sheet]:
    """The tables of a plan."""
    yield (
        'Terms',
        ('term', 'loss', 'student tap <- teacher tap', 'weights'),
        [
            (
                term.name,
                term.kind,
                ' <- '.join(term.taps),
                ', '.join(f'{key} {value:g}' for key, value in term.weights.items()),
            )
            for term in plan.terms
        ],
    )
    levels = [row for term in plan.terms for row in _levels(term)]
    size = 'x'.join(map(str, plan.size))
    if levels:
        header = ('term', 'level', 'stride', f'size at {size}', 'channels', 'projection')
        yield 'Levels', header, levels
    logits = [(term.name, text) for term in plan.terms for text in term.logits]
    if logits:
        yield 'Logits', ('term', 'what they are'), logits
    yield f'Costs, of one image of {size}', ('', 'parameters', 'GFLOPs'), list(_costs(plan))
    memory = [(name, f'{size / 2**20:.1f}') for name, size in plan.memory.items()]
    memory.append(('in all', f'{sum(plan.memory.values()) / 2**20:.1f}'))
    yield 'Memory besides the plain training, without activations', ('', 'MiB'), memory


def _levels(term: Term) -> Iterator[Sequence[str]]:
    for pair in term.pairs:
        student, teacher = pair.channels
        yield (
            term.name,
            str(pair.level),
            f'{pair.stride:g}',
            'x'.join(map(str, pair.size)) if pair.size else 'not reached',
            f'{student} <- {teacher}',
            '1x1' if pair.mapped else 'none',
        )
    if term.left_out:
        yield term.name, ', '.join(map(str, term.left_out)), '', '', '', 'left out'


def _costs(plan: Plan) -> Iterator[Sequence[str]]:
    part = f' ({plan.student_part})' if plan.student_part else ''
    student = f'student, {plan.student}'
    yield student, _millions(plan.parameters['student']), f'{plan.student_gflops:.2f}{part}'
    if plan.teacher:
        where = ', '.join(plan.teacher_tapped)
        yield (
            f'teacher, {plan.teacher}',
            _millions(plan.parameters['teacher']),
            f'{plan.teacher_gflops:.2f} (up to {where})',
        )
    for term in plan.terms:
        cost = 'no flow'
        if term.flow_gflops is not None:
            cost = f'{term.flow_gflops:.3f} a step'
        if term.num_steps:
            cost += f', steps drawn from {", ".join(map(str, term.num_steps))}'
        yield f'extras, {term.name}', _millions(term.parameters), cost


def _millions(count: int) -> str:
    return f'{count / 1e6:.3f} M'


def notes(plan: Plan) -> list[str]:
    """What the tables don't say."""
    return [
        f'Exported: {plan.exported}.',
        'A multiply-add counts as one; box decoding and NMS are not counted.',
    ]


def show(plan: Plan, console: Console) -> None:
    """Print all tables."""
    for title, header, rows in sheets(plan):
        table = Table(title=title, title_justify='left')
        for name in header:
            table.add_column(name)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in notes(plan):
        console.print(note, highlight=False)


def markdown(plan: Plan, title: str) -> str:
    """All tables as a page."""
    lines = [f'# {title}', '']
    for name, header, rows in sheets(plan):
        lines += [f'## {name}', '', *markdown_table(header, rows, text=len(header)), '']
    return '\n'.join([*lines, *(f'- {note}' for note in notes(plan)), ''])


def write(plan: Plan, title: str, path: Path) -> None:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(plan, title), encoding='utf-8')
