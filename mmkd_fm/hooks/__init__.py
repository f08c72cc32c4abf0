"""Hooks: they steer and keep state, own no parameters and add no losses."""

from mmkd_fm.hooks.clip_apart_hook import ClipApartHook
from mmkd_fm.hooks.data_check_hook import DataCheckHook
from mmkd_fm.hooks.distill_state_hook import DistillStateHook
from mmkd_fm.hooks.logit_histogram_hook import LogitHistogramHook
from mmkd_fm.hooks.loss_weight_hook import LossWeightHook
from mmkd_fm.hooks.teacher_check_hook import TeacherCheckHook

__all__ = [
    'ClipApartHook',
    'DataCheckHook',
    'DistillStateHook',
    'LogitHistogramHook',
    'LossWeightHook',
    'TeacherCheckHook',
]
