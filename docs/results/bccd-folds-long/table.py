r"""BCCD, five folds: twice the epochs, does distillation still help?

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-long

The students of ../bccd-folds-weights with 24 epochs in place of 12, which are shown beside; all
rows of 24 were written down before the first of them was run. Nothing is chosen here.
"""

_base_ = '../bccd-folds-weights/table.py'

runs_of = ['../bccd-folds-pairs', '../bccd-folds-weights']  # of the rows that they have too
title = 'BCCD, five folds: 24 epochs, GFL R18 -> R18 and MobileNetV2 of a quarter of the width'
seeds = list(range(5))
baselines = [f'{student}_{name}' for student in _base_.names for name in ('plain_long', 'pkd_long')]
epochs = 24
long = {
    'train_cfg.max_epochs': epochs,
    'train_cfg.val_interval': epochs,
    'param_scheduler.1.T_max': epochs,
    'param_scheduler.1.end': epochs,
}
distilled = dict(pkd_fine='pkd', kd_4='kd_4', fmkt_wttm_4='fmkt_wttm_4', fmkt_kd_4='fmkt_kd_4')
rows = dict(_delete_=True)
for student in _base_.names:
    for name in ('plain', *distilled):
        known = f'{student}_{name}'
        if known in _base_.rows:
            rows[known] = _base_.rows[known]
    plain = _base_.rows[f'{student}_plain']
    rows[f'{student}_plain_long'] = dict(
        plain,
        label=f'{plain.label}, {epochs} epochs',
        options=dict(plain.options, **long),
    )
    for name, short in distilled.items():
        base = _base_.rows.get(f'{student}_{name}')
        if base is not None:
            rows[f'{student}_{short}_long'] = dict(
                base,
                label=f'{base.label}, {epochs} epochs',
                options=dict(base.options, **long),
            )
