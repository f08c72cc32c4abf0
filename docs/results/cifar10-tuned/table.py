"""CIFAR-10, two teachers and one student: does WTTM beat KD where both have the best of a grid?

python tools/experiments.py docs/results/cifar10-tuned

The weights are those that ../cifar10-weights chose for ResNet-20, on a fifth of the training
images; VGG-8 takes them over. All have the whole task loss. Two epochs of the 50,000 training
images, reported on the test images, of which nothing here was chosen.

The rows in which the Theta term's weight rises within the first epoch were declared after the
others, by what was found there about seeds in which the student falls behind.
"""

title = 'CIFAR-10: the weights that were chosen, ResNet-20 and VGG-8 teach ResNet-8, 2 epochs'
metric = 'accuracy/top1'
seeds = list(range(5))
baselines = ['resnet_kd', 'vgg_kd']
options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
epochs = dict.fromkeys(['train_cfg.max_epochs', 'param_scheduler.1.T_max'], 4)
teachers = dict(
    resnet_4=dict(
        config='configs/cifar10/resnet20_cifar10.py',
        seed=0,
        options={**epochs, 'param_scheduler.1.end': 4},
    ),
    vgg=dict(config='configs/cifar10/vgg8-half_cifar10.py', seed=0),
)
kd = {'kd.loss_weight': 7.2}
wttm = {'wttm.gamma': 0.25, 'wttm.loss_weight': 12.0}
fmkt = {
    'fmkt.flow.num_steps': 4,
    'fmkt.flow.meta_encoder.type': 'mmkd_fm.DepthwiseMetaEncoder',
    'fmkt.loss_weight': 4.0,
}

# from a thousandth of the Theta term's weight to the whole within the first epoch
rise = dict(type='LinearParamScheduler', start_factor=0.001, begin=0, end=1)


def row(teacher, label, terms, **losses):
    """A student of one of the teachers."""
    config, name = dict(resnet_4=('resnet20', 'ResNet-20'), vgg=('vgg8-half', 'VGG-8'))[teacher]
    return dict(
        config=f'configs/cifar10/wttm_{config}_resnet8_cifar10.py',
        teacher=teacher,
        label=f'{label}, from {name}',
        options={
            'model.terms': terms,
            **{f'model.losses.{key}': value for key, value in losses.items()},
        },
    )


def rising(made):
    """The row with a Theta term that rises."""
    hook = 'default_hooks.weights'
    made['options'][f'{hook}.type'] = 'mmkd_fm.LossWeightHook'
    for key, value in rise.items():
        made['options'][f'{hook}.schedules.fmkt.theta_weight.{key}'] = value
    return made


def methods(name, teacher):
    """The rows of a teacher."""
    return {
        f'{name}_kd': row(teacher, 'KD, T = 4', ['kd'], **kd),
        f'{name}_wttm': row(teacher, 'WTTM, gamma = 0.25', ['wttm'], **wttm),
        f'{name}_wttm_fmkt': row(teacher, 'WTTM + FM-KT^Theta', ['wttm', 'fmkt'], **wttm, **fmkt),
        f'{name}_wttm_fmkt_rises': rising(
            row(teacher, 'WTTM + FM-KT^Theta, rising', ['wttm', 'fmkt'], **wttm, **fmkt)
        ),
    }


# with KD in WTTM's place, to tell whose the gain is
beside_kd = rising(row('resnet_4', 'KD + FM-KT^Theta, rising', ['kd', 'fmkt'], **kd, **fmkt))
rows = {**methods('resnet', 'resnet_4'), **methods('vgg', 'vgg'), 'resnet_kd_fmkt_rises': beside_kd}
