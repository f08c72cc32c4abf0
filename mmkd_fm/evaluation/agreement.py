"""How far a classifier predicts what its teacher predicts."""

import os.path as osp
from collections.abc import Sequence
from typing import Optional, Union

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor
from torch.nn import functional as F

from mmkd_fm.models.teacher import FrozenTeacher
from mmkd_fm.registry import METRICS, check_options, placed

Images = Union[Tensor, Sequence[Tensor]]


@METRICS.register_module()
class TeacherAgreement(BaseMetric):
    """Agreement of a classifier with a teacher on a whole data set, both on the same images.

    `top1` is the share of images, in percent, whose class is the same for both; `kl` the mean
    divergence KL(teacher || student) of the predicted probabilities, in nats. Where the student
    predicts several views of an image (test-time augmentation), so does the teacher, and its
    probabilities are averaged.

    It is one more entry of the evaluator, with or without a Distiller. The weights are read at the
    first batch, and stay on its device.

    Args:
        teacher: Arguments of `FrozenTeacher`: config and checkpoint.
        collect_device: As for mmengine's `BaseMetric`.
        prefix: Likewise; 'agreement' by default.
        collect_dir: Likewise.

    Raises:
        ValueError: If there is no checkpoint.

    Example:
        >>> val_evaluator = [
        ...     dict(type='Accuracy', topk=(1, 5)),
        ...     dict(type='mmkd_fm.TeacherAgreement', teacher=dict(
        ...         config='mmpretrain::resnet/resnet34_8xb32_in1k.py', checkpoint='r34.pth'))]
    """

    default_prefix = 'agreement'

    def __init__(
        self,
        teacher: dict,
        collect_device: str = 'cpu',
        prefix: Optional[str] = None,
        collect_dir: Optional[str] = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        checkpoint = teacher.get('checkpoint')
        # now, not after the first epoch of a training
        if not checkpoint or not ('://' in checkpoint or osp.isfile(osp.expanduser(checkpoint))):
            raise ValueError(
                f'TeacherAgreement: expected the file or URL of a trained teacher, but '
                f'teacher.checkpoint is {checkpoint!r}'
                + (', which does not exist' if checkpoint else '')
            )
        with placed('TeacherAgreement: teacher'):
            check_options(FrozenTeacher, teacher)
        self.teacher = FrozenTeacher(**teacher)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compare the predictions of one batch.

        Args:
            data_batch: Raw batch of the data loader.
            data_samples: Predictions of the student, with `pred_score` of shape (C,) each.

        Raises:
            ValueError: If the predictions are not probabilities of the teacher's classes.
        """
        if any('pred_score' not in sample for sample in data_samples):
            raise ValueError(
                f'TeacherAgreement compares the pred_score of classifiers, but the predictions '
                f'have: {", ".join(data_samples[0])}; leave it out of the evaluators of detectors'
            )
        student = torch.stack([sample['pred_score'] for sample in data_samples])
        _check_probabilities(student, 'student')
        if not self.teacher.is_loaded:
            self.teacher.load(student.device)
        teacher = self._predict(data_batch['inputs'])
        _check_probabilities(teacher, 'teacher')
        if student.shape != teacher.shape:
            raise ValueError(
                f'TeacherAgreement: the student has {student.shape[1]} classes, the teacher '
                f'{teacher.shape[1]}; take a teacher of the same classes'
            )
        same = student.argmax(dim=1) == teacher.argmax(dim=1)
        divergences = kl_of_probabilities(teacher.to(student.device), student)
        self.results += zip(same.tolist(), divergences.tolist())

    def compute_metrics(self, results: list[tuple[bool, float]]) -> dict[str, float]:
        """Means over the data set.

        Args:
            results: Of each image, whether the class is the same, and the divergence in nats.
        """
        same, divergences = zip(*results)
        return dict(top1=100 * sum(same) / len(same), kl=sum(divergences) / len(divergences))

    def _predict(self, inputs: Union[Images, Sequence[Images]]) -> Tensor:
        """Probabilities of the teacher, shape (N, C), for raw images in its own view."""
        views = inputs if _are_views(inputs) else [inputs]
        return torch.stack([self._predict_view(view) for view in views]).mean(dim=0)

    @torch.no_grad()
    def _predict_view(self, images: Images) -> Tensor:
        predicted = self.teacher.model(self.teacher.view(images), mode='predict')
        return torch.stack([sample.pred_score for sample in predicted])


def kl_of_probabilities(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row of probabilities, shapes (N, C), in nats, shape (N,).

    What q has rounded to 0 counts as the smallest float32.
    """
    q = q.double().clamp(min=torch.finfo(torch.float32).tiny)
    return F.kl_div(q.log(), p.double(), reduction='none').sum(dim=1)


def _are_views(inputs: Union[Images, Sequence[Images]]) -> bool:
    """Whether the data loader gave several batches, one for each view of the images."""
    if isinstance(inputs, Tensor):
        return False
    return not isinstance(inputs[0], Tensor) or inputs[0].ndim == 4


def _check_probabilities(scores: Tensor, owner: str) -> None:
    total = scores.sum(dim=1)
    if not torch.allclose(total, torch.ones_like(total), atol=1e-2):
        raise ValueError(
            f'TeacherAgreement compares probabilities that sum to 1, but those of the {owner} sum '
            f'to {total[0].item():.3g}; it is not for classifiers of several labels an image'
        )
