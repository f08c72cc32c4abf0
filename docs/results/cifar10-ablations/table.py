"""CIFAR-10, ResNet-20 -> ResNet-8: which teacher, and what does each part do?

python tools/experiments.py docs/results/cifar10-ablations

../cifar10-pairs asks some of this with one seed; here are three, on another machine, with teachers
of its own. Schedule and weights are those of ../cifar10-pairs. The rows of the parts were written
down when those of the teachers had been run, before any of FM-KT was done, and the last nine when
those had been run.
"""

title = 'CIFAR-10: three teachers, the parts of FM-KT and of WTTM, ResNet-20 -> ResNet-8, 2 epochs'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
baselines = ['plain', 'resnet_1_wttm', 'resnet_2_wttm', 'resnet_4_wttm', 'fmkt']
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


teachers = {f'resnet_{epochs}': resnet20(epochs) for epochs in (1, 2, 4)}
labels = dict(resnet_1='1 epoch', resnet_2='2 epochs', resnet_4='4 epochs')
wttm = {'wttm.gamma': 0.25, 'wttm.loss_weight': 1.5}


def row(teacher, label, terms, task=1.0, **losses):
    """A student of one of the teachers."""
    return dict(
        config='configs/cifar10/wttm_resnet20_resnet8_cifar10.py',
        teacher=teacher,
        label=f'{label}, teacher of {labels[teacher]}',
        options={
            'model.terms': terms,
            'model.task_loss_weight': task,
            **{f'model.losses.{key}': value for key, value in losses.items()},
        },
    )


def kd_and_wttm(teacher):
    """The rows of every teacher."""
    return {
        f'{teacher}_kd': row(teacher, 'KD, T = 4', ['kd'], 0.1, **{'kd.loss_weight': 0.9}),
        f'{teacher}_wttm': row(teacher, 'WTTM, gamma = 0.25', ['wttm'], **wttm),
    }


fmkt_options = {
    'fmkt.flow.num_steps': 4,
    'fmkt.flow.meta_encoder.type': 'mmkd_fm.DepthwiseMetaEncoder',
    'fmkt.loss_weight': 1.0,
}


def fmkt(label, **changes):
    """FM-KT^Theta from the best teacher, but for ``changes``."""
    losses = {**fmkt_options, **{f'fmkt.{key}': value for key, value in changes.items()}}
    return row('resnet_4', f'FM-KT^Theta{label}', ['fmkt'], **losses)


ttm = {'ttm.gamma': 0.25, 'ttm.loss_weight': 4.0}
velocity = {'objective.type': 'mmkd_fm.VelocityMatching'}
forcing = dict(teacher_forcing=True)


def resnet_4(label, terms, **losses):
    """A student of the best teacher."""
    return row('resnet_4', label, terms, **losses)


def stages(label, **changes):
    """FM-KT on the last maps of the best teacher, with one metric for both objectives."""
    options = {
        'flow.num_steps': 4,
        'metric.type': 'mmkd_fm.MSELoss',
        'theta_weight': 0.0,
        'loss_weight': 1.0,
        **changes,
    }
    losses = {f'fmkt_stages.{key}': value for key, value in options.items()}
    return resnet_4(f'FM-KT on maps, {label}', ['fmkt_stages'], **losses)


rows = dict(
    plain=dict(config='configs/cifar10/resnet8_cifar10.py', label='plain student'),
    **kd_and_wttm('resnet_1'),
    **kd_and_wttm('resnet_2'),
    **kd_and_wttm('resnet_4'),
    fmkt=fmkt(''),
    fmkt_decoupled=fmkt(', half of the pairs decoupled', pair_ratio=0.5),
    # what FM-KT is made of
    steps_1=fmkt(', 1 step', **{'flow.num_steps': 1}),
    vp=fmkt(', VP schedule', **{'flow.schedule': 'vp'}),
    ve=fmkt(', VE schedule', **{'flow.schedule': 've'}),
    conv=fmkt(', ConvMetaEncoder', **{'flow.meta_encoder.type': 'mmkd_fm.ConvMetaEncoder'}),
    no_theta=fmkt(', without the Theta term', theta_weight=0.0),
    # what WTTM is made of
    ttm=resnet_4('TTM, gamma = 0.25, weight 4', ['ttm'], **ttm),
    kd_task=resnet_4('KD, T = 4, whole task loss', ['kd'], **{'kd.loss_weight': 0.9}),
    gamma_05=resnet_4('WTTM, gamma = 0.5', ['wttm'], **dict(wttm, **{'wttm.gamma': 0.5})),
    gamma_1=resnet_4('WTTM, gamma = 1', ['wttm'], **dict(wttm, **{'wttm.gamma': 1.0})),
    # velocity or endpoint, serial or from the interpolated teacher: on the maps, where both exist
    endpoint=stages('endpoint matching (MSE)'),
    velocity=stages('velocity matching (MSE)', **velocity),
    forced=stages('velocity matching (MSE), teacher forcing', **velocity, **forcing),
    # how much of each
    wttm_3=resnet_4(
        'WTTM, gamma = 0.25, weight 3', ['wttm'], **dict(wttm, **{'wttm.loss_weight': 3.0})
    ),
    # declared when kd_task and one seed of wttm_3 had been seen
    kd_18=resnet_4('KD, T = 4, weight 1.8, whole task loss', ['kd'], **{'kd.loss_weight': 1.8}),
)
