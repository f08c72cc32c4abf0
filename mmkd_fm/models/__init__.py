"""Registered modules: thin adapters with hyper-parameters and parameters."""

from mmkd_fm.models.backbones import (
    CIFARVGG,
    CIFARMobileNetV2,
    CIFARResNet,
    CIFARShuffleNetV1,
    CIFARShuffleNetV2,
    CIFARWideResNet,
    MobileNetV1,
)
from mmkd_fm.models.distiller import Distiller
from mmkd_fm.models.flow import Flow
from mmkd_fm.models.flow_cls_head import FlowClsHead
from mmkd_fm.models.flow_neck import FlowedPyramid, FlowNeck
from mmkd_fm.models.losses import (
    CosineLoss,
    CWDLoss,
    DISTLoss,
    DKDLoss,
    EndpointMatching,
    FMKTLogitLoss,
    FMKTLoss,
    KDLoss,
    MSELoss,
    OnlineFMKTLogitLoss,
    OnlineFMKTLoss,
    PKDLoss,
    TTMLoss,
    VelocityMatching,
    WTTMLoss,
)
from mmkd_fm.models.meta_encoders import (
    ConvMetaEncoder,
    ConvNeXtMetaEncoder,
    DepthwiseMetaEncoder,
    MLPMetaEncoder,
    ResidualConvMetaEncoder,
    WindowTransformerMetaEncoder,
)
from mmkd_fm.models.online import OnlineDistiller
from mmkd_fm.models.time_embeddings import (
    LinearTimeEmbedding,
    MLPTimeEmbedding,
    StepBranchTimeEmbedding,
)

__all__ = [
    'CIFARVGG',
    'CIFARMobileNetV2',
    'CIFARResNet',
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'CIFARWideResNet',
    'CWDLoss',
    'ConvMetaEncoder',
    'ConvNeXtMetaEncoder',
    'CosineLoss',
    'DISTLoss',
    'DKDLoss',
    'DepthwiseMetaEncoder',
    'Distiller',
    'EndpointMatching',
    'FMKTLogitLoss',
    'FMKTLoss',
    'Flow',
    'FlowClsHead',
    'FlowNeck',
    'FlowedPyramid',
    'KDLoss',
    'LinearTimeEmbedding',
    'MLPMetaEncoder',
    'MLPTimeEmbedding',
    'MSELoss',
    'MobileNetV1',
    'OnlineDistiller',
    'OnlineFMKTLogitLoss',
    'OnlineFMKTLoss',
    'PKDLoss',
    'ResidualConvMetaEncoder',
    'StepBranchTimeEmbedding',
    'TTMLoss',
    'VelocityMatching',
    'WTTMLoss',
    'WindowTransformerMetaEncoder',
]
