"""Registered modules: thin adapters with hyper-parameters and parameters."""

from mmkd_fm.models.distiller import Distiller
from mmkd_fm.models.flow import Flow
from mmkd_fm.models.losses import (
    CWDLoss,
    EndpointMatching,
    FMKTLoss,
    MSELoss,
    PKDLoss,
    VelocityMatching,
    WTTMLoss,
)
from mmkd_fm.models.meta_encoders import ConvMetaEncoder

__all__ = [
    'CWDLoss',
    'ConvMetaEncoder',
    'Distiller',
    'EndpointMatching',
    'FMKTLoss',
    'Flow',
    'MSELoss',
    'PKDLoss',
    'VelocityMatching',
    'WTTMLoss',
]
