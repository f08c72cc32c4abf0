"""FM-KT^Theta, RTMDet-l -> YOLOX-s, 300 epochs, 8 GPUs x 8 images.

Published AP on COCO val2017 (mmdet 3.3 model zoo): teacher 51.3, plain student 40.5.
Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/yolox/fmkt_rtmdet_l_yolox_s_300e_coco.py --launcher pytorch
"""

_base_ = ['mmdet::yolox/yolox_s_8xb8-300e_coco.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/'
        'rtmdet_l_8xb32-300e_coco/rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth',
    ),
    losses={{_base_.pafpn_feature_losses}},
    terms=['fmkt'],
)
