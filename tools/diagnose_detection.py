"""Average precision and recall on the test images, and what they would be with a part put right.

The oracles look at each detection and the ground truth that it overlaps most, by at least 0.5:

- `boxes`: its box, of the same class, takes the place of the detection's. Left are wrong classes,
  duplicates, wrong orders of scores, and what was not found.
- `labels`: its class, whatever that is, takes the place of the detection's.
- `scores`: how much the detection overlaps the best one of the same class is its score, so that
  detections are in their right order.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.structures.bbox import bbox_overlaps
from mmdet.structures.mask import mask2bbox
from torch import Tensor

from diagnose_data import TestImages, Truth, View
from diagnose_models import LeftOut, Subject

OVERLAP = 0.5  # of a detection with what it is taken for
MOST = 100  # detections in an image


@dataclass
class Found:
    """The detections in an image, in its original pixels.

    Attributes:
        boxes: Corners, shape (D, 4).
        scores: Shape (D,).
        labels: Classes, int64, shape (D,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def as_found(found: Found, truth: Truth) -> Found:
    """No oracle."""
    del truth
    return found


def oracle_boxes(found: Found, truth: Truth) -> Found:
    """Boxes of the ground truth of the same class."""
    overlap, which = _best(found, truth, same_class=True)
    boxes = truth.boxes[~truth.crowd]
    hit = overlap >= OVERLAP
    return replace(found, boxes=_put(found.boxes, hit, boxes, which))


def oracle_labels(found: Found, truth: Truth) -> Found:
    """Classes of the ground truth, whatever its class is."""
    overlap, which = _best(found, truth, same_class=False)
    hit = overlap >= OVERLAP
    return replace(found, labels=_put(found.labels, hit, truth.labels[~truth.crowd], which))


def oracle_scores(found: Found, truth: Truth) -> Found:
    """Scores in the order of the overlap with the ground truth of the same class."""
    return replace(found, scores=_best(found, truth, same_class=True)[0])


ORACLES: dict[str, Callable[[Found, Truth], Found]] = {
    'as it is': as_found,
    'boxes': oracle_boxes,
    'labels': oracle_labels,
    'scores': oracle_scores,
}


def _best(found: Found, truth: Truth, same_class: bool) -> tuple[Tensor, Tensor]:
    """The largest overlap of each detection with what is to be found, and with which; 0 if none."""
    boxes, labels = truth.boxes[~truth.crowd], truth.labels[~truth.crowd]
    if not len(boxes):
        nothing = torch.zeros_like(found.labels)
        return torch.zeros_like(found.scores), nothing
    overlaps = bbox_overlaps(found.boxes, boxes)
    if same_class:
        overlaps = overlaps * (found.labels[:, None] == labels)
    return overlaps.max(1)


def _put(values: Tensor, hit: Tensor, others: Tensor, which: Tensor) -> Tensor:
    """The values, with ``others[which]`` where ``hit``."""
    result = values.clone()
    result[hit] = others[which[hit]]
    return result


class Detection:
    """Detections of the student and, if it has the same classes, of the teacher.

    Args:
        subject: The models.
        images: The test images.

    Raises:
        LeftOut: If there are no boxes.
    """

    def __init__(self, subject: Subject, images: TestImages) -> None:
        if not images.has_boxes:
            raise LeftOut('the test set has no boxes')
        self.classes = images.classes
        self.predict = {'student': lambda raw: subject.model.test_step(raw)}
        self.notes: list[str] = []
        if subject.teacher is not None:
            classes = subject.teacher.num_classes
            if classes == len(self.classes):
                self.predict['teacher'] = subject.teacher.predict
            else:
                self.notes.append(
                    f'the teacher has {classes} classes, the test set {len(self.classes)}'
                )
        self.truths: list[Truth] = []
        self.found: dict[str, list[Found]] = {owner: [] for owner in self.predict}

    @torch.no_grad()
    def add(self, view: View) -> None:
        """Detect in a batch."""
        self.truths += view.truths
        for owner, predict in self.predict.items():
            for sample in predict(copy.deepcopy(view.raw)):
                one = sample.pred_instances.cpu()
                boxes = one.bboxes
                if 'masks' in one and not (boxes[:, 2:] > boxes[:, :2]).any():
                    boxes = mask2bbox(one.masks)  # of SOLO, whose boxes are zeros
                self.found[owner].append(Found(boxes, one.scores, one.labels.long()))

    def result(self) -> dict:
        """A row for each model and oracle, and notes."""
        truth = ground_truth(self.truths, self.classes)
        rows = []
        for owner, of_images in self.found.items():
            for name, oracle in ORACLES.items():
                changed = [oracle(*pair) for pair in zip(of_images, self.truths)]
                rows.append(dict(owner=owner, oracle=name, **average_precision(truth, changed)))
        return dict(rows=rows, notes=self.notes)


def ground_truth(truths: Sequence[Truth], classes: Sequence[str]) -> COCO:
    """Boxes as an index of COCO's; the images are numbered from 0, the classes from 1."""
    annotations = [
        dict(
            image_id=n,
            category_id=label + 1,
            bbox=_corner_and_size(box),
            area=(box[2] - box[0]) * (box[3] - box[1]),
            iscrowd=int(crowd),
        )
        for n, truth in enumerate(truths)
        for box, label, crowd in zip(*(x.tolist() for x in vars(truth).values()))
    ]
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=n) for n in range(len(truths))],
        annotations=[dict(one, id=n + 1) for n, one in enumerate(annotations)],
        categories=[dict(id=n + 1, name=name) for n, name in enumerate(classes)],
    )
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def average_precision(truth: COCO, found: Sequence[Found]) -> dict:
    """COCO's AP, AP50, AP75, AR@100 and AP of each class, in [0, 1]; None where nothing is to find.

    Args:
        truth: The ground truth.
        found: Detections of each of its images.
    """
    detections = [
        dict(image_id=n, category_id=label + 1, bbox=_corner_and_size(box), score=score)
        for n, one in enumerate(found)
        for box, score, label in zip(*(x.tolist() for x in vars(one).values()))
    ]
    classes = [category['name'] for category in truth.dataset['categories']]
    with redirect_stdout(io.StringIO()):
        # without any detection there is no file of COCO's; one of score 0 finds nothing
        nothing = dict(image_id=0, category_id=1, bbox=[0.0, 0.0, 0.0, 0.0], score=0.0)
        evaluation = COCOeval(truth, truth.loadRes(detections or [nothing]), 'bbox')
        evaluation.params.maxDets = [MOST]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][..., 0, 0]  # overlap, recall, class
    half, three_quarters = (
        precision[np.isclose(evaluation.params.iouThrs, at)] for at in (0.5, 0.75)
    )
    return {
        'AP': _mean(precision),
        'AP50': _mean(half),
        'AP75': _mean(three_quarters),
        'AR@100': _mean(evaluation.eval['recall'][..., 0, 0]),
        'classes': {name: _mean(precision[..., n]) for n, name in enumerate(classes)},
    }


def _mean(values: np.ndarray) -> float | None:
    """Mean of what is not -1, COCO's sign for nothing to be found."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _corner_and_size(box: Sequence[float]) -> list[float]:
    x, y, right, bottom = box
    return [x, y, right - x, bottom - y]
