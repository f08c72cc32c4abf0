"""What a distillation config leads to, measured on the built models; no data, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from complexity import call_gflops, num_parameters
from mm_tool import package_of
from mmkd_fm.models.alignment import Tapped, as_levels
from mmkd_fm.models.distiller import EXTRAS, Distiller
from mmkd_fm.models.flow import Flow
from mmkd_fm.models.flow_cls_head import as_map
from mmkd_fm.models.probe import Measured, measure_taps
from mmkd_fm.models.taps import Records, Tap, record, tap_paths
from plan_models import scope_of

DETECTOR_SIZE = (800, 1344)
CLASSIFIER_SIZE = (224, 224)
OWN_DIVISOR = 32
WEIGHTS = ('loss_weight', 'theta_weight', 'source_weight')


@dataclass
class Pair:
    """One level of the student and its partner.

    Attributes:
        level: Index in the student's pyramid.
        stride: Pixels of the student's input per element.
        channels: Of student and teacher.
        size: Height and width of the student's map; None if it was not reached.
        mapped: Whether the channels are mapped, by a 1x1 convolution.
    """

    level: int
    stride: float
    channels: tuple[int, int]
    size: tuple[int, int] | None
    mapped: bool


@dataclass
class Term:
    """One distillation loss.

    Attributes:
        name: In the config.
        kind: Class of the loss.
        weights: Its weights by name.
        taps: Of student and teacher, as written in the config.
        pairs: Paired levels; empty where no pyramids are compared.
        logits: What the logits of both are; empty if no logits are compared.
        left_out: Levels of the student without a partner, or not asked for.
        num_steps: Steps of the flow that are drawn from; empty without a flow.
        parameters: Parameters of the term, trained besides the student.
        flow_gflops: Billions of multiply-adds of one step of the flow, for one image.
    """

    name: str
    kind: str
    weights: dict[str, float]
    taps: tuple[str, str]
    pairs: list[Pair]
    logits: list[str]
    left_out: list[int]
    num_steps: list[int]
    parameters: int
    flow_gflops: float | None


@dataclass
class Plan:
    """What a config leads to, for one image of `size`.

    Attributes:
        student: Class of the student.
        teacher: Class of the teacher; None without one.
        size: Height and width in pixels.
        terms: The losses.
        parameters: By owner: 'student', 'teacher' and 'extras'.
        student_gflops: Of the whole student, as at inference.
        student_part: What of the student these are, where that has to be said.
        teacher_gflops: Of the teacher up to its deepest tap.
        teacher_tapped: Modules that end the teacher's forward.
        memory: Bytes of what stays on the device besides a plain training, by name.
        exported: What the checkpoint is, in a sentence.
    """

    student: str
    teacher: str | None
    size: tuple[int, int]
    terms: list[Term] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    student_gflops: float = 0.0
    student_part: str = ''
    teacher_gflops: float = 0.0
    teacher_tapped: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    exported: str = ''


def make_plan(cfg: Config, model: Distiller, size: tuple[int, int]) -> Plan:
    """Measure a built Distiller.

    Args:
        cfg: Its whole config.
        model: As `build_distiller` gives it.
        size: Height and width of the images in pixels.
    """
    model.eval()
    image = torch.rand(1, 3, *size)
    teacher = model.teacher.model if model.teacher is not None else None
    plan = Plan(type(model.student).__name__, teacher and type(teacher).__name__, size)
    with scope_of(cfg):
        records = _run_student(model, image, plan)
        if teacher is not None:
            seen = image
            if model.teacher.input_scale != 1:
                sides = (math.ceil(s * model.teacher.input_scale) for s in size)
                seen = torch.rand(1, 3, *sides)
            paths = model.teacher_paths
            plan.teacher_gflops = call_gflops(lambda: model.teacher.forward(seen, paths))
            plan.teacher_tapped = sorted(paths)
        taps = measure_taps(model.student, model.student_taps, 'student')
    extras = getattr(model, EXTRAS)
    plan.terms = [
        _term(name, loss, taps[name], model.teacher_tapped.get(name), records)
        for name, loss in extras.items()
    ]
    plan.parameters = dict(
        student=num_parameters(model.student),
        teacher=num_parameters(teacher) if teacher is not None else 0,
        extras=num_parameters(extras),
    )
    with scope_of(cfg):  # of the optimizer
        plan.memory = _memory(cfg, extras, teacher)
    plan.exported = _exported(model)
    return plan


def _run_student(model: Distiller, image: Tensor, plan: Plan) -> Records:
    """Count the student's operations, and record its taps and flows."""
    student = model.student
    flows = [path for path, module in student.named_modules() if isinstance(module, Flow)]
    paths = tap_paths(model.student_taps.values()) | set(flows)
    samples = [_sample(image.shape[-2:])]
    try:
        with record(student, paths) as records:
            plan.student_gflops = call_gflops(lambda: student(image, samples, mode='tensor'))
        if hasattr(student, 'roi_head'):
            plan.student_part = 'with the proposals of random weights'
    except Exception as error:  # a head that needs labels, say
        deepest = tap_paths(model.student_taps.values())

        def up_to_taps() -> None:
            nonlocal records
            with record(student, deepest, stop_early=True) as records:
                student(image, samples, mode='tensor')

        plan.student_gflops = call_gflops(up_to_taps)
        plan.student_part = (
            f'up to its taps, as the rest fails on a blank image: {type(error).__name__}'
        )
    return records


def _sample(size: tuple[int, int]) -> BaseDataElement:
    """A sample of one image without labels, for heads that ask how large it is."""
    size = tuple(size)
    sample = BaseDataElement()
    sample.set_metainfo(
        dict(img_shape=size, ori_shape=size, batch_input_shape=size, pad_shape=size)
    )
    sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    return sample


def _term(
    name: str, loss: nn.Module, student: Measured, teacher: Measured | None, records: Records
) -> Term:
    pairs = _pairs(loss, student, teacher, records)
    used = {pair.level for pair in pairs}
    levels = student.levels if isinstance(student, Tapped) else ()
    states = list(_flow_states(loss, student, records))
    weights = {key: getattr(loss, key) for key in WEIGHTS if hasattr(loss, key)}
    return Term(
        name=name,
        kind=type(loss).__name__,
        weights=weights,
        taps=(_path(student), _path(teacher)),
        pairs=pairs,
        logits=_logits(loss, student),
        left_out=[i for i in range(len(levels)) if i not in used] if pairs else [],
        num_steps=list(states[0][0].num_steps) if states else [],
        parameters=num_parameters(loss),
        flow_gflops=_flow_gflops(states),
    )


def _path(tapped: Measured | None) -> str:
    if tapped is None:
        return 'no teacher'
    if isinstance(tapped, dict):
        return ', '.join(f'{name}: {one.tap}' for name, one in tapped.items())
    return str(tapped.tap)


def _pairs(
    loss: nn.Module, student: Measured, teacher: Measured | None, records: Records
) -> list[Pair]:
    """The levels that a loss compares."""
    dense = getattr(loss, 'dense', None)
    chosen = getattr(loss, 'pairs', None) or getattr(dense, 'pairs', None)
    if isinstance(student, dict):
        student = student.get('scores')
        teacher = teacher.get('scores') if isinstance(teacher, dict) else None
    if student is None or teacher is None or not student.levels or not teacher.levels:
        return []
    if chosen is None:
        chosen = [(i, i) for i in range(min(len(student.levels), len(teacher.levels)))]
    sizes = [tuple(level.shape[-2:]) for level in _maps(records, student.tap)]
    return [
        Pair(
            i,
            student.levels[i].stride,
            (student.levels[i].channels, teacher.levels[j].channels),
            sizes[i] if sizes else None,
            _is_mapped(loss, place),
        )
        for place, (i, j) in enumerate(chosen)
    ]


def _is_mapped(loss: nn.Module, place: int) -> bool:
    """Whether a feature loss, or an objective of FM-KT, maps the channels of a pair."""
    parts = getattr(loss, 'projections', None) or getattr(loss, 'objectives', None)
    return parts is not None and any(True for _ in parts[place].parameters())


def _maps(records: Records, tap: Tap) -> list[Tensor]:
    """Levels that were recorded at a tap; none if the forward did not get there."""
    calls = records.get(tap.path)
    if not calls:
        return []
    output: Any = calls[0][0]
    return as_levels(output if tap.index is None else output[tap.index])


def _logits(loss: nn.Module, student: Measured) -> list[str]:
    """What the logits mean that a loss compares."""
    dense = getattr(loss, 'dense', None)
    if dense is not None:
        compared = f'compared as {dense.form}' + (' of each box side' if dense.boxes else '')
        return [f'student: {dense.student}', f'teacher: {dense.teacher}', compared]
    if not hasattr(loss, 'powers') and not hasattr(loss, 'label_weight'):
        return []
    part = student.get('logits') if isinstance(student, dict) else student
    classes = getattr(getattr(part, 'module', None), 'num_classes', None)
    return [f'softmax of {classes} classes' if classes else 'softmax']


def _flow_gflops(states: list[tuple[Flow, Tensor]]) -> float | None:
    """Of one step of all flows of a term; None without."""
    if not states:
        return None
    return sum(call_gflops(lambda f=flow, x=x: f(x, num_steps=1)) for flow, x in states)


def _flow_states(
    loss: nn.Module, student: Measured, records: Records
) -> Iterator[tuple[Flow, Tensor]]:
    """Each flow of a term with a state of the size that it transports."""
    if isinstance(student, dict):
        if hasattr(loss, 'flow') and 'features' in student:
            features = _maps(records, student['features'].tap)
            yield loss.flow, torch.rand_like(as_map(features))
        elif 'transport' in student:
            module = student['transport'].module
            yield from _recorded(module, records.get(student['transport'].tap.path))
        return
    for level, flow in getattr(loss, 'flows', {}).items():
        yield flow, torch.rand_like(_maps(records, student.tap)[int(level)])
    for level, flow in getattr(student.module, 'flows', {}).items():  # of a FlowNeck
        yield from _recorded(flow, records.get(f'{student.tap.path}.flows.{level}'))


def _recorded(flow: Flow, calls: list | None) -> Iterator[tuple[Flow, Tensor]]:
    if calls:
        yield flow, torch.rand_like(calls[0][0].endpoint)


def _memory(cfg: Config, extras: nn.Module, teacher: nn.Module | None) -> dict[str, int]:
    """Bytes besides those of a plain training, without activations."""
    trained = [p for p in extras.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    optimizer = dict(cfg.get('optim_wrapper') or {}).get('optimizer')
    held = [*teacher.parameters(), *teacher.buffers()] if teacher is not None else []
    return {
        'extras, parameters': sum(p.nbytes for p in extras.parameters()),
        'extras, gradients': gradients,
        'extras, optimizer state': round(gradients * state_ratio(optimizer)),
        "the teacher's weights": sum(t.nbytes for t in held),
    }


def state_ratio(optimizer: dict | None) -> float:
    """Numbers that an optimizer keeps for each parameter, tried on one; 0 without an optimizer."""
    if optimizer is None:
        return 0.0
    parameter = nn.Parameter(torch.ones(8, 8))
    tried = OPTIMIZERS.build(dict(optimizer, params=[parameter]))
    parameter.grad = torch.ones_like(parameter)
    tried.step()
    state = tried.state[parameter].values()
    kept = sum(t.numel() for t in state if isinstance(t, Tensor) and t.ndim)
    return kept / parameter.numel()


def _exported(model: Distiller) -> str:
    keys = len(model.state_dict())
    parts = [p for p, module in model.student.named_modules() if isinstance(module, Flow)]
    if not parts:
        return f"the plain student: a checkpoint of its {keys} keys, nothing of the teacher's"
    place = parts[0].split('.')[0]
    return (
        f'the student with its flow in the {place}, {keys} keys; tools/export_student.py takes the '
        f'flow out if 0 is among its numbers of steps'
    )


def default_size(cfg: Config) -> tuple[int, int]:
    """Size of the images, as the pipelines say; rounded up to what necks divide by."""
    classifier = package_of(cfg) == 'mmpretrain'
    size = None
    for loader in ('test_dataloader', 'train_dataloader'):
        for step in _pipeline(cfg, loader) if size is None else ():
            given = step.get('crop_size') if classifier else step.get('scale')
            if isinstance(given, int):
                size = (given, given)
            elif isinstance(given, (list, tuple)) and all(isinstance(side, int) for side in given):
                size = (min(given), max(given))
    if classifier:
        return size or CLASSIFIER_SIZE
    height, width = (OWN_DIVISOR * math.ceil(s / OWN_DIVISOR) for s in size or DETECTOR_SIZE)
    return height, width


def _pipeline(cfg: Config, loader: str) -> list[dict]:
    dataset = (cfg.get(loader) or {}).get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset.get('pipeline') or []
