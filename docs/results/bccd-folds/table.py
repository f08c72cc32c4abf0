r"""BCCD, five-fold cross-validation: is what the fixed split shows true of all 364 images?

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds

Metric and weights are those of ../bccd-gfl; so is, nearly, the number of iterations (444, there
416), by fewer epochs of more images. Each fold has a teacher of its own. Nothing is chosen here.
The rows of the finest levels were added after ten trainings of the plain student, before any
distilled one.
"""

title = 'BCCD, five folds: GFL R18 teaches GFL R18 of a quarter of the width, 12 epochs'
metric = 'coco/bbox_mAP'
folds = 5
seeds = list(range(15))  # three of each fold
baselines = ['plain', 'pkd', 'pkd_fine']


def training(epochs, fold):
    """Options of a training; the images of its test are looked at once, when it is over."""
    options = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
        'param_scheduler.1.T_max': epochs,
        'param_scheduler.1.end': epochs,
        'train_dataloader.dataset.ann_file': f'fold{fold}_train.json',
    }
    for part in ('val', 'test'):
        options[f'{part}_dataloader.dataset.ann_file'] = f'fold{fold}_test.json'
        options[f'{part}_evaluator.ann_file'] = f'data/bccd-folds/fold{fold}_test.json'
    return options


def row(label, terms, **losses):
    """A distilled student."""
    return dict(
        config='configs/bccd/fmkt-wttm_gfl_r18_r18-quarter_bccd.py',
        teacher='gfl_{fold}',
        label=label,
        options={
            **training(12, '{fold}'),
            'model.terms': terms,
            **{f'model.losses.{key}': value for key, value in losses.items()},
        },
    )


fine = [0, 1]  # strides 8 and 16
pkd = {'pkd.loss_weight': 8.0}
fmkt = {
    'fmkt.metric.type': 'mmkd_fm.CWDLoss',
    'fmkt.loss_weight': 4.0,
    'fmkt.theta_weight': 4.0,
}
logits = {'wttm.loss_weight': 0.5, 'wttm_boxes.loss_weight': 0.5}
options = {}
for part in ('train', 'val', 'test'):
    options |= {
        f'{part}_dataloader.num_workers': 0,
        f'{part}_dataloader.persistent_workers': False,
        f'{part}_dataloader.dataset.data_root': 'data/bccd-folds/',
    }
evaluations = dict(test={})
teachers = {
    f'gfl_{fold}': dict(config='configs/bccd/gfl_r18_bccd.py', seed=0, options=training(18, fold))
    for fold in range(folds)
}
rows = dict(
    plain=dict(
        config='configs/bccd/gfl_r18-quarter_bccd.py',
        label='plain student',
        options=training(12, '{fold}'),
    ),
    pkd=row('PKD', ['pkd'], **pkd),
    pkd_fine=row('PKD, two finest levels', ['pkd'], **pkd, **{'pkd.levels': fine}),
    fmkt_wttm=row('FM-KT^Theta + WTTM', ['fmkt', 'wttm', 'wttm_boxes'], **fmkt, **logits),
    fmkt_wttm_fine=row(
        'FM-KT^Theta, two finest levels + WTTM',
        ['fmkt', 'wttm', 'wttm_boxes'],
        **fmkt,
        **logits,
        **{'fmkt.levels': fine},
    ),
)
