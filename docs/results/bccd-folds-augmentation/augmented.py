"""The plain R18 student of a quarter of the width with stronger augmentation than flips."""

_base_ = '../../../configs/bccd/gfl_r18-quarter_bccd.py'

augmented = [
    {{_base_.kept}},
    dict(
        type='RandomAffine',
        max_rotate_degree=0.0,
        max_translate_ratio=0.1,
        scaling_ratio_range=(0.8, 1.25),
        max_shear_degree=0.0,
    ),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=augmented))
