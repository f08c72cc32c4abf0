"""WTTM and other methods on ImageNet, DeiT III-S (ImageNet-21k) -> DeiT-Ti, 300 epochs, 4 x 256.

Published top-1: teacher 83.06, student 74.50 (mmpretrain 1.2 model zoo); with a teacher of 82.76
and a student of 74.42 KD 76.01, WTTM 77.03 (arXiv 2402.11148). Ours: not run. Their gamma and
weight are not published: ours are those of ResNet-18. The recipe mixes labels, so DKD, which needs
hard ones, is left out; so is FM-KT on stages, as there are no maps.

    torchrun --nproc_per_node 4 tools/train.py \
        configs/imagenet/wttm_deit3-small_deit-tiny_4xb256_in1k.py --launcher pytorch
    ... --cfg-options "model.terms=[dist]"    # another method
"""

_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py', '../_base_/distill_cls.py']
default_hooks = {{_base_.cls_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/deit3/'
        'deit3-small-p16_in21k-pre_3rdparty_in1k_20221009-dcd90827.pth',
    ),
    losses=dict(
        kd={{_base_.cls_losses.kd}},
        dist={{_base_.cls_losses.dist}},
        ttm={{_base_.cls_losses.ttm}},
        wttm={{_base_.cls_losses.wttm}},
        fmkt={{_base_.cls_fmkt_vectors}},
    ),
    terms=['wttm'],
)
