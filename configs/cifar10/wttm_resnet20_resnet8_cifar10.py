"""WTTM and the other methods on CIFAR-10, ResNet-20 -> ResNet-8, 2 epochs.

Measured by us, WTTM with gamma 0.25 and weight 1.5: docs/results/cifar10.md. Train the teacher
first, with resnet20_cifar10.py.

    python tools/train.py configs/cifar10/wttm_resnet20_resnet8_cifar10.py
    ... --cfg-options "model.terms=[wttm,fmkt]"
"""

_base_ = ['./resnet8_cifar10.py', '../_base_/distill_cls.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/resnet20_cifar10.py',
        checkpoint='work_dirs/resnet20_cifar10/epoch_8.pth',
    ),
    losses={{_base_.cifar_losses}},
    terms=['wttm'],
)
