"""Distillation losses: adapters from taps to the mathematics in `functional`."""

from mmkd_fm.models.losses.feature import CWDLoss, FeatureLoss, MSELoss, PKDLoss
from mmkd_fm.models.losses.fmkt import EndpointMatching, FMKTLoss, VelocityMatching
from mmkd_fm.models.losses.wttm import WTTMLoss

__all__ = [
    'CWDLoss',
    'EndpointMatching',
    'FMKTLoss',
    'FeatureLoss',
    'MSELoss',
    'PKDLoss',
    'VelocityMatching',
    'WTTMLoss',
]
