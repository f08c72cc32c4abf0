"""The page and the figure of a table, from the results of its runs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from demo_report import COLOURS, plt
from experiments_lines import (
    Line,
    baselines_of,
    by_machine,
    difference_cells,
    lines_of,
    mean_cell,
)
from experiments_readme import into_readme
from experiments_record import machine, public
from experiments_statistics import by_fold, pooled_deviation, seeds_needed
from experiments_table import Table
from markdown_tables import markdown_table

WORTH = 1.0  # the difference, in percent, for which the seeds are counted


def table_text(table: Table, lines: Sequence[Line]) -> list[str]:
    """A table in Markdown."""
    baselines = baselines_of(table, lines)
    header = ['', 'seeds', 'each seed', 'mean ± s.d.']
    header += [*(f'minus {base.label}' for base in baselines), 's/iteration']
    rows = []
    for line in lines:
        seeds = [seed for seed in table.seeds if seed in line.values]
        count = str(len(seeds)) if len(seeds) == len(table.seeds) else _fewer(seeds, table.seeds)
        values = [line.values[seed] for seed in seeds]
        mean = mean_cell(values)
        differences = difference_cells(table, line, baselines)
        seconds = f'{statistics.median(line.seconds):.3f}' if line.seconds else '-'
        each = ', '.join(f'{value:.2f}' for value in values)
        rows.append([line.label, count, each, mean, *differences, seconds])
    return markdown_table(header, rows, text=3)


def _fewer(seeds: Sequence[int], wanted: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for seed in sorted(seeds):
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    which = (f'{span[0]}-{span[-1]}' if len(span) > 2 else str(span)[1:-1] for span in spans)
    return f'{len(seeds)} of {len(wanted)} ({", ".join(which)})'


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


def render(table: Table, runs: Sequence[dict]) -> list[Path]:
    """Write page and figure, and the tables in READMEs; nothing if there are no results.

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
    for readme in (folder.parents[2] / 'README.md', folder.parent / 'README.md'):
        if readme.is_file() and into_readme(table, runs, readme):
            files.append(readme)
    return files
