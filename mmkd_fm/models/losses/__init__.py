"""Distillation losses: adapters from taps to the mathematics in `functional`."""

from mmkd_fm.models.losses.feature import CosineLoss, CWDLoss, FeatureLoss, MSELoss, PKDLoss
from mmkd_fm.models.losses.fmkt import FMKTLoss
from mmkd_fm.models.losses.fmkt_logit import FMKTLogitLoss
from mmkd_fm.models.losses.matching import EndpointMatching, VelocityMatching
from mmkd_fm.models.losses.online import OnlineFMKTLogitLoss, OnlineFMKTLoss
from mmkd_fm.models.losses.tempered import DISTLoss, DKDLoss, KDLoss
from mmkd_fm.models.losses.wttm import TTMLoss, WTTMLoss

__all__ = [
    'CWDLoss',
    'CosineLoss',
    'DISTLoss',
    'DKDLoss',
    'EndpointMatching',
    'FMKTLogitLoss',
    'FMKTLoss',
    'FeatureLoss',
    'KDLoss',
    'MSELoss',
    'OnlineFMKTLogitLoss',
    'OnlineFMKTLoss',
    'PKDLoss',
    'TTMLoss',
    'VelocityMatching',
    'WTTMLoss',
]
