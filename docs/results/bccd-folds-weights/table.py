r"""BCCD, five folds: do larger weights of WTTM help the ResNet, and of PKD?

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-weights

The rows of ../bccd-folds-pairs had been seen. Weights are chosen on folds 0 and 1 alone, with seeds
0 and 1: of WTTM beside FM-KT^Theta, or KD in its place, and of PKD, each by its best mean. The
chosen are compared on folds 2 to 4, with seeds 2, 3, 4, 7, 8 and 9. Written down before any result,
but for WTTM's weight 8: added when 4 was above 2 with seed 0.
"""

_base_ = '../bccd-folds-pairs/table.py'

title = 'BCCD, five folds: GFL R18 teaches R18 of a quarter of the width, weights, 12 epochs'
baselines = ['r18_plain', 'r18_pkd_fine']


def row(base, label, **losses):
    """A row of the other table with other weights."""
    options = {f'model.losses.{name}.loss_weight': weight for name, weight in losses.items()}
    return dict(base, label=f'{base["label"]}, {label}', options=dict(base['options'], **options))


known = ('r18_plain', 'r18_pkd_fine', 'r18_fmkt_wttm', 'r18_cwd_wttm')
rows = dict(
    _delete_=True,
    **{name: _base_.rows[name] for name in known},
    **{
        f'r18_fmkt_wttm_{weight}': row(
            _base_.rows.r18_fmkt_wttm,
            f'WTTM {weight}',
            wttm=float(weight),
            wttm_boxes=float(weight),
        )
        for weight in (1, 2, 4, 8)
    },
    r18_fmkt_kd=dict(
        _base_.rows.r18_fmkt_wttm,
        label='R18, FM-KT^Theta + KD',
        options=dict(
            _base_.rows.r18_fmkt_wttm.options,
            **{'model.losses.wttm.gamma': 1.0, 'model.losses.wttm_boxes.gamma': 1.0},
        ),
    ),
    **{
        f'r18_pkd_{weight}': row(_base_.rows.r18_pkd_fine, f'weight {weight}', pkd=float(weight))
        for weight in (16, 32)
    },
)
