"""How large the gradient of each loss is on each part of the student, and where it points.

The share of a loss is its norm over the sum of the norms of all losses, so that losses which cancel
are seen. A cosine near 0 between two losses is what random directions have; below 0 they disagree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from diagnose_data import SEED
from diagnose_models import LeftOut, Subject
from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.distiller import EXTRAS
from mmkd_fm.models.taps import record

TASK = 'task'
WHOLE = 'student'
"""All parts of the student together."""

Gradients = dict[str, dict[str, Tensor]]
"""Of each loss, of each part, shape (parameters,)."""


def measure_gradients(subject: Subject, batches: Iterable[dict]) -> list[dict]:
    """Mean over training batches; nothing is updated.

    Args:
        subject: The models.
        batches: Raw batches of the training data.

    Returns:
        A row for each loss and each part of the student, WHOLE last: `term`, `part`, the `loss`,
        and means over the batches with their deviations: `norm`, `share`, and the `cosine` with the
        gradient of TASK, None where one of both has no gradient.

    Raises:
        LeftOut: If there are no batches.
    """
    model, parts = subject.model, parameters_by_part(subject.student)
    rows: dict[tuple[str, str], list[dict]] = {}
    with as_in_training(subject) as set_iteration, _without_recomputation(subject.student):
        for n, raw in enumerate(batches):
            set_iteration(subject.iteration + n)  # flows draw their steps by it
            losses = loss_terms(model, model.data_preprocessor(raw, True))
            compared = compare(gradients_of(losses, parts), whole=not subject.terms)
            for key, row in compared.items():
                row['loss'] = losses[key[0]].item()
                rows.setdefault(key, []).append(row)
    if not rows:
        raise LeftOut('there are no training images')
    return [
        dict(term=term, part=part, batches=len(of_batches), **average(of_batches))
        for (term, part), of_batches in rows.items()
    ]


@contextmanager
def _without_recomputation(student: nn.Module) -> Iterator[None]:
    """Switch `with_cp` off: mmdet's blocks recompute in a way that forbids gradients of parts."""
    recomputed = [m for m in student.modules() if getattr(m, 'with_cp', False)]
    for module in recomputed:
        module.with_cp = False
    try:
        yield
    finally:
        for module in recomputed:
            module.with_cp = True


def parameters_by_part(student: nn.Module) -> dict[str, list[nn.Parameter]]:
    """What is trained of the student, by its top-level children."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            parts.setdefault(name.partition('.')[0], []).append(parameter)
    return parts


def loss_terms(model: BaseModel, data: dict) -> dict[str, Tensor]:
    """The sum of the student's own losses as TASK, and each distillation loss under its own name.

    Of a plain model, each of its losses instead of the latter.

    Args:
        model: A Distiller or a plain model, in training mode.
        data: A batch, preprocessed.
    """
    extras = getattr(model, EXTRAS, nn.ModuleDict())
    with record(extras, extras) as calls:
        losses = model(**data, mode='loss')
    given = set()  # the Distiller hands on what its losses gave
    for ((output, _),) in calls.values():
        given |= {id(x) for x in (output.values() if isinstance(output, dict) else [output])}
    losses = {name: value for name, value in losses.items() if 'loss' in name}
    own = {name: value for name, value in losses.items() if id(value) not in given}
    terms = {name: losses[name] for name in losses if name not in own} if len(extras) else own
    total = {name: model.parse_losses({name: value})[0] for name, value in terms.items()}
    return {TASK: model.parse_losses(own)[0], **total}


def gradients_of(losses: dict[str, Tensor], parts: dict[str, list[nn.Parameter]]) -> Gradients:
    """The gradient of each loss on each part.

    Args:
        losses: Scalars of one graph.
        parts: Parameters of each part.
    """
    parameters = [p for of_part in parts.values() for p in of_part]
    result: Gradients = {}
    for name, loss in losses.items():
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        flat = iter(
            p.new_zeros(p.numel()) if g is None else g.flatten() for p, g in zip(parameters, found)
        )
        result[name] = {
            part: torch.cat([next(flat) for _ in of_part]) for part, of_part in parts.items()
        }
    return result


def compare(gradients: Gradients, whole: bool = False) -> dict[tuple[str, str], dict]:
    """Norms, shares, and cosines with TASK, of each loss on each part and on WHOLE.

    Args:
        gradients: Of one batch.
        whole: Whether TASK is the sum of the others instead of one of them.
    """
    products = {
        name: {part: (_dot(g, g), _dot(g, gradients[TASK][part])) for part, g in of_name.items()}
        for name, of_name in gradients.items()
    }
    for of_name in products.values():
        of_name[WHOLE] = tuple(map(sum, zip(*of_name.values())))
    rows = {}
    for name, of_name in products.items():
        for part, (square, with_task) in of_name.items():
            norms = {n: math.sqrt(products[n][part][0]) for n in products if n != TASK or not whole}
            scale = math.sqrt(square * products[TASK][part][0])
            rows[name, part] = dict(
                norm=math.sqrt(square),
                share=math.sqrt(square) / (sum(norms.values()) or 1.0),
                cosine=with_task / scale if scale else None,
            )
    return rows


def _dot(a: Tensor, b: Tensor) -> float:
    return (a.double() @ b.double()).item()


def average(rows: Sequence[dict]) -> dict:
    """Mean and, as `KEY_deviation`, deviation of each number; None where all are None."""
    result: dict = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        result[key] = statistics.fmean(values) if values else None
        result[f'{key}_deviation'] = statistics.stdev(values) if len(values) > 1 else None
    return result


@contextmanager
def as_in_training(subject: Subject) -> Iterator:
    """Training mode and a fixed seed; buffers, mode and generators are put back afterwards.

    Yields:
        What sets the iteration that flows, heads and augmentations ask for.
    """
    model, hub = subject.model, MessageHub.get_current_instance()
    before = {key: hub.get_info(key, 0) for key in ('iter', 'epoch')}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    with preserved_generators():
        set_random_seed(SEED)
        hub.update_info('epoch', subject.epoch)
        model.train()
        try:
            yield lambda iteration: hub.update_info('iter', iteration)
        finally:
            model.train(training)
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])
            for key, value in before.items():
                hub.update_info(key, value)
