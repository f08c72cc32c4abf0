"""CIFAR-10, ResNet-20 of one, two and four epochs teach ResNet-8: which teacher, which pairs?

python tools/experiments.py docs/results/cifar10-teachers

../cifar10-pairs asks this with one seed; here are three, on another machine, with teachers of its
own. Schedule and weights are those of ../cifar10-pairs, all rows were written down before the first
run.
"""

title = 'CIFAR-10: ResNet-20 of one, two and four epochs teaches ResNet-8, 2 epochs'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
baselines = ['plain', 'resnet_1_wttm', 'resnet_2_wttm', 'resnet_4_wttm']
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
fmkt = {
    'fmkt.flow.num_steps': 4,
    'fmkt.flow.meta_encoder.type': 'mmkd_fm.DepthwiseMetaEncoder',
    'fmkt.loss_weight': 1.0,
}


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


rows = dict(
    plain=dict(config='configs/cifar10/resnet8_cifar10.py', label='plain student'),
    **kd_and_wttm('resnet_1'),
    **kd_and_wttm('resnet_2'),
    **kd_and_wttm('resnet_4'),
    fmkt=row('resnet_4', 'FM-KT^Theta', ['fmkt'], **fmkt),
    fmkt_decoupled=row(
        'resnet_4',
        'FM-KT^Theta, half of the pairs decoupled',
        ['fmkt'],
        **fmkt,
        **{'fmkt.pair_ratio': 0.5},
    ),
)
