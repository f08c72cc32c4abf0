"""The page and the figure of a table, from the results of its runs."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_report import COLOURS, plt
from experiments_record import machine, public
from experiments_statistics import (
    Difference,
    by_fold,
    paired_difference,
    pooled_deviation,
    seeds_needed,
)
from experiments_table import Table

WORTH = 1.0  # the difference, in percent, for which the seeds are counted
ENOUGH = 3  # seeds that a row of the README has at least
MARKED = r'(?P<begin><!-- table: {name}(?:, rows: (?P<rows>[^>]+?))? -->).*?(?P<end><!-- end -->)'


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        row: Name of its row.
        variant: Name of its own way of testing; None for the table's.
        label: What readers call it.
        values: Seed -> metric in percent.
        seconds: Seconds of an iteration, of each run whose log has it.
    """

    row: str
    variant: str | None
    label: str
    values: dict[int, float]
    seconds: list[float]


def by_machine(runs: Sequence[dict]) -> list[list[dict]]:
    """Runs that may be compared: of one kind of processor and one torch."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault(machine(run), []).append(run)
    return list(groups.values())


def lines_of(table: Table, runs: Sequence[dict], evaluation: str) -> list[Line]:
    """Lines of an evaluation's table, as declared; those without a run are left out.

    Args:
        table: The table.
        runs: Results of one kind of machine.
        evaluation: Name of the evaluation.
    """
    lines = []
    for row in table.rows.values():
        own = [run for run in runs if run['row'] == row.name]
        for variant in (None, *row.variants):
            key = evaluation if variant is None else f'{evaluation}/{variant}'
            label = row.label if variant is None else f'{row.label}, {variant}'
            values = {
                run['seed']: table.scale * run['evaluations'][key][table.metric] for run in own
            }
            times = [run['seconds_per_iteration'] for run in own if run['seconds_per_iteration']]
            if values:
                lines.append(Line(row.name, variant, label, values, times))
    return lines


def show_difference(difference: Difference | None) -> str:
    """'+1.2 (+0.3 to +2.1)', with the number of pairs where there is no interval."""
    if difference is None:
        return '-'
    if difference.half is None:
        return f'{difference.mean:+.2f} (one seed: no interval)'
    low, high = difference.mean - difference.half, difference.mean + difference.half
    return f'{difference.mean:+.2f} ({low:+.2f} to {high:+.2f})'


def table_text(table: Table, lines: Sequence[Line]) -> list[str]:
    """A table in Markdown."""
    baselines = _baselines(table, lines)
    header = ['', 'seeds', 'each seed', 'mean ± s.d.']
    header += [*(f'minus {base.label}' for base in baselines), 's/iteration']
    text = [_markdown_row(header), '|---' * 3 + '|---:' * (len(header) - 3) + '|']
    for line in lines:
        seeds = [seed for seed in table.seeds if seed in line.values]
        count = str(len(seeds)) if len(seeds) == len(table.seeds) else _fewer(seeds, table.seeds)
        values = [line.values[seed] for seed in seeds]
        mean = _mean_text(values)
        differences = _differences(table, line, baselines)
        seconds = f'{statistics.median(line.seconds):.3f}' if line.seconds else '-'
        each = ', '.join(f'{value:.2f}' for value in values)
        text.append(_markdown_row([line.label, count, each, mean, *differences, seconds]))
    return text


def _baselines(table: Table, lines: Sequence[Line]) -> list[Line]:
    """Lines that all others are compared with, of those with a run."""
    base = {line.row: line for line in lines if line.variant is None}
    return [base[name] for name in table.baselines if name in base]


def _differences(table: Table, line: Line, baselines: Sequence[Line]) -> list[str]:
    """A line minus each baseline; nothing where it is that one."""
    differences = [paired_difference(line.values, base.values, table.folds) for base in baselines]
    return [
        '' if line is base else show_difference(difference)
        for base, difference in zip(baselines, differences)
    ]


def _mean_text(values: Sequence[float]) -> str:
    """'41.20 ± 0.30'; without a deviation where there is one value."""
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.2f}{deviation}'


def _markdown_row(cells: Sequence[str]) -> str:
    return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'


def _fewer(seeds: Sequence[int], wanted: Sequence[int]) -> str:
    return f'{len(seeds)} of {len(wanted)} ({", ".join(map(str, seeds))})'


def noise_text(table: Table, lines: Sequence[Line]) -> str:
    """What the seeds say about the noise, and how many would be needed."""
    trained = [line for line in lines if not line.variant]  # a variant is the same trainings again
    groups = [list(line.values.values()) for line in trained]
    if table.folds is not None:
        groups = [fold for line in trained for fold in by_fold(line.values, table.folds)]
    pooled = pooled_deviation(groups)
    if pooled is None:
        if table.folds is not None:
            return (
                f'Seed N has fold N mod {table.folds}. One training of each fold: the noise '
                f'between seeds of a fold is not known. The intervals are over the folds.'
            )
        return 'One seed of each row: the noise between seeds is not known, nothing is established.'
    deviation, freedom = pooled
    if table.folds is not None:
        mean = deviation / math.sqrt(table.folds)
        return (
            f'Seed N has fold N mod {table.folds}. Standard deviation between seeds of a fold, '
            f'pooled over folds and rows: {deviation:.2f} ({freedom} degrees of freedom); of the '
            f'mean over the {table.folds} folds, one training each, by that: {mean:.2f}. Means of '
            f'folds needed for a difference of {WORTH} between two rows (two-sided t test at 5 %, '
            f'power 80 %): {seeds_needed(mean, WORTH)} of each.'
        )
    return (
        f'Standard deviation between seeds, pooled over the rows: {deviation:.2f} ({freedom} '
        f'degrees of freedom). Seeds needed for a difference of {WORTH} between two rows '
        f'(two-sided t test at 5 %, power 80 %): {seeds_needed(deviation, WORTH)} of each.'
    )


def machine_text(runs: Sequence[dict]) -> str:
    """On what, with what and when these were run."""
    where = [run['environment'] for run in runs]

    def listed(key: str) -> str:
        # a run in several legs has several commits
        values = (v for part in where if key in part for v in str(part[key]).split(', '))
        return ', '.join(dict.fromkeys(values))

    packages = [f'{name} {listed(name)}' for name in ('mmdet', 'mmpretrain') if listed(name)]
    dirty = sum(part['dirty'] for part in where)
    changed = f'; {dirty} of {len(runs)} runs with changes not committed' if dirty else ''
    dates = sorted(run['date'][:10] for run in runs)
    return (
        f'{listed("device")}, threads: {listed("threads")}, torch {listed("torch")}, '
        f'{", ".join(packages)}, mmkd_fm {listed("mmkd_fm")} (commit {listed("commit")}{changed}), '
        f'{" to ".join(sorted({dates[0], dates[-1]}))}.'
    )


def teacher_texts(table: Table, runs: Sequence[dict]) -> list[str]:
    """The teachers that were used; several with one name are a warning."""
    used = {run['teacher']['sha256']: run['teacher'] for run in runs if run['teacher']}
    texts = []
    for teacher in used.values():
        value = (teacher['metrics'] or {}).get(table.metric)
        score = '' if value is None else f', {table.scale * value:.2f} in its last validation'
        texts.append(
            f'- Teacher {teacher["name"]}: `{teacher["config"]}`, seed {teacher["seed"]}{score} '
            f'(sha256 {teacher["sha256"][:12]}{", trained by hand" if teacher["by_hand"] else ""})'
        )
    if len({teacher['name'] for teacher in used.values()}) < len(used):
        texts.append('- **Warning: files of different trainings served as the same teacher.**')
    return texts


def row_texts(table: Table, runs: Sequence[dict]) -> list[str]:
    """What each row is, and which have not been run."""
    common = set.intersection(*(set(_settings(row.options)) for row in table.rows.values()))
    texts = []
    for row in table.rows.values():
        own = [part for part in _settings(row.options) if part not in common]
        said = f': `{" ".join(own)}`' if own else ''
        ran = '' if any(run['row'] == row.name for run in runs) else ' (not run)'
        ways = [
            f'; {name}: tested with `{" ".join(_settings(options))}`'
            for name, options in row.variants.items()
        ]
        texts.append(f'- {row.label}{ran}: `{public(row.config)}`{said}{"".join(ways)}')
    for name, options in table.evaluations.items():
        if options:
            texts.append(f'- {name}: tested with `{" ".join(_settings(options))}`')
    if common:
        texts.append(f'- all: `{" ".join(sorted(common))}`')
    return texts


def _settings(options: dict) -> list[str]:
    return [f'{key}={json.dumps(value)}' for key, value in public(options).items()]


def page(table: Table, runs: Sequence[dict]) -> str:
    """The page in Markdown.

    Args:
        table: The table.
        runs: Its results.

    Raises:
        ValueError: If there are none.
    """
    if not runs:
        raise ValueError(f'{table.folder.name}: expected results in runs/, got none; run it first')
    name, groups = table.folder.name, by_machine(runs)
    level = '##' if len(groups) == 1 else '###'
    text = [
        f'# {table.title}',
        '',
        f'{table.metric} in percent at the end of the last epoch. Made by '
        f'`python tools/experiments.py docs/results/{name} --render` from `{name}/runs/`; what is '
        f'run stands in `{name}/table.py`.',
        '',
    ]
    if len(groups) > 1:
        text += [
            f'**Warning: these runs come from {len(groups)} kinds of machines or versions of '
            'torch. Each has tables of its own; do not compare across them.**',
            '',
        ]
    for group in groups:
        if len(groups) > 1:
            text += [f'## {" and torch ".join(machine(group[0]))}', '']
        text += [machine_text(group), '']
        for evaluation in table.shown:
            lines = lines_of(table, group, evaluation)
            text += [f'{level} {evaluation.capitalize()}', '', *table_text(table, lines), '']
            text += [noise_text(table, lines), '']
    text += [
        "Differences are between runs of the same seed, with their 95 % interval (Student's t), "
        'not corrected for the number of comparisons. Where it holds 0, these seeds establish no '
        'difference. s/iteration: median, other jobs may have run beside.'
        + (
            ''
            if table.folds is None
            else " The interval is that of the folds' means, since the seeds of a fold share its "
            'images and its teacher; folds share training images, which it does not know.'
        ),
        '',
        f'![Each seed, and the means](../figures/{name}_results.png)',
        '',
        '## The rows',
        '',
        *row_texts(table, runs),
        *teacher_texts(table, runs),
        '',
    ]
    notes = table.folder / 'notes.md'
    if notes.is_file():
        text.append(notes.read_text(encoding='utf-8').rstrip('\n') + '\n')
    return '\n'.join(text)


def draw(table: Table, runs: Sequence[dict], path: Path) -> None:
    """One dot for each seed, a bar for the mean; a panel for each evaluation and machine."""
    groups = by_machine(runs)
    panels = [
        (name, group, lines_of(table, group, name)) for group in groups for name in table.shown
    ]
    most = max(len(lines) for _, _, lines in panels)
    figure, axes = plt.subplots(
        1,
        len(panels),
        squeeze=False,
        figsize=(2.6 + 4.6 * len(panels), 1.2 + 0.42 * most),
        dpi=110,
        layout='constrained',
    )
    for axis, (name, group, lines) in zip(axes[0], panels):
        for height, line in enumerate(lines):
            values = list(line.values.values())
            colour = COLOURS['plain' if line.row in table.baselines else 'distilled']
            mean = statistics.mean(values)
            axis.plot([mean, mean], [height - 0.3, height + 0.3], color=colour, linewidth=2.2)
            axis.plot(values, [height] * len(values), 'o', color=colour, alpha=0.6, markersize=5)
        axis.set_yticks(range(len(lines)), [line.label for line in lines])
        axis.set_ylim(len(lines) - 0.5, -0.5)  # the first row on top
        axis.set_xlabel(f'{table.metric} (percent)')
        title = name if len(groups) == 1 else f'{name}, {" and torch ".join(machine(group[0]))}'
        axis.set_title(title, fontsize=10)
        axis.grid(axis='x', alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def summary(table: Table, runs: Sequence[dict], rows: Sequence[str] = ()) -> str:
    """The first evaluation as a short table, for the README: rows with three seeds or more.

    Args:
        table: The table.
        runs: Its results.
        rows: Names of the rows to show, in the table's order; all if there are none.

    Raises:
        ValueError: If the runs come from several kinds of machines, whose numbers are not compared,
            or a row isn't in the table or has fewer seeds.
    """
    if len(by_machine(runs)) > 1:
        raise ValueError(
            f'{table.folder.name}: expected runs of one kind of machine and one torch for the '
            f'README, got {len(by_machine(runs))}; take its marks out of the README'
        )
    lines = [line for line in lines_of(table, runs, table.shown[0]) if not line.variant]
    lines = [line for line in lines if len(line.values) >= ENOUGH]
    baselines = _baselines(table, lines)
    if rows:
        shown = [line.row for line in lines]
        if unknown := [row for row in rows if row not in shown]:
            raise ValueError(
                f'{table.folder.name}: the README asks for rows {", ".join(unknown)}, which have '
                f'fewer than {ENOUGH} seeds or are not declared; there are {", ".join(shown)}'
            )
        lines = [line for line in lines if line.row in rows]
    header = ['student', 'seeds', f'{table.shown[0]}, mean ± s.d.']
    header += [f'minus {base.label}' for base in baselines]
    text = [_markdown_row(header), '|---' + '|---:' * (len(header) - 1) + '|']
    for line in lines:
        differences = _differences(table, line, baselines)
        values = list(line.values.values())
        text.append(_markdown_row([line.label, str(len(values)), _mean_text(values), *differences]))
    return '\n'.join(text)


def into_readme(table: Table, runs: Sequence[dict], readme: Path) -> bool:
    """Write the summary between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    ``<!-- table: NAME, rows: ROW ... -->`` shows these rows alone.

    Args:
        table: The table, NAME being that of its folder.
        runs: Its results.
        readme: The file.

    Returns:
        Whether the file has such marks.
    """
    text = readme.read_text(encoding='utf-8')
    marked = re.search(MARKED.format(name=re.escape(table.folder.name)), text, re.DOTALL)
    if not marked:
        return False
    rows = (marked['rows'] or '').split()
    before, after = text[: marked.end('begin')], text[marked.start('end') :]
    readme.write_text(f'{before}\n{summary(table, runs, rows)}\n{after}', encoding='utf-8')
    return True


def render(table: Table, runs: Sequence[dict]) -> list[Path]:
    """Write page and figure, and the table in the README; nothing if there are no results.

    Returns:
        The files.
    """
    if not runs:
        return []
    folder = table.folder
    files = [
        folder.with_name(f'{folder.name}.md'),
        folder.parents[1] / 'figures' / f'{folder.name}_results.png',
    ]
    draw(table, runs, files[1])
    files[0].write_text(page(table, runs), encoding='utf-8')
    readme = folder.parents[2] / 'README.md'
    if readme.is_file() and into_readme(table, runs, readme):
        files.append(readme)
    return files
