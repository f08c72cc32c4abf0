"""What coverage.py needs of models and data: mmdet's own configs, as they are or shrunk."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures.mask import PolygonMasks
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config

from make_demo_data import Spec, make_demo_data

CHANNELS = dict(student=32, teacher=64)
"""Of necks and heads when they are shrunk; the group norms of mmdet's heads have 32 groups."""

WIDTH = dict(student=8, teacher=16)
"""Of the first stage of a ResNet when it is shrunk."""

SMALL, FULL = 160, 1333  # pixels, the longer side


def read_model(name: str, owner: str, num_classes: int, full: bool = False) -> ConfigDict:
    """The model of a config of mmdet, without downloads.

    Args:
        name: Such as 'retinanet/retinanet_r50_fpn_1x_coco'.
        owner: 'student' or 'teacher', of which the size depends when shrunk.
        num_classes: Of the heads.
        full: As large as it is in the config.
    """
    model = get_config(f'mmdet::{name}.py').model
    _set(model, num_classes=num_classes)
    for part in [model, *_dicts(model)]:
        if 'Pretrained' in str(part.get('init_cfg') or {}):
            part['init_cfg'] = None
    return model if full else _shrink(model, owner)


def _shrink(model: ConfigDict, owner: str) -> ConfigDict:
    channels, stages = CHANNELS[owner], _shrink_backbone(model.backbone, WIDTH[owner])
    model.neck.in_channels = stages[-len(model.neck.in_channels) :]
    if 'encoder' in model:  # DINO's encoding of points has 256 channels whatever the config says
        _set([model.encoder, model.decoder], num_layers=2, feedforward_channels=128)
        model.num_queries = 40
        return model
    model.neck.out_channels = channels
    if 'num_csp_blocks' in model.neck:
        channels = model.neck.out_channels = model.neck.in_channels[0]
        model.neck.num_csp_blocks = 1
    for head in ('bbox_head', 'rpn_head', 'roi_head'):
        if head in model:
            sizes = dict.fromkeys(
                ('in_channels', 'feat_channels', 'point_feat_channels', 'conv_out_channels'),
                channels,
            )
            _set(model[head], **sizes, fc_out_channels=2 * channels)
    if 'roi_head' in model:
        for part in ('bbox_roi_extractor', 'mask_roi_extractor'):
            _set(model.roi_head.get(part, {}), out_channels=channels)
    return model


def _shrink_backbone(backbone: ConfigDict, width: int) -> list[int]:
    """Shrink a backbone; the channels of its stages are returned."""
    if backbone.type in ('ResNet', 'ResNeXt'):
        for key in ('groups', 'base_width', 'dcn', 'stage_with_dcn'):
            backbone.pop(key, None)
        backbone.update(type='ResNet', depth=18, base_channels=width, stem_channels=width)
        return [width * 2**i for i in range(4)]
    if backbone.type == 'SwinTransformer':
        width *= 2
        backbone.update(embed_dims=width, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8])
        return [width * 2**i for i in range(4)]
    width *= 2  # CSPDarknet, CSPNeXt
    backbone.update(deepen_factor=0.33, widen_factor=width / 64)
    return [width * 2**i for i in range(5)]


def _dicts(config: Any) -> list[dict]:
    """All dicts inside a config."""
    if isinstance(config, dict):
        inner = list(config.values())
    else:
        inner = config if isinstance(config, (list, tuple)) else []
    found = [part for part in inner if isinstance(part, dict)]
    return found + [part for item in inner for part in _dicts(item)]


def _set(config: Any, **values: Any) -> None:
    """Set these keys wherever they are inside a config."""
    dicts = _dicts(config) + ([config] if isinstance(config, dict) else [])
    for part in dicts:
        part.update({key: value for key, value in values.items() if key in part})


class Images:
    """The first images of a COCO data set that have boxes.

    Args:
        folder: With `annotations/instances_train2017.json` and `train2017`; if it is not there,
            images are drawn to `drawn`.
        drawn: Folder for drawn images.
        side: Longer side of the images in pixels.
        count: Number of images.
    """

    def __init__(self, folder: Path, drawn: Path, side: int = SMALL, count: int = 2) -> None:
        self.name = str(folder)
        annotations = folder / 'annotations/instances_train2017.json'
        images = folder / 'train2017'
        if not annotations.is_file():
            make_demo_data(drawn, Spec(train=4, val=1, test=1))
            self.name = 'drawn images'
            annotations, images = drawn / 'train.json', drawn / 'images'
        categories = json.loads(annotations.read_text())['categories']
        self.classes = tuple(category['name'] for category in categories)
        dataset = CocoDataset(
            ann_file=str(annotations),
            data_prefix=dict(img=str(images)),
            metainfo=dict(classes=self.classes),
            filter_cfg=dict(filter_empty_gt=True),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='Resize', scale=(side, side), keep_ratio=True),
                dict(type='Pad', size_divisor=32),
                dict(type='PackDetInputs'),
            ],
        )
        self._batch = pseudo_collate([dataset[i] for i in range(count)])

    def batch(self, model: ConfigDict) -> dict:
        """A raw batch, as a data loader gives it, with masks if the model needs them."""
        batch = copy.deepcopy(self._batch)
        if 'mask_head' in model.get('roi_head', {}):
            for sample in batch['data_samples']:
                sample.gt_instances.masks = _rectangles(sample)
        return batch


def _rectangles(sample: Any) -> PolygonMasks:
    """The boxes as masks: they are all that is annotated."""
    height, width = sample.img_shape[:2]
    boxes = torch.as_tensor(sample.gt_instances.bboxes.tensor).numpy()
    corners = [[np.array([x, y, z, y, z, w, x, w], dtype='float64')] for x, y, z, w in boxes]
    return PolygonMasks(corners, height, width)
