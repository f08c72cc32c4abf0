"""Two-stage heads: the teacher scores the RoIs that the student sampled, on its own pyramid.

So the rows of both correspond, whatever RoIs the teacher would have proposed itself. Its RPN, its
NMS and its assigner never run. What is distilled are the class scores of box heads; box deltas and
masks are not.
"""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import torch
from torch import Tensor, nn

from mmkd_fm.models.taps import Records, find_module, tensors

if TYPE_CHECKING:
    from mmkd_fm.models.probe import Measured

_ARGUMENTS = (['x', 'rois'], ['stage', 'x', 'rois'])


@dataclass(frozen=True)
class RoIStage:
    """A box head that scores RoIs, and where what it needs is recorded.

    Attributes:
        roi_head: Path of the RoI head that it belongs to.
        index: Which of a cascade's stages it is; None of a RoI head with a single one.
        pyramid: Path of the module whose output the RoIs are cut from.
    """

    roi_head: str
    index: Optional[int]
    pyramid: str

    @property
    def head(self) -> str:
        """Path of the box head."""
        return self._path('bbox_head')

    @property
    def extractor(self) -> str:
        """Path of the module that is given the RoIs."""
        return self._path('bbox_roi_extractor')

    def _path(self, part: str) -> str:
        path = f'{self.roi_head}.{part}'
        return path if self.index is None else f'{path}.{self.index}'

    def rois(self, records: Records) -> Tensor:
        """The RoIs that were scored, shape (M, 5): index of the image, x1, y1, x2, y2 in pixels.

        Args:
            records: The inputs of `extractor`. Of several calls the first is the box head's; masks
                and second branches come later.
        """
        inputs, _ = records[self.extractor][0]
        return inputs[1].detach()

    def num_images(self, records: Records) -> int:
        """How many images the RoIs were cut from.

        Args:
            records: The inputs of `extractor`.
        """
        inputs, _ = records[self.extractor][0]
        return len(tensors(inputs[0])[0])

    @torch.no_grad()
    def score(self, model: nn.Module, records: Records, rois: Tensor, num_images: int) -> Tensor:
        """Class scores of RoIs, shapes (M, 5) to (M, classes + 1).

        Args:
            model: The detector.
            records: The output of `pyramid`.
            rois: RoIs in pixels of its input.
            num_images: How many images they are of.

        Raises:
            ValueError: If the detector was given another number of images.
        """
        ((pyramid, _),) = records[self.pyramid]
        given = len(tensors(pyramid)[0])
        if given != num_images:  # an index beyond the last image would read foreign memory
            raise ValueError(
                f'the RoIs of the student are of {num_images} images, but the teacher was given '
                f'{given}: the student repeats its images, as a TridentNet does in training, so '
                f"that they don't correspond. Such a student can not be distilled, by features "
                f'neither; take one that trains on each image once'
            )
        stage = () if self.index is None else (self.index,)
        roi_head = find_module(model, self.roi_head)
        return roi_head._bbox_forward(*stage, pyramid, rois)['cls_score']


def find_stage(model: nn.Module, path: str, owner: str = 'student') -> Optional[RoIStage]:
    """The stage whose box head lies at ``path``; None if that is not inside a RoI head.

    Args:
        model: The detector.
        path: Path of a module.
        owner: 'student' or 'teacher', for messages.

    Raises:
        ValueError: If there is no such module, or it is no box head that RoIs alone suffice for.
    """
    find_module(model, path)
    parts = path.split('.')
    for depth in range(1, len(parts)):
        roi_head = find_module(model, '.'.join(parts[:depth]))
        if hasattr(roi_head, 'bbox_roi_extractor'):
            break
    else:
        return None
    name, inside = '.'.join(parts[:depth]), parts[depth:]
    stages = getattr(roi_head, 'bbox_head', None)
    if isinstance(stages, nn.ModuleList):
        valid = [f'{name}.bbox_head.{i}' for i in range(len(stages))]
    else:
        valid = [f'{name}.bbox_head']
    option = 'teacher_tap' if owner == 'teacher' else 'tap'
    where = f'{option}={path!r} of the {owner} ({type(model).__name__})'
    if path not in valid:
        raise ValueError(
            f'{where}: of two-stage detectors the class scores of box heads are distilled, '
            f'each stage as a term of its own (masks and box deltas are not). Valid: '
            f"{', '.join(f'{option}={v!r}' for v in valid)}, with index=0; features with tap='neck'"
        )
    arguments = list(inspect.signature(roi_head._bbox_forward).parameters)
    if arguments not in _ARGUMENTS:
        more = [a for a in arguments if a not in _ARGUMENTS[1]]
        raise ValueError(
            f'{where}: the box head of {type(roi_head).__name__} scores no RoIs alone but '
            f"needs {', '.join(more)} too, which the student's and the teacher's have not in "
            f"common; distil features instead: tap='neck' with FMKTLoss or PKDLoss"
        )
    index = int(inside[1]) if len(inside) > 1 else None
    return RoIStage(name, index, 'neck' if getattr(model, 'neck', None) is not None else 'backbone')


def stages_of(
    name: str, student: 'Measured', teacher: Optional['Measured'] = None
) -> Optional[tuple[RoIStage, RoIStage]]:
    """The stages of a term that compares scores of RoIs; None of any other term.

    Raises:
        ValueError: If only one of both taps gives scores of RoIs, or there are several taps.
    """
    parts = [list(t.values()) if isinstance(t, dict) else [t] for t in (student, teacher)]
    if all(getattr(t, 'stage', None) is None for part in parts for t in part):
        return None
    stages = [getattr(t, 'stage', None) for t in (student, teacher)]
    if None in stages:
        got = ', '.join(str(t) for part in parts for t in part)
        raise ValueError(
            f'losses.{name}: scores of RoIs are compared with scores of the same RoIs alone, one '
            f'tap of both, but got {got}. No RoI belongs to a location of a dense head: of such '
            f"pairs distil features, tap='neck' with FMKTLoss or PKDLoss"
        )
    return stages[0], stages[1]


def rescale(rois: Tensor, scale: float) -> Tensor:
    """RoIs (M, 5) in pixels of an image that is ``scale`` times as large."""
    return rois if scale == 1 else rois * rois.new_tensor([1, *[scale] * 4])
