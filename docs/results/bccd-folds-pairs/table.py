r"""BCCD, five-fold cross-validation of both pairs and all methods.

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/experiments.py docs/results/bccd-folds-pairs

Folds, schedule, metric and weights are those of ../bccd-folds, whose teachers are of another
machine; all rows were written down before the first run. Nothing is chosen here. The methods on
features see the two finest levels, which was the best of each on ../bccd-gfl-mobilenetv2, PKD all
levels too. Seeds 5 to 9 train once more on each fold; they were added when all rows of seeds 0 to 4
that the page showed then had been seen, since five trainings did not tell a gain of one point;
seeds 10 to 14, for the plain ResNet, PKD and ../bccd-folds-weights, when 0 to 9 had been seen.
"""

title = 'BCCD, five folds: GFL R18 teaches R18 and MobileNetV2 of a quarter of the width, 12 epochs'
metric = 'coco/bbox_mAP'
folds = 5
seeds = list(range(3 * folds))  # up to three of each fold
baselines = ['r18_plain', 'r18_pkd_fine', 'mobilenetv2_plain', 'mobilenetv2_pkd_fine']


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
names = dict(r18='R18', mobilenetv2='MobileNetV2')
pkd = {'pkd.loss_weight': 8.0}
cwd = {'cwd.loss_weight': 4.0, 'cwd.levels': [0, 1]}  # strides 8 and 16
fmkt = {
    'fmkt.metric.type': 'mmkd_fm.CWDLoss',
    'fmkt.loss_weight': 4.0,
    'fmkt.theta_weight': 4.0,
    'fmkt.levels': [0, 1],
}
wttm = {'wttm.loss_weight': 0.5, 'wttm_boxes.loss_weight': 0.5}
kd = {**wttm, 'wttm.gamma': 1.0, 'wttm_boxes.gamma': 1.0}
at_inference = {
    'model.losses.fmkt.metric.type': 'mmkd_fm.CWDLoss',
    'model.losses.fmkt.loss_weight': 4.0,
}
any_number = {**at_inference, 'model.losses.fmkt.theta_weight': 4.0}


def plain(student, label, epochs=12):
    """A student without a teacher."""
    return dict(
        config=f'configs/bccd/gfl_{student}-quarter_bccd.py',
        label=f'{names[student]}, {label}',
        options=training(epochs, '{fold}'),
    )


def distilled(student, label, terms, **losses):
    """A student of its fold's teacher."""
    return dict(
        config=f'configs/bccd/fmkt-wttm_gfl_r18_{student}-quarter_bccd.py',
        teacher='gfl_{fold}',
        label=f'{names[student]}, {label}',
        options={
            **training(12, '{fold}'),
            'model.terms': terms,
            **{f'model.losses.{key}': value for key, value in losses.items()},
        },
    )


def with_flow(student, label, config, changes, neck, numbers):
    """A student that keeps its flow; the same checkpoint is tested with other numbers of steps."""
    teacher = dict(teacher='gfl_{fold}') if changes else {}
    return dict(
        config=f'configs/bccd/{config}{student}-quarter_bccd.py',
        **teacher,
        label=f'{names[student]}, {label} (default NFE 1)',
        options={**training(12, '{fold}'), **changes},
        evaluations={f'NFE-{number}': {f'{neck}.nfe': number} for number in numbers},
    )


def methods(student):
    """The rows of a student."""
    logits = ['wttm', 'wttm_boxes']
    neck = 'model.student.neck'
    rows = dict(
        plain=plain(student, 'plain'),
        pkd_fine=distilled(
            student, 'PKD, two finest levels', ['pkd'], **pkd, **{'pkd.levels': [0, 1]}
        ),
        fmkt_wttm=distilled(student, 'FM-KT^Theta + WTTM', ['fmkt', *logits], **fmkt, **wttm),
        cwd=distilled(student, 'CWD', ['cwd'], **cwd),
        fmkt=distilled(student, 'FM-KT^Theta', ['fmkt'], **fmkt),
        wttm=distilled(student, 'WTTM on scores and boxes', logits, **wttm),
        kd=distilled(student, 'KD on scores and boxes (gamma 1)', logits, **kd),
        cwd_wttm=distilled(student, 'CWD + WTTM', ['cwd', *logits], **cwd, **wttm),
        pkd=distilled(student, 'PKD, all levels', ['pkd'], **pkd),
        plain_long=plain(student, 'plain, 24 epochs', 24),
        neck=with_flow(
            student, 'FM-KT, flow at inference', 'fmkt-neck_gfl_r18_', at_inference, neck, [2, 4, 8]
        ),
        any_nfe=with_flow(
            student, 'FM-KT, any NFE', 'fmkt-any-nfe_gfl_r18_', any_number, neck, [0, 2, 4, 8]
        ),
        control=with_flow(
            student, 'FlowNeck without a teacher', 'flowneck_gfl_', {}, 'model.neck', [2, 4, 8]
        ),
    )
    return {f'{student}_{name}': dict(row, group=student) for name, row in rows.items()}


rows = {**methods('r18'), **methods('mobilenetv2')}
