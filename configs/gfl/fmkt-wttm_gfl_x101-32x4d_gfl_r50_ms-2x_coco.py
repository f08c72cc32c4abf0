"""FM-KT^Theta + WTTM, GFL X101 (ms 2x) -> GFL R50, multi-scale 2x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 45.9, plain student 42.9.
Ours: not run. On BCCD KD was better than WTTM (docs/results/bccd-folds-weights.md).

    torchrun --nproc_per_node 8 tools/train.py \
        configs/gfl/fmkt-wttm_gfl_x101-32x4d_gfl_r50_ms-2x_coco.py --launcher pytorch
    ... --cfg-options "model.terms=[fmkt_cwd,kd,kd_boxes]"
"""

_base_ = ['mmdet::gfl/gfl_r50_fpn_ms-2x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::gfl/gfl_x101-32x4d_fpn_ms-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/'
        'gfl_x101_32x4d_fpn_mstrain_2x_coco/'
        'gfl_x101_32x4d_fpn_mstrain_2x_coco_20200630_102002-50c1ffdb.pth',
    ),
    losses={{_base_.gfl_losses}},
    terms=['fmkt_cwd', 'wttm', 'wttm_boxes'],
)
