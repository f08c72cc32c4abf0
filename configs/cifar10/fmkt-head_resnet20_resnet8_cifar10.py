"""FM-KT with the flow at inference on CIFAR-10, ResNet-20 -> ResNet-8, 2 epochs.

The flow is the student's, 4 steps. Measured by us:
docs/results/cifar10-pairs.md. Train the teacher first, with resnet20_cifar10.py.

    python tools/train.py configs/cifar10/fmkt-head_resnet20_resnet8_cifar10.py
    python tools/test.py configs/cifar10/fmkt-head_resnet20_resnet8_cifar10.py CKPT --nfe 0 1 2 4 8
"""

_base_ = './wttm_resnet20_resnet8_cifar10.py'
model = dict(
    student=dict(
        neck=None,  # FlowClsHead pools behind the flow
        head=dict(
            _delete_=True,
            type='mmkd_fm.FlowClsHead',
            head={{_base_.model.student.head}},
            flow=dict(meta_encoder=dict(type='mmkd_fm.DepthwiseMetaEncoder'), num_steps=4),
            nfe=4,
        ),
    ),
    losses=dict(_delete_=True, fmkt={{_base_.cls_fmkt_head}}),
    terms=['fmkt'],
    task_loss_weight=0,  # the cross-entropy of each step is in the loss of the flow
)
