"""FM-KT^Theta + WTTM, GFL R101 (multi-scale 2x) -> GFL R50, 1x schedule, 8 GPUs x 2 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 44.7, plain student 40.2.
Ours: not run. On BCCD KD was better than WTTM (docs/results/bccd-folds-weights.md).

    torchrun --nproc_per_node 8 tools/train.py \
        configs/gfl/fmkt-wttm_gfl_r101_gfl_r50_1x_coco.py --launcher pytorch
    ... --cfg-options "model.terms=[fmkt_cwd,kd,kd_boxes]"
"""

_base_ = ['mmdet::gfl/gfl_r50_fpn_1x_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/'
        'gfl_r101_fpn_mstrain_2x_coco/'
        'gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth',
    ),
    losses={{_base_.gfl_losses}},
    terms=['fmkt_cwd', 'wttm', 'wttm_boxes'],
)
