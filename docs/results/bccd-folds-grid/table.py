r"""BCCD, five folds: the same weights for every method, 1, 4 and 16.

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-grid

Weights had been chosen for some methods only. Here each has the same three, for both students;
methods on features see the two finest levels, beside FM-KT^Theta of weight 4 that of the logits
changes. The rule, written down before any new row was run: a method is compared on a fold at the
weight with the best mean over the other folds, of those on which all its weights were trained
(seeds 0 to 4). Rows that ../bccd-folds-pairs and ../bccd-folds-weights have are shown from there,
and had been seen.
"""

_base_ = '../bccd-folds-pairs/table.py'

runs_of = ['../bccd-folds-pairs', '../bccd-folds-weights']  # of the rows that they have too
title = 'BCCD, five folds: each method at the weights 1, 4 and 16, R18 and MobileNetV2 of a quarter'
seeds = list(range(5))
baselines = [f'{student}_plain' for student in _base_.names]
of_flow = ('fmkt.loss_weight', 'fmkt.theta_weight')
of_logits = ('wttm.loss_weight', 'wttm_boxes.loss_weight')
gamma = {'model.losses.wttm.gamma': 1.0, 'model.losses.wttm_boxes.gamma': 1.0}
methods = dict(  # the row that is changed, its label, other options, the weights
    pkd=('pkd_fine', '{}, weight {}', {}, ('pkd.loss_weight',)),
    cwd=('cwd', '{} of weight {}', {}, ('cwd.loss_weight',)),
    fmkt=('fmkt', '{} of weight {}', {}, of_flow),
    wttm=('wttm', '{} of weight {}', {}, of_logits),
    kd=('kd', '{} of weight {}', {}, of_logits),
    fmkt_wttm=('fmkt_wttm', '{} of weight {}', {}, of_logits),
    fmkt_kd=('fmkt_wttm', '{}, FM-KT^Theta + KD (gamma 1) of weight {}', gamma, of_logits),
)
rows = dict(_delete_=True)
for student, label in _base_.names.items():
    rows[f'{student}_plain'] = _base_.rows[f'{student}_plain']
    for method, (known, form, changes, keys) in methods.items():
        base = _base_.rows[f'{student}_{known}']
        for weight in (1, 4, 16):
            weights = {f'model.losses.{key}': float(weight) for key in keys}
            changed = {**base.options, **changes, **weights}
            if changed == dict(base.options):  # CWD and FM-KT^Theta have 4 there
                rows[f'{student}_{known}'] = base
                continue
            name = label if changes else base.label
            rows[f'{student}_{method}_{weight}'] = dict(
                base, label=form.format(name, weight), options=changed
            )
