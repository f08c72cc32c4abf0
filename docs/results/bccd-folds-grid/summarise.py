"""Each method at the weight that the other folds choose, as two Markdown tables.

PYTHONPATH=tools python docs/results/bccd-folds-grid/summarise.py
"""

import statistics
from collections import defaultdict
from pathlib import Path

from experiments_lines import show_difference
from experiments_record import read_results
from experiments_statistics import paired_difference
from experiments_table import Table, read_table

HERE = Path(__file__).resolve().parent
METHODS = dict(
    pkd='PKD',
    cwd='CWD',
    fmkt='FM-KT^Theta',
    wttm='WTTM',
    kd='KD',
    fmkt_wttm='FM-KT^Theta + WTTM',
    fmkt_kd='FM-KT^Theta + KD',
)
WEIGHTS = (1, 4, 16)


def values_of(table: Table) -> dict[str, dict[int, float]]:
    """Test AP in percent by row and fold, of the first training on each fold."""
    values = defaultdict(dict)
    for run in read_results(table):
        if run['seed'] < table.folds:
            values[run['row']][run['seed']] = 100 * run['evaluations']['test'][table.metric]
    return values


def weights_of(values: dict, student: str, method: str) -> dict[int, dict[int, float]]:
    """AP by weight and fold, on the folds on which all weights were trained."""
    rows = {}
    for weight in WEIGHTS:
        name = f'{student}_{method}_{weight}'
        known = f'{student}_{method}'  # CWD and FM-KT^Theta have 4 in the table of the pairs
        rows[weight] = values[known if weight == 4 and name not in values else name]
    common = set.intersection(*(set(row) for row in rows.values()))
    return {weight: {fold: row[fold] for fold in sorted(common)} for weight, row in rows.items()}


def chosen(weights: dict[int, dict[int, float]]) -> dict[int, int]:
    """For each fold the weight with the best mean over the others; the smaller of equals."""
    folds = next(iter(weights.values()))
    return {
        fold: max(weights, key=lambda w: statistics.mean(weights[w][f] for f in folds if f != fold))
        for fold in folds
    }


def main() -> None:
    """Print the tables."""
    table = read_table(HERE)
    values = values_of(table)
    for student in ('r18', 'mobilenetv2'):
        compared = {}
        print(f'\n| {student} | folds | 1 | 4 | 16 | chosen | AP | minus PKD | minus plain |')
        print('|---|---|---:|---:|---:|---|---:|---|---|')
        for method, label in METHODS.items():
            weights = weights_of(values, student, method)
            folds = len(weights[1])
            if folds < 2:
                print(f'| {label} | {folds} | | | | | | | |')
                continue
            choice = chosen(weights)
            bases = (compared.get('pkd', {}), values[f'{student}_plain'])
            compared[method] = {fold: weights[weight][fold] for fold, weight in choice.items()}
            means = [f'{statistics.mean(row.values()):.1f}' for row in weights.values()]
            differences = [
                show_difference(paired_difference(compared[method], base, table.folds))
                for base in bases
            ]
            picked = ', '.join(map(str, choice.values()))
            mean = f'{statistics.mean(compared[method].values()):.1f}'
            print(f'| {" | ".join([label, str(folds), *means, picked, mean, *differences])} |')


if __name__ == '__main__':
    main()
