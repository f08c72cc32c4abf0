r"""BCCD, five folds: RetinaNet teaches RetinaNet, features, logits and both.

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-retinanet

Folds, schedule, metric and evaluation are those of ../bccd-folds-pairs, the heads RetinaNet's, with
nine anchors at a location and no distributions of boxes. All rows were written down before the
first run, and so was what is decided by them: `--distill` takes features alone for two RetinaNets,
on ../bccd.md; does KD or WTTM of the weights that helped GFL heads help beside them, or instead?
FM-KT^Theta, PKD and CWD are those of the catalogue: four levels, weight 4. KD was also given 1 and
16, and FM-KT^Theta its form of GFL heads, with CWD as its metric. Seeds 0 to 2 are run first.
"""

_base_ = '../bccd-folds-pairs/table.py'

title = 'BCCD, five folds: RetinaNet R18 teaches RetinaNet R18 of a quarter of the width, 12 epochs'
seeds = list(range(5))
baselines = ['plain', 'pkd']
teachers = {
    f'retinanet_{fold}': dict(
        config='configs/bccd/retinanet_r18_256x192_bccd.py',
        seed=0,
        options=_base_.teachers[f'gfl_{fold}'].options,
    )
    for fold in range(_base_.folds)
}
student = _base_.rows.r18_plain.options
weights = dict(
    kd_1=('KD, weight 1', {'kd': 1.0}),
    kd_4=('KD, weight 4', {'kd': 4.0}),
    kd_16=('KD, weight 16', {'kd': 16.0}),
    wttm_4=('WTTM, weight 4', {'wttm': 4.0}),
    fmkt_kd_1=('FM-KT^Theta + KD, weight 1', {'fmkt': 4.0, 'kd': 1.0}),
    fmkt_kd_4=('FM-KT^Theta + KD, weight 4', {'fmkt': 4.0, 'kd': 4.0}),
    fmkt_wttm_4=('FM-KT^Theta + WTTM, weight 4', {'fmkt': 4.0, 'wttm': 4.0}),
    pkd_kd_4=('PKD + KD, weight 4', {'pkd': 4.0, 'kd': 4.0}),
)
cwd = {'model.losses.fmkt.metric.type': 'mmkd_fm.CWDLoss'}
distilled = dict(
    pkd=('PKD', {'pkd': 4.0}, {}),
    cwd=('CWD', {'cwd': 4.0}, {}),
    fmkt=('FM-KT^Theta', {'fmkt': 4.0}, {}),
    fmkt_cwd=('FM-KT^Theta, metric CWD', {'fmkt': 4.0}, cwd),
    **{name: (label, terms, {}) for name, (label, terms) in weights.items()},
    fmkt_cwd_kd_4=('FM-KT^Theta, metric CWD, + KD, weight 4', {'fmkt': 4.0, 'kd': 4.0}, cwd),
)
rows = dict(
    _delete_=True,
    plain=dict(
        config='configs/bccd/retinanet_r18-quarter_256x192_bccd.py',
        label='plain',
        options=student,
    ),
    **{
        name: dict(
            config='configs/bccd/fmkt-wttm_retinanet_r18_r18-quarter_256x192_bccd.py',
            teacher='retinanet_{fold}',
            label=label,
            options={
                **student,
                'model.terms': [*terms],
                **{f'model.losses.{term}.loss_weight': value for term, value in terms.items()},
                **changes,
            },
        )
        for name, (label, terms, changes) in distilled.items()
    },
)
