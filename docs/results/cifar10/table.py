"""Two epochs of CIFAR-10, ResNet-20 -> ResNet-8: do the methods differ at all?

python tools/experiments.py docs/results/cifar10

`kd` has the weights of the classification tables of CRD (arXiv 1910.10699): a tenth of the labels,
nine tenths of the teacher.
"""

title = 'CIFAR-10: ResNet-20 teaches ResNet-8, 2 epochs'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
baselines = ['plain', 'kd']
options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
teachers = dict(resnet20=dict(config='configs/cifar10/resnet20_cifar10.py', seed=0))
distilled = dict(
    config='configs/cifar10/wttm_resnet20_resnet8_cifar10.py',
    teacher='resnet20',
)
wttm = {'model.losses.wttm.gamma': 0.25, 'model.losses.wttm.loss_weight': 1.5}
rows = dict(
    plain=dict(config='configs/cifar10/resnet8_cifar10.py', label='plain student'),
    kd=dict(
        distilled,
        label='KD, T = 4',
        options={
            'model.terms': ['kd'],
            'model.task_loss_weight': 0.1,
            'model.losses.kd.loss_weight': 0.9,
        },
    ),
    ttm=dict(
        distilled,
        label='TTM, gamma = 0.25',
        options={
            'model.terms': ['ttm'],
            'model.losses.ttm.gamma': 0.25,
            'model.losses.ttm.loss_weight': 4.0,
        },
    ),
    wttm=dict(distilled, label='WTTM, gamma = 0.25', options={'model.terms': ['wttm'], **wttm}),
    dist=dict(distilled, label='DIST', options={'model.terms': ['dist']}),
    wttm_fmkt=dict(
        distilled,
        label='WTTM + FM-KT^Theta, 4 steps',
        options={
            'model.terms': ['wttm', 'fmkt'],
            **wttm,
            'model.losses.fmkt.flow.num_steps': 4,
            'model.losses.fmkt.flow.meta_encoder.type': 'mmkd_fm.DepthwiseMetaEncoder',
            'model.losses.fmkt.loss_weight': 1.0,
        },
    ),
)
