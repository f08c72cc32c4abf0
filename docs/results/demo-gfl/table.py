"""Drawn shapes, GFL R18 -> R18 of a quarter of the width, 16 epochs: what does each part do?

    python tools/make_demo_data.py data/demo-large --val 240 --test 720
    python tools/experiments.py docs/results/demo-gfl

A second witness beside BCCD, with ten times as many test images. All weights are those of
../bccd-gfl; a row says what it changes. The last four on levels were declared when the two finest
had been seen to help FM-KT^Theta.
"""

title = 'Drawn shapes: GFL R18 teaches GFL R18 of a quarter of the width, 16 epochs'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2]
baselines = ['plain', 'pkd', 'fmkt', 'wttm']
options = {}
for part in ('train', 'val', 'test'):
    options |= {
        f'{part}_dataloader.num_workers': 0,
        f'{part}_dataloader.persistent_workers': False,
        f'{part}_dataloader.dataset.data_root': 'data/demo-large/',
    }
for part in ('val', 'test'):
    options[f'{part}_evaluator.ann_file'] = f'data/demo-large/{part}.json'
evaluations = dict(test={})
teachers = dict(gfl=dict(config='configs/demo/gfl_r18_demo.py', seed=0))


def row(label, terms, **losses):
    """A distilled student."""
    return dict(
        config='configs/demo/fmkt-wttm_gfl_r18_r18-quarter_demo.py',
        teacher='gfl',
        label=label,
        options={
            'model.terms': terms,
            **{f'model.losses.{key}': value for key, value in losses.items()},
        },
    )


def fmkt(label, **changes):
    """FM-KT^Theta with the metric CWD and weights of 4, changed."""
    return row(
        f'FM-KT^Theta, {label}',
        ['fmkt_cwd'],
        **{f'fmkt_cwd.{key}': value for key, value in changes.items()},
    )


def logits(label, **changes):
    """WTTM on scores and boxes, gamma 0.7, weights of 0.5, both changed."""
    return row(
        label,
        ['wttm', 'wttm_boxes'],
        **{
            f'{term}.{key}': value
            for term in ('wttm', 'wttm_boxes')
            for key, value in changes.items()
        },
    )


boxes = ['wttm', 'wttm_boxes']
velocity = {
    'objective.type': 'mmkd_fm.VelocityMatching',
    'metric.type': 'mmkd_fm.MSELoss',
    'theta_weight': 0.0,
    'loss_weight': 0.5,  # at 4 it is nine tenths of the loss of the first steps
}
kd2 = {
    **{f'{term}.temperature': 2.0 for term in ('kd', 'kd_boxes')},
    'kd.loss_weight': 0.5,
}
rows = dict(
    plain=dict(config='configs/demo/gfl_r18-quarter_demo.py', label='plain student'),
    pkd=row('PKD, weight 8', ['pkd']),
    cwd=row('CWD, weight 4', ['cwd']),
    fmkt=fmkt('1, 2 or 4 steps'),
    fmkt_wttm=row('FM-KT^Theta + WTTM', ['fmkt_cwd', *boxes]),
    cwd_wttm=row('CWD + WTTM', ['cwd', *boxes]),
    pkd_wttm=row('PKD + WTTM', ['pkd', *boxes]),
    wttm=logits('WTTM on scores and boxes'),
    # what WTTM is made of
    wttm_scores=row('WTTM on scores alone', ['wttm']),
    wttm_boxes=row('WTTM on boxes alone', ['wttm_boxes']),
    ttm=logits('TTM, no power sum', type='mmkd_fm.TTMLoss'),
    gamma_1=logits('KD, gamma 1', gamma=1.0),
    gamma_05=logits('WTTM, gamma 0.5', gamma=0.5),
    kd_2=row('KD, temperature 2 on both sides', ['kd', 'kd_boxes'], **kd2),
    # what FM-KT is made of
    steps_1=fmkt('1 step', **{'flow.num_steps': 1}),
    steps_8=fmkt('8 steps', **{'flow.num_steps': 8}),
    vp=fmkt('VP schedule', **{'flow.schedule': 'vp'}),
    ve=fmkt('VE schedule', **{'flow.schedule': 've'}),
    conv=fmkt('ConvMetaEncoder', **{'flow.meta_encoder.type': 'mmkd_fm.ConvMetaEncoder'}),
    convnext=fmkt(
        'ConvNeXtMetaEncoder', **{'flow.meta_encoder.type': 'mmkd_fm.ConvNeXtMetaEncoder'}
    ),
    metric_pkd=fmkt(
        'with PKD as its metric, weights of 8',
        **{'metric.type': 'mmkd_fm.PKDLoss', 'loss_weight': 8.0, 'theta_weight': 8.0},
    ),
    no_theta=fmkt('without the Theta term', theta_weight=0.0),
    decoupled=fmkt('half of the pairs decoupled', pair_ratio=0.5),
    weight_1=fmkt('weights of 1', loss_weight=1.0, theta_weight=1.0),
    weight_16=fmkt('weights of 16', loss_weight=16.0, theta_weight=16.0),
    velocity=fmkt('velocity matching (MSE), serial', **velocity),
    forced=fmkt('velocity matching (MSE), teacher forcing', teacher_forcing=True, **velocity),
    # where it helps; the maps have strides 8, 16, 32 and 64
    fine=fmkt('the two finest levels alone', levels=[0, 1]),
    coarse=fmkt('the two coarsest levels alone', levels=[2, 3]),
    finest=fmkt('the finest level alone', levels=[0]),
    cwd_fine=row('CWD, the two finest levels alone', ['cwd'], **{'cwd.levels': [0, 1]}),
    pkd_fine=row('PKD, the two finest levels alone', ['pkd'], **{'pkd.levels': [0, 1]}),
    fine_wttm=row(
        'FM-KT^Theta, the two finest levels alone + WTTM',
        ['fmkt_cwd', *boxes],
        **{'fmkt_cwd.levels': [0, 1]},
    ),
)
