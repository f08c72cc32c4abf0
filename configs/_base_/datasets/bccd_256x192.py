"""As bccd.py, at 256x192: small enough to compare methods with several seeds on a CPU."""

_base_ = './bccd.py'

load = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(256, 192), keep_ratio=True),
]
kept = dict(type='mmkd_fm.InMemory', transforms=load)  # each worker decodes an image once
train_pipeline = [
    kept,
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
)
val_pipeline = [kept, pack]
test_pipeline = [*load, pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
