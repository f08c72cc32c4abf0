"""Annotations of a random image, where a tool takes a step without a data set."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData


def learns_masks(student: dict) -> bool:
    """Whether a student is trained with masks.

    Args:
        student: Its config.
    """
    return any(name in str(student) for name in ("'mask_head'", "'loss_mask'"))


def random_sample(
    size: tuple[int, int], rng: np.random.Generator, count: int, with_masks: bool
) -> DetDataSample:
    """What a data loader says of an image, of boxes anywhere in it.

    Args:
        size: Height and width of the image in pixels.
        rng: Draws the boxes.
        count: Number of boxes, all of the first class.
        with_masks: Whether they have masks too, which fill them; some models fail on masks.
    """
    height, width = size
    sides = rng.uniform(1 / 8, 1 / 2, (count, 2)) * (width, height)
    corners = rng.random((count, 2)) * ((width, height) - sides)
    boxes = np.hstack([corners, corners + sides]).astype('float32')
    sample = DetDataSample(
        metainfo=dict(img_id=0, img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes), labels=torch.zeros(count, dtype=torch.long)
    )
    if with_masks:
        masks = np.zeros((count, height, width), dtype=np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
            mask[top:bottom, left:right] = 1
        sample.gt_instances.masks = BitmapMasks(masks, height, width)
    sample.ignored_instances = InstanceData(  # always there, as PackDetInputs makes it
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    return sample
