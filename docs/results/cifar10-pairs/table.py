"""CIFAR-10, two teachers and one student, ResNet-8: does WTTM beat KD, and what does FM-KT add?

python tools/experiments.py docs/results/cifar10-pairs

Two epochs of the student, as in ../cifar10, whose weights these are; they were written down before
the first run here. KD has those of the classification tables of CRD (arXiv 1910.10699).
"""

title = 'CIFAR-10: ResNet-20 and VGG-8 of half the width teach ResNet-8, 2 epochs'
metric = 'accuracy/top1'
seeds = list(range(5))
baselines = ['plain', 'resnet_kd', 'vgg_kd']
options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}


def resnet20(epochs):
    """The teacher ResNet-20, trained so long."""
    keys = ['train_cfg.max_epochs', 'param_scheduler.1.T_max', 'param_scheduler.1.end']
    options = dict.fromkeys(keys, epochs)
    return dict(config='configs/cifar10/resnet20_cifar10.py', seed=0, options=options)


teachers = dict(
    resnet=resnet20(4),
    resnet_1=resnet20(1),
    resnet_2=resnet20(2),
    vgg=dict(config='configs/cifar10/vgg8-half_cifar10.py', seed=0),
)
wttm = {'wttm.gamma': 0.25, 'wttm.loss_weight': 1.5}
fmkt = {
    'fmkt.flow.num_steps': 4,
    'fmkt.flow.meta_encoder.type': 'mmkd_fm.DepthwiseMetaEncoder',
    'fmkt.loss_weight': 1.0,
}
labels = dict(
    resnet='ResNet-20',
    resnet_1='ResNet-20 of 1 epoch',
    resnet_2='ResNet-20 of 2 epochs',
    vgg='VGG-8',
)
ttm = {'ttm.gamma': 0.25, 'ttm.loss_weight': 4.0}


def architecture(teacher):
    """Its name in the names of the configs."""
    return 'vgg8-half' if teacher == 'vgg' else 'resnet20'


def row(teacher, label, terms, task=1.0, **losses):
    """A student of one of the teachers."""
    return dict(
        config=f'configs/cifar10/wttm_{architecture(teacher)}_resnet8_cifar10.py',
        teacher=teacher,
        label=f'{label}, from {labels[teacher]}',
        options={
            'model.terms': terms,
            'model.task_loss_weight': task,
            **{f'model.losses.{key}': value for key, value in losses.items()},
        },
    )


def kd_and_wttm(teacher):
    """The rows of every teacher."""
    rows = dict(
        kd=row(teacher, 'KD, T = 4', ['kd'], 0.1, **{'kd.loss_weight': 0.9}),
        wttm=row(teacher, 'WTTM, gamma = 0.25', ['wttm'], **wttm),
    )
    return {f'{teacher}_{name}': declared for name, declared in rows.items()}


def methods(teacher):
    """The other rows of a teacher."""
    rows = dict(
        wttm_fmkt=row(teacher, 'WTTM + FM-KT^Theta', ['wttm', 'fmkt'], **wttm, **fmkt),
        ttm=row(teacher, 'TTM, gamma = 0.25', ['ttm'], **ttm),
        fmkt=row(teacher, 'FM-KT^Theta', ['fmkt'], **fmkt),
        fmkt_head=dict(
            config=f'configs/cifar10/fmkt-head_{architecture(teacher)}_resnet8_cifar10.py',
            teacher=teacher,
            label=f'FM-KT, flow at inference (default NFE 4), from {labels[teacher]}',
            evaluations={f'NFE-{n}': {'model.student.head.nfe': n} for n in (0, 1, 2, 8)},
        ),
        dkd=row(teacher, 'DKD', ['dkd']),
        dist=row(teacher, 'DIST', ['dist']),
    )
    return {f'{teacher}_{name}': declared for name, declared in rows.items()}


rows = dict(
    plain=dict(config='configs/cifar10/resnet8_cifar10.py', label='plain student'),
    ofmkt=dict(
        config='configs/cifar10/ofmkt_resnet8_cifar10.py', label='OFM-KT, no teacher, NFE 4'
    ),
    **kd_and_wttm('resnet'),
    **methods('resnet'),
    **kd_and_wttm('vgg'),
    **methods('vgg'),
    # does a better teacher make a better student?
    **kd_and_wttm('resnet_1'),
    **kd_and_wttm('resnet_2'),
    resnet_fmkt_decoupled=row(
        'resnet',
        'FM-KT^Theta, half of the pairs decoupled',
        ['fmkt'],
        **fmkt,
        **{'fmkt.pair_ratio': 0.5},
    ),
)
