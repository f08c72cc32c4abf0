"""FM-KT^Theta, YOLOX-l -> YOLOX-s, 300 epochs, 8 GPUs x 8 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 49.4, plain student 40.5.
The class scores of YOLOX mean nothing where its objectness sees no object: they are not distilled.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/yolox/fmkt_yolox_l_yolox_s_300e_coco.py --launcher pytorch
"""

_base_ = ['mmdet::yolox/yolox_s_8xb8-300e_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::yolox/yolox_l_8xb8-300e_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/yolox/'
        'yolox_l_8x8_300e_coco/yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth',
    ),
    losses={{_base_.pafpn_feature_losses}},
    terms=['fmkt'],
)
