"""Means over the folds of what tools/diagnose.py wrote, as a table, a figure and the kept numbers.

    PYTHONPATH=tools python docs/results/bccd-folds-diagnosis/summarise.py [DIR]

DIR has a folder ROW_FOLD with diagnose.json for each row below and each fold; without it the kept
numbers are shown again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments_statistics import paired_difference

HERE = Path(__file__).resolve().parent
FOLDS = 5
ROWS = dict(
    teacher='teacher',
    r18_plain='plain',
    r18_pkd_fine='PKD',
    r18_fmkt='FM-KT^Theta',
    r18_wttm='WTTM, weight 0.5',
    r18_kd='KD, weight 0.5',
    r18_fmkt_wttm_4='FM-KT^Theta + WTTM, weight 4',
    r18_fmkt_kd_4='FM-KT^Theta + KD, weight 4',
    r18_velocity='velocity matching',  # its flow alone
)
PAIRS = (('r18_kd', 'r18_wttm'), ('r18_fmkt_kd_4', 'r18_fmkt_wttm_4'))
COLUMNS = dict(
    foreground='score, foreground',
    background='score, background',
    ece='ECE',
    AP='AP',
    AP50='AP50',
    AP75='AP75',
    AR='AR',
    platelets='platelets',
    ranked='AP, ranked by overlap',
)
SHOWN = ('teacher', 'r18_plain', 'r18_fmkt_wttm_4', 'r18_fmkt_kd_4')  # in the figure


def numbers_of(diagnosis: dict, owner: str) -> dict:
    """What is kept of a model on a fold; AP, AR and their like in percent."""
    levels = diagnosis.get('distances') if owner == 'student' else []
    distances = [
        dict(
            stride=level['stride'],
            student=level['student'],
            estimate=level['estimates'][-1]['distance'],
            velocity=level['velocity'],
            **level.get('teacher_map', {}),
        )
        for level in levels or ()
    ]
    if 'scores' not in diagnosis:
        return dict(distances=distances)
    scores = {row['where']: row for row in diagnosis['scores']['rows'] if row['owner'] == owner}
    found = {row['oracle']: row for row in diagnosis['detection']['rows'] if row['owner'] == owner}
    as_it_is = found['as it is']
    return dict(
        foreground=scores['foreground']['score'],
        background=scores['background']['score'],
        ece=scores['all']['ece'],
        AP=100 * as_it_is['AP'],
        AP50=100 * as_it_is['AP50'],
        AP75=100 * as_it_is['AP75'],
        AR=100 * as_it_is['AR@100'],
        platelets=100 * as_it_is['classes']['Platelets'],
        ranked=100 * found['scores']['AP'],
        histograms={name: scores[name]['histogram'] for name in ('foreground', 'background')},
        distances=distances,
    )


def read(folder: Path) -> dict:
    """Row -> a list with the numbers of each fold."""
    numbers = {}
    for row in ROWS:
        source = 'r18_plain' if row == 'teacher' else row
        owner = 'teacher' if row == 'teacher' else 'student'
        paths = [folder / f'{source}_{fold}' / 'diagnose.json' for fold in range(FOLDS)]
        numbers[row] = [numbers_of(json.loads(path.read_text()), owner) for path in paths]
    return numbers


def show(numbers: dict) -> None:
    """Print the table, the paired differences and the flow's distances."""
    print('| model | ' + ' | '.join(COLUMNS.values()) + ' |')
    print('|---' + '|---:' * len(COLUMNS) + '|')
    for row, label in ROWS.items():
        if 'AP' not in numbers[row][0]:
            continue
        means = {name: np.mean([fold[name] for fold in numbers[row]]) for name in COLUMNS}
        values = [
            f'{means[name]:.3f}' if means[name] < 1 else f'{means[name]:.1f}' for name in means
        ]
        print(f'| {label} | ' + ' | '.join(values) + ' |')
    for first, second in PAIRS:
        print(f'{ROWS[first]} minus {ROWS[second]}:')
        for name in COLUMNS:
            both = (dict(enumerate(f[name] for f in numbers[row])) for row in (first, second))
            d = paired_difference(*both, FOLDS)
            print(f'  {name} {d.mean:+.3f} ({d.mean - d.half:+.3f} to {d.mean + d.half:+.3f})')
    for row, folds in numbers.items():
        for levels in zip(*(fold['distances'] for fold in folds)):
            mean = {name: np.mean([level[name] for level in levels]) for name in levels[0]}
            print(row, {name: round(float(value), 4) for name, value in mean.items()})


def draw(numbers: dict, path: Path) -> None:
    """Draw the histograms of all folds together."""
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    axes = figure.subplots(1, 2)
    for axis, where in zip(axes, ('background', 'foreground')):
        for row in SHOWN:
            counts = np.sum([fold['histograms'][where] for fold in numbers[row]], axis=0)
            edges = np.linspace(0, 1, len(counts) + 1)
            style = dict(color='black', linestyle='--') if row == 'teacher' else {}
            axis.stairs(counts / counts.sum(), edges, label=ROWS[row], **style)
        axis.set(title=f'{where}, share of the rows', xlabel='score', yscale='log')
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Read the command line and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', nargs='?', type=Path, metavar='DIR')
    folder, kept = parser.parse_args().folder, HERE / 'numbers.json'
    if folder:
        kept.write_text(json.dumps(read(folder)).replace('}, {', '},\n {') + '\n')
    numbers = json.loads(kept.read_text())
    show(numbers)
    draw(numbers, HERE.parents[1] / 'figures' / 'bccd-folds-diagnosis.png')


if __name__ == '__main__':
    main()
