"""What all pairs on CIFAR-100 share: a pair adds its student, its teacher and its weights."""

_base_ = ['./cifar100.py', './distill_cls.py']
default_hooks = {{_base_.cls_hooks}}
model = dict(type='mmkd_fm.Distiller', losses={{_base_.cifar_losses}}, terms=['wttm'])
