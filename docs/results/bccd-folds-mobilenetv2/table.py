r"""BCCD, five-fold cross-validation of the other architecture: does it gain on all 364 images?

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-mobilenetv2

Folds, schedule, metric and weights are those of ../bccd-folds, whose teachers are of another
machine; all rows were written down before the first run. Nothing is chosen here.
"""

title = 'BCCD, five folds: GFL R18 teaches GFL MobileNetV2 of a quarter of the width, 12 epochs'
metric = 'coco/bbox_mAP'
folds = 5
seeds = list(range(10))  # two of each fold
baselines = ['plain', 'pkd', 'pkd_fine']
student = 'configs/bccd/gfl_mobilenetv2-quarter_bccd.py'


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
        config='configs/bccd/fmkt-wttm_gfl_r18_mobilenetv2-quarter_bccd.py',
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
cwd = {'cwd.loss_weight': 4.0}
fmkt = {
    'fmkt.metric.type': 'mmkd_fm.CWDLoss',
    'fmkt.loss_weight': 4.0,
    'fmkt.theta_weight': 4.0,
}
logits = {'wttm.loss_weight': 0.5, 'wttm_boxes.loss_weight': 0.5}
kd = {**logits, 'wttm.gamma': 1.0, 'wttm_boxes.gamma': 1.0}
both = ['fmkt', 'wttm', 'wttm_boxes']
at_inference = {
    **training(12, '{fold}'),
    'model.losses.fmkt.metric.type': 'mmkd_fm.CWDLoss',
    'model.losses.fmkt.loss_weight': 4.0,
}
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


def numbers_of_steps(option, numbers):
    """The same checkpoint, tested with other numbers of steps."""
    return {f'NFE-{number}': {option: number} for number in numbers}


rows = dict(
    plain=dict(config=student, label='plain student', options=training(12, '{fold}')),
    pkd=row('PKD', ['pkd'], **pkd),
    pkd_fine=row('PKD, two finest levels', ['pkd'], **pkd, **{'pkd.levels': fine}),
    fmkt_wttm_fine=row(
        'FM-KT^Theta, two finest levels + WTTM', both, **fmkt, **logits, **{'fmkt.levels': fine}
    ),
    cwd_wttm_fine=row(
        'CWD, two finest levels + WTTM',
        ['cwd', 'wttm', 'wttm_boxes'],
        **cwd,
        **logits,
        **{'cwd.levels': fine},
    ),
    fmkt_fine=row('FM-KT^Theta, two finest levels', ['fmkt'], **fmkt, **{'fmkt.levels': fine}),
    cwd_fine=row('CWD, two finest levels', ['cwd'], **cwd, **{'cwd.levels': fine}),
    wttm=row('WTTM on scores and boxes', ['wttm', 'wttm_boxes'], **logits),
    kd=row('KD on scores and boxes (gamma 1)', ['wttm', 'wttm_boxes'], **kd),
    fmkt_wttm=row('FM-KT^Theta + WTTM', both, **fmkt, **logits),
    fmkt=row('FM-KT^Theta', ['fmkt'], **fmkt),
    cwd=row('CWD', ['cwd'], **cwd),
    plain_long=dict(
        config=student, label='plain student, 24 epochs', options=training(24, '{fold}')
    ),
    fmkt_neck=dict(
        config='configs/bccd/fmkt-neck_gfl_r18_mobilenetv2-quarter_bccd.py',
        teacher='gfl_{fold}',
        label='FM-KT, flow at inference (default NFE 1)',
        options=at_inference,
        evaluations=numbers_of_steps('model.student.neck.nfe', [2, 4, 8]),
    ),
    any_nfe=dict(
        config='configs/bccd/fmkt-any-nfe_gfl_r18_mobilenetv2-quarter_bccd.py',
        teacher='gfl_{fold}',
        label='FM-KT, any number of steps (default NFE 1)',
        options={**at_inference, 'model.losses.fmkt.theta_weight': 4.0},
        evaluations=numbers_of_steps('model.student.neck.nfe', [0, 2, 4, 8]),
    ),
    control=dict(
        config='configs/bccd/flowneck_gfl_mobilenetv2-quarter_bccd.py',
        label='FlowNeck without a teacher (default NFE 1)',
        options=training(12, '{fold}'),
        evaluations=numbers_of_steps('model.neck.nfe', [2, 4, 8]),
    ),
    fmkt_finest=row('FM-KT^Theta, finest level', ['fmkt'], **fmkt, **{'fmkt.levels': [0]}),
)
