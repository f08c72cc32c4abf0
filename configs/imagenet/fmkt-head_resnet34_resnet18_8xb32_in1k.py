"""FM-KT with the flow at inference on ImageNet, ResNet-34 -> ResNet-18, 8 GPUs x 32 images.

The flow is the student's, 8 steps; the recipe is that of the plain student, not the authors'.
Published top-1: teacher 73.62, plain student 69.90 (mmpretrain 1.2 model zoo). Ours: not run.

    torchrun --nproc_per_node 8 tools/train.py \
        configs/imagenet/fmkt-head_resnet34_resnet18_8xb32_in1k.py --launcher pytorch
"""

_base_ = './wttm_resnet34_resnet18_8xb32_in1k.py'
model = dict(
    student=dict(
        neck=None,  # FlowClsHead pools behind the flow
        head=dict(_delete_=True, type='mmkd_fm.FlowClsHead', head={{_base_.model.student.head}}),
    ),
    losses=dict(_delete_=True, fmkt={{_base_.cls_fmkt_head}}),
    terms=['fmkt'],
    task_loss_weight=0,  # the cross-entropy of each step is in the loss of the flow
)
