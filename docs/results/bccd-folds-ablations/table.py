r"""BCCD, five folds: what does each part of FM-KT do for the ResNet?

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-ablations

../demo-gfl asks the same with one seed. A row changes one thing of FM-KT^Theta of
../bccd-folds-pairs (velocity matching needs another metric and weights too), whose runs of the
first four rows are shown; the other rows were written down before any of them was run. Nothing is
chosen here. Other weights are in ../bccd-folds-grid.
"""

_base_ = '../bccd-folds-pairs/table.py'

runs_of = '../bccd-folds-pairs'  # of the rows that both have
title = 'BCCD, five folds: the parts of FM-KT, GFL R18 -> R18 of a quarter of the width, 12 epochs'
seeds = list(range(5))
baselines = ['r18_plain', 'r18_cwd', 'r18_fmkt']


def fmkt(label, **changes):
    """FM-KT^Theta with the metric CWD, 1, 2 or 4 steps and weights of 4, changed."""
    base = _base_.rows['r18_fmkt']
    options = {f'model.losses.fmkt.{key}': value for key, value in changes.items()}
    return dict(base, label=f'{base.label}, {label}', options=dict(base.options, **options))


velocity = {
    'objective.type': 'mmkd_fm.VelocityMatching',
    'metric.type': 'mmkd_fm.MSELoss',
    'theta_weight': 0.0,
    'loss_weight': 0.5,  # as in ../demo-gfl
}
rows = dict(
    _delete_=True,
    **{name: _base_.rows[name] for name in ('r18_plain', 'r18_pkd_fine', 'r18_cwd', 'r18_fmkt')},
    r18_steps_1=fmkt('1 step', **{'flow.num_steps': 1}),
    r18_no_theta=fmkt('without the Theta term', theta_weight=0.0),
    r18_conv=fmkt('ConvMetaEncoder', **{'flow.meta_encoder.type': 'mmkd_fm.ConvMetaEncoder'}),
    r18_vp=fmkt('VP schedule', **{'flow.schedule': 'vp'}),
    r18_velocity=fmkt('velocity matching (MSE), serial', **velocity),
    r18_forced=fmkt('velocity matching (MSE), teacher forcing', teacher_forcing=True, **velocity),
    r18_decoupled=fmkt('half of the pairs decoupled', pair_ratio=0.5),
    r18_steps_8=fmkt('8 steps', **{'flow.num_steps': 8}),
    r18_ve=fmkt('VE schedule', **{'flow.schedule': 've'}),
    r18_metric_pkd=fmkt(
        'with PKD as its metric, weights of 8',
        **{'metric.type': 'mmkd_fm.PKDLoss', 'loss_weight': 8.0, 'theta_weight': 8.0},
    ),
)
