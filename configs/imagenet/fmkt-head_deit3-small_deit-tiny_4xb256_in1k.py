"""FM-KT with the flow at inference on ImageNet, DeiT III-S -> DeiT-Ti, 300 epochs, 4 x 256.

The flow is the student's and moves its class token, 8 steps. Published top-1: teacher 83.06, plain
student 74.50 (mmpretrain 1.2 model zoo). Ours: not run.

    torchrun --nproc_per_node 4 tools/train.py \
        configs/imagenet/fmkt-head_deit3-small_deit-tiny_4xb256_in1k.py --launcher pytorch
"""

_base_ = './wttm_deit3-small_deit-tiny_4xb256_in1k.py'
model = dict(
    student=dict(
        head=dict(
            _delete_=True,
            type='mmkd_fm.FlowClsHead',
            head={{_base_.model.student.head}},
            flow={{_base_.cls_fmkt_vectors.flow}},
        )
    ),
    losses=dict(_delete_=True, fmkt={{_base_.cls_fmkt_head}}),
    terms=['fmkt'],
    task_loss_weight=0,  # the cross-entropy of each step is in the loss of the flow
)
