title = 'x'
metric = 'coco/bbox_mAP'
seeds = [0, 1, 2]
options = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}
evaluations = dict(test={}, validation={})
rows = dict(
    plain=dict(config='configs/bccd/gfl_r18-quarter_bccd.py', label='plain student'),
)
