"""The Distiller: an unedited student with a frozen teacher beside it."""

import copy
import inspect
import logging
import weakref
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd_fm.generators import preserved_generators
from mmkd_fm.models.preprocessor import TwoViewPreprocessor, common_part
from mmkd_fm.models.probe import Measured, measure_taps, without_modules
from mmkd_fm.models.roi import RoIStage, rescale, stages_of
from mmkd_fm.models.taps import (
    Records,
    Taps,
    read,
    record,
    tap_paths,
    tensors,
)
from mmkd_fm.models.teacher import FrozenTeacher
from mmkd_fm.models.terms import (
    build_term,
    check_finite,
    check_kinds,
    check_names,
    check_weight,
    choose_terms,
    describe,
    has_weight,
    named_losses,
    no_loss,
    takes_data_samples,
    weighs,
)
from mmkd_fm.registry import MODELS, check_options, placed

EXTRAS = 'distill_losses'
"""Child that holds all that is trained besides the student; it stays out of `state_dict`."""


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains ``student`` with distillation losses; in every other respect it is the student.

    The student's children are children of the Distiller, under their own names, so that hooks,
    layer-wise learning rates, EMA, TTA and checkpoints find what they find in the plain student;
    `state_dict` holds exactly the plain student's keys. Attributes that the Distiller lacks are the
    student's.

    Args:
        student: Config of the student, as in its own config file.
        losses: Name of each term and its config: a registered loss of (student, teacher), with
            `tap` (module path, of the teacher too unless `teacher_tap` is given) and optionally
            `index` (item of the module's output) and `teacher_index`. A loss that compares several
            outputs has a dict of paths as its tap, maybe one of indices too, and is given a dict.
            One whose forward has a parameter `data_samples` is given those of the batch. A term of
            `loss_weight` 0 is left out whole, as the log says; with none left the teacher is not
            even built.
        teacher: Arguments of `FrozenTeacher`: config, checkpoint, input_scale and cache.
        terms: Names of the losses that are used; None uses all. So a config can list every method,
            and one line, or ``--cfg-options model.terms=[kd]``, chooses.
        task_loss_weight: Factor of the student's own losses.
        seed: Seed of the initial weights of what is trained besides the student. None takes the
            run's seed.
        data_preprocessor: Goes to the student if its config has none (mmpretrain keeps it at the
            top level).

    Raises:
        ValueError: If an argument is of another kind, a tap names no module, pyramids don't fit, a
            name is unknown or taken, there is no loss, one has no type or lacks a teacher, an
            option is unknown, a weight is no finite number of at least 0, or a term of weight 0 has
            a source term.

    Example:
        >>> model = dict(
        ...     type='mmkd_fm.Distiller',
        ...     student=student_config,
        ...     teacher=dict(config='mmdet::retinanet/...py', checkpoint='teacher.pth'),
        ...     losses=dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck')))
    """

    def __init__(
        self,
        student: dict,
        losses: dict[str, dict],
        teacher: Optional[dict] = None,
        terms: Optional[Sequence[str]] = None,
        task_loss_weight: float = 1.0,
        seed: Optional[int] = None,
        data_preprocessor: Optional[dict] = None,
    ) -> None:
        check_kinds(student, losses, teacher)
        listed, losses = losses, choose_terms(losses, terms)
        check_weight('task_loss_weight', task_loss_weight)
        student = copy.deepcopy(dict(student))  # some models change their config
        if data_preprocessor is not None:
            own = student.setdefault('data_preprocessor', data_preprocessor)
            if own != data_preprocessor:
                print_log(
                    'model.data_preprocessor is not used: the student has its own, which differs; '
                    'what is to change goes to model.student.data_preprocessor',
                    'current',
                    logging.WARNING,
                )
        student_model: BaseModel = MODELS.build(student)
        losses = {name: cfg for name, cfg in losses.items() if has_weight(name, cfg)}
        unused_terms = set(listed) - set(losses)
        self_teacher = None
        if losses and teacher is not None:
            with placed('teacher'):
                check_options(FrozenTeacher, teacher)
            self_teacher = FrozenTeacher(**teacher)
        preprocessor = student_model.data_preprocessor
        super().__init__(
            TwoViewPreprocessor(preprocessor, self_teacher, self.uses_teacher)
            if self_teacher
            else preprocessor
        )
        self.teacher = self_teacher
        if self_teacher is not None:
            self_teacher.owner = weakref.ref(self)
        self.task_loss_weight = task_loss_weight
        self.seed = seed
        self.unused_terms = unused_terms
        self.state_is_kept = False  # set by DistillStateHook
        self.told: set[str] = set()  # terms of which was said that they teach nothing
        self._adopt(student_model)
        self.student_taps: dict[str, Taps] = {}
        self.teacher_taps: dict[str, Taps] = {}
        self.teacher_tapped: dict[str, Measured] = {}
        self.roi_stages: dict[str, tuple[RoIStage, RoIStage]] = {}  # of student and teacher
        with preserved_generators():
            # that of the CPU alone: torch.manual_seed would also seed CUDA's when that is set up
            torch.default_generator.manual_seed(_run_seed() if seed is None else seed)
            self.add_module(EXTRAS, nn.ModuleDict(self._build_losses(losses)))
        self.supervises_flow = any(
            getattr(module, 'supervised', False) for module in self.student.modules()
        )
        self.register_load_state_dict_post_hook(_after_load)

    def _adopt(self, student: BaseModel) -> None:
        """Share the student's parameters, buffers and children without registering itself."""
        if {'student', 'teacher'} & set(student._modules):
            raise ValueError(
                f'{type(student).__name__} has a student and a teacher of its own '
                f'(semi-supervised), which can not be distilled; distil its detector'
            )
        object.__setattr__(self, 'student', student)
        for shared in ('_parameters', '_buffers', '_non_persistent_buffers_set'):
            object.__setattr__(self, shared, getattr(student, shared))
        for name, child in student._modules.items():
            self._modules.setdefault(name, child)

    def _build_losses(self, configs: dict[str, dict]) -> dict[str, nn.Module]:
        """Build each term, measure its taps on both models and let it connect them."""
        losses = {}
        for name, cfg in configs.items():
            losses[name], self.student_taps[name], teacher_taps = build_term(name, cfg)
            if self.teacher is not None:
                self.teacher_taps[name] = teacher_taps
            elif 'teacher' in inspect.signature(losses[name].forward).parameters:
                raise ValueError(
                    f'losses.{name}: {type(losses[name]).__name__} compares with a teacher, and '
                    f'there is none. Give the Distiller teacher=dict(config=..., checkpoint=...); '
                    f'an OnlineDistiller takes OnlineFMKTLoss or OnlineFMKTLogitLoss'
                )
        if not losses:
            return losses
        measured = [measure_taps(self.student, self.student_taps, 'student')]
        if self.teacher is not None:
            of_teacher = measure_taps(
                self.teacher.model, self.teacher_taps, 'teacher', self.teacher.input_scale
            )
            measured.append(of_teacher)
            self.teacher_tapped = without_modules(of_teacher)  # copies and pickles have no teacher
        for name, loss in losses.items():
            tapped = [owner[name] for owner in measured]
            stages = stages_of(name, *tapped)
            if stages:
                self.roi_stages[name] = stages
            if hasattr(loss, 'connect'):
                with placed(f'losses.{name}'):  # flows are built there
                    loss.connect(*tapped)
            print_log(f'distillation {name}: {describe(loss, tapped)}', 'current')
        return losses

    def init_weights(self) -> None:
        """Load the teacher, initialise the student as it would be alone, then what else is trained.

        Raises:
            RuntimeError: If `DistillStateHook` is not enabled, or its `before_run` is yet to come.
            ValueError: If the teacher can't be loaded.
        """
        if not self.state_is_kept:
            raise RuntimeError(
                'the Distiller needs DistillStateHook, or its checkpoints could not be resumed; '
                'add to the config: default_hooks = dict(distill_state=dict('
                "type='mmkd_fm.DistillStateHook')). If it is there, the runner initialises weights "
                "before its hooks run, as mmengine's FlexibleRunner (FSDP, DeepSpeed) does: train "
                "with mmengine's plain Runner, without runner_type and strategy in the config"
            )
        self.load_teacher()
        self.student.init_weights()
        with preserved_generators():
            seed = _run_seed() if self.seed is None else self.seed
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():  # the runner has moved them there
                torch.cuda.manual_seed(seed)
            _init_weights(self.distill_losses)
        self._is_init = True

    def load_teacher(self) -> None:
        """Read the teacher's weights and move it to where the student is."""
        if self.teacher is not None:
            self.teacher.load(next(self.student.parameters()).device)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Optional[list] = None,
        mode: str = 'tensor',
        teacher_inputs: Optional[Tensor] = None,
    ) -> Any:
        """The student's forward; with ``mode='loss'`` the distillation losses are added.

        Args:
            inputs: The student's view of the batch, shape (N, 3, H, W).
            data_samples: As for the student.
            mode: 'tensor', 'predict' or 'loss'.
            teacher_inputs: The teacher's view, shape (N, 3, H', W'), for 'loss'.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples, teacher_inputs)
        return self.student(inputs, data_samples, mode=mode)

    def loss(
        self, inputs: Tensor, data_samples: list, teacher_inputs: Optional[Tensor] = None
    ) -> dict[str, Union[Tensor, list[Tensor]]]:
        """The student's own losses, under their own names, and `loss_<term>` of each term.

        Raises:
            RuntimeError: If the teacher was not loaded.
            ValueError: If a term has the name of one of the student's losses, or of another's.
            FloatingPointError: If a term is not finite.
        """
        teacher_records, active = {}, self._active()
        if self.teacher is not None and active:
            if teacher_inputs is None:
                raise ValueError(
                    "teacher_inputs is missing; it comes from this model's data_preprocessor with "
                    'training=True'
                )
            if not self.teacher.is_loaded:  # random weights would teach without a word
                raise RuntimeError(
                    "the teacher's weights were not read; MMEngine's Runner does so, without it "
                    'call load_teacher() before the first step'
                )
            teacher_records = self.teacher.forward(teacher_inputs, self.teacher_paths)
        extractors = {self.roi_stages[name][0].extractor for name in active & set(self.roi_stages)}
        paths = tap_paths(self.student_taps[name] for name in active)
        with record(self.student, paths, inputs=extractors) as records:
            losses = dict(self.student(inputs, data_samples, mode='loss'))
        if self.task_loss_weight != 1:
            losses = {
                k: _scale(v, self.task_loss_weight) if 'loss' in k else v for k, v in losses.items()
            }
        terms: dict[str, Tensor] = {}
        scored: dict[tuple[RoIStage, RoIStage], Tensor] = {}
        for name, loss in self.distill_losses.items():
            if name not in active:
                terms[f'loss_{name}'] = no_loss(loss, inputs)
                continue
            outputs = [read(records, self.student_taps[name], self.student)]
            self._tell_of_no_gradient(name, outputs[0])
            if name in self.roi_stages:
                stages = self.roi_stages[name]
                if stages not in scored:
                    scored[stages] = self._score_rois(stages, records, teacher_records)
                outputs.append(scored[stages])
            elif self.teacher is not None:
                output = read(teacher_records, self.teacher_taps[name], self.teacher.model)
                views = inputs.shape[-2:], teacher_inputs.shape[-2:]
                tapped = self.teacher_tapped[name]
                outputs.append(common_part(output, tapped, *views, self.teacher.input_scale))
            more = dict(data_samples=data_samples) if takes_data_samples(loss) else {}
            named = named_losses(name, loss(*outputs, **more))
            check_names(name, named, terms, losses)
            terms.update(named)
        check_finite(terms, teacher_records)
        losses.update(terms)
        return losses

    def _tell_of_no_gradient(self, name: str, output: Any) -> None:
        """Warn once of a term whose loss does not reach the student's weights."""
        if not torch.is_grad_enabled() or name in self.told:
            return
        parts = output.values() if isinstance(output, dict) else [output]
        if not any(tensor.requires_grad for part in parts for tensor in tensors(part)):
            self.told.add(name)
            paths = ' and '.join(sorted(tap_paths([self.student_taps[name]])))
            print_log(
                f'distillation {name} teaches the student nothing: no gradient leads from '
                f'{paths} to its weights. They are frozen, or the module is inside of what is '
                f'recomputed (with_cp=True): tap a later module',
                'current',
                logging.WARNING,
            )

    def _active(self) -> set[str]:
        """Names of the terms that have a weight now: a hook may have scheduled it to 0."""
        if self.supervises_flow:  # terms give the student's own flow its gradients
            return set(self.distill_losses)
        return {name for name, loss in self.distill_losses.items() if weighs(loss)}

    def uses_teacher(self) -> bool:
        """Whether any term is computed now."""
        return bool(self._active())

    @property
    def teacher_paths(self) -> set[str]:
        """Paths of the teacher's modules that its forward has to reach."""
        active = self._active()
        scored = active & set(self.roi_stages)
        taps = [self.teacher_taps[name] for name in active - scored]
        return tap_paths(taps) | {self.roi_stages[name][1].pyramid for name in scored}

    def _score_rois(
        self, stages: tuple[RoIStage, RoIStage], records: Records, teacher_records: Records
    ) -> Tensor:
        """Logits of the teacher's box head for the RoIs that the student's has scored."""
        of_student, of_teacher = stages
        rois = rescale(of_student.rois(records), self.teacher.input_scale)
        images = of_student.num_images(records)
        scores = of_teacher.score(self.teacher.model, teacher_records, rois, images)
        teacher_records.setdefault(of_teacher.head, []).append((scores, ()))  # to be checked
        return scores

    def train(self, mode: bool = True) -> 'Distiller':
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        self.student.train(mode)
        return self

    def to(self, *args, **kwargs) -> 'Distiller':
        """Move and cast; the student may have parts elsewhere, as mmdet's LD its own teacher."""
        self.student.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def cuda(self, *args, **kwargs) -> 'Distiller':
        """As `to`."""
        self.student.cuda(*args, **kwargs)
        return super().cuda(*args, **kwargs)

    def _apply(self, fn, *args, **kwargs) -> 'Distiller':
        """Move and cast the teacher too; a copy leaves it where the original needs it."""
        super()._apply(fn, *args, **kwargs)
        if self.teacher is not None and self.teacher.owner() in (self, None):
            self.teacher.apply(fn)
        return self

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """The plain student's state, as its own hooks make it."""
        return self.student.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        """Load what is at the root as the student does, which may rename the keys of the rest."""
        self.student._load_from_state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if 'student' not in self.__dict__:
                raise
            return getattr(self.student, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # what is replaced here (a wrapped backbone, say) is replaced in the student too
        student = self.__dict__.get('student')
        if student is not None and name != 'data_preprocessor' and name in student._modules:
            setattr(student, name, value)
        if student is not None and name in vars(student) and name not in vars(self):
            setattr(student, name, value)  # a hook sets what the student alone has
        else:
            super().__setattr__(name, value)


def _init_weights(module: nn.Module) -> None:
    """Let modules initialise themselves that can, as those of users with an `init_cfg`."""
    for child in module.children():
        if hasattr(child, 'init_weights'):
            child.init_weights()  # its own children too
        else:
            _init_weights(child)


def _run_seed() -> int:
    """The seed of the run, that of rank 0 on all ranks."""
    seeds = [torch.initial_seed()]
    broadcast_object_list(seeds)
    return seeds[0]


def _after_load(distiller: Distiller, incompatible) -> None:
    """Let plain student checkpoints load strictly: they have no extras. Then run its own hooks."""
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if EXTRAS not in key.split('.')
    ]
    for hook in distiller.student._load_state_dict_post_hooks.values():
        hook(distiller.student, incompatible)


def _scale(value: Union[Tensor, list[Tensor]], factor: float) -> Union[Tensor, list[Tensor]]:
    return value * factor if isinstance(value, Tensor) else [v * factor for v in value]
