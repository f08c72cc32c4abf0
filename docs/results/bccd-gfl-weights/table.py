"""BCCD, GFL R18 -> R18 of a quarter of the width: the weights, chosen on the validation images.

python tools/experiments.py docs/results/bccd-gfl-weights

One seed, 12 epochs, the same three multiples for every method. KD takes the weight of WTTM in the
same form. What is chosen here is used in ../bccd-gfl, which reports on the test images.
"""

title = 'BCCD: weights of the methods, GFL R18 -> R18 of a quarter of the width, 12 epochs'
metric = 'coco/bbox_mAP'
seeds = [0]
baselines = ['plain']
config = 'configs/bccd/fmkt-wttm_gfl_r18_r18-quarter_bccd.py'
options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
epochs = {
    'train_cfg.max_epochs': 12,
    'train_cfg.val_interval': 12,
    'param_scheduler.1.T_max': 12,
    'param_scheduler.1.end': 12,
}
background = {'model.losses.wttm.form': 'background_softmax'}
base = dict(
    pkd=(4.0, ['pkd'], ['pkd.loss_weight'], {}),
    cwd=(4.0, ['cwd'], ['cwd.loss_weight'], {}),
    fmkt=(4.0, ['fmkt'], ['fmkt.loss_weight', 'fmkt.theta_weight'], {}),
    wttm=(0.5, ['wttm'], ['wttm.loss_weight'], {}),
    wttm_background=(0.5, ['wttm'], ['wttm.loss_weight'], background),
    wttm_boxes=(0.5, ['wttm_boxes'], ['wttm_boxes.loss_weight'], {}),
)
teachers = dict(gfl=dict(config='configs/bccd/gfl_r18_bccd.py', seed=0))
rows = dict(
    plain=dict(
        config='configs/bccd/gfl_r18-quarter_bccd.py', label='plain student', options=epochs
    ),
    **{
        f'{name}_{weight * factor:g}': dict(
            config=config,
            teacher='gfl',
            label=f'{name}, weight {weight * factor:g}',
            options={
                **epochs,
                'model.terms': terms,
                **{f'model.losses.{key}': weight * factor for key in keys},
                **more,
            },
        )
        for factor in (2.0, 1.0, 4.0)
        for name, (weight, terms, keys, more) in base.items()
    },
)
