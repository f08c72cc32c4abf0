"""OFM-KT on CIFAR-10: ResNet-8 with a flow of 4 steps before its head teaches itself, 2 epochs.

Measured by us, without a gain: docs/results/cifar10-pairs.md.

    python tools/train.py configs/cifar10/ofmkt_resnet8_cifar10.py
"""

_base_ = ['./resnet8_cifar10.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.OnlineDistiller',
    student=dict(
        type='ImageClassifier',
        backbone={{_base_.model.backbone}},
        head=dict(
            type='mmkd_fm.FlowClsHead',
            head={{_base_.model.head}},
            flow=dict(meta_encoder=dict(type='mmkd_fm.DepthwiseMetaEncoder'), num_steps=4),
            nfe=4,
        ),
    ),
    losses=dict(
        ofmkt=dict(
            type='mmkd_fm.OnlineFMKTLogitLoss', tap=dict(transport='head.flow', logits='head')
        )
    ),
    task_loss_weight=0,  # the cross-entropy of each step is in the loss of the flow
)
