r"""BCCD, five folds: is the plain student less noisy with more augmentation, and distilled still?

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-augmentation

All other tables flip images, and no more; augmented.py moves, scales and recolours them too. The
plain student trains twice on each fold, for its noise, the others once; the teachers are those of
the other tables. All augmented rows were written down before the first of them was run.
"""

_base_ = '../bccd-folds-weights/table.py'

runs_of = '../bccd-folds-weights'  # of the rows that both have
title = 'BCCD, five folds: more augmentation, GFL R18 -> R18 of a quarter of the width, 12 epochs'
seeds = list(range(10))
baselines = ['r18_plain', 'r18_plain_augmented']
shown = ('r18_plain', 'r18_pkd_fine', 'r18_fmkt_kd_4')
rows = dict(_delete_=True, **{name: _base_.rows[name] for name in shown})
for name in shown:
    flips = _base_.rows[name]
    config = 'augmented' if name == 'r18_plain' else 'augmented_distilled'
    rows[f'{name}_augmented'] = dict(
        flips,
        config=f'docs/results/bccd-folds-augmentation/{config}.py',
        label=f'{flips.label}, more augmentation',
    )
