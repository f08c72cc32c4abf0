r"""BCCD, five folds: WTTM in each form, and KD and TTM in the same, without a loss on features.

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-logits

A head's outputs are its class scores, read as one two-class distribution for each class (Bernoulli)
or as one softmax over the classes and the background, and its distributions of boxes; WTTM (gamma
0.7), KD (gamma 1) and TTM (gamma 0.7, without the power sum) compare one or both. All have the
weight 0.5 of ../bccd-folds-pairs, whose runs of scores and boxes, and of the students alone, are
shown; the other rows were written down before any of them was run. Nothing is chosen here.
"""

_base_ = '../bccd-folds-pairs/table.py'

runs_of = '../bccd-folds-pairs'  # of the rows that both have
title = 'BCCD, five folds: logits in each form, GFL R18 -> R18 and MobileNetV2 of a quarter'
seeds = list(range(5))
baselines = [f'{student}_{name}' for student in _base_.names for name in ('plain', 'wttm', 'kd')]
logits = ('wttm', 'wttm_boxes')
forms = dict(
    scores=('scores alone, Bernoulli', logits[:1], {}),
    background=('scores alone, softmax', logits[:1], {'form': 'background_softmax'}),
    boxes=('boxes alone', logits[1:], {}),
)


def row(name, label, terms=logits, **changes):
    """The row of scores and boxes, with some terms or with other options of them."""
    base = _base_.rows[name]
    options = {f'model.losses.{term}.{key}': changes[key] for term in terms for key in changes}
    unused = [f'model.losses.{term}.' for term in logits if term not in terms]
    kept = {k: v for k, v in base.options.items() if not k.startswith(tuple(unused))}
    label = f'{_base_.names[base.group]}, {label}'
    return dict(base, label=label, options={**kept, 'model.terms': list(terms), **options})


rows = dict(_delete_=True)
for student in _base_.names:
    for name in ('plain', 'wttm', 'kd'):
        rows[f'{student}_{name}'] = _base_.rows[f'{student}_{name}']
    for form, (label, terms, changes) in forms.items():
        for name in ('wttm', 'kd'):
            rows[f'{student}_{name}_{form}'] = row(
                f'{student}_{name}', f'{name.upper()} on {label}', terms, **changes
            )
    rows[f'{student}_ttm'] = row(
        f'{student}_wttm', 'TTM on scores and boxes', type='mmkd_fm.TTMLoss'
    )
