"""The terms of a distillation: which are used, what they read, and what they return."""

import difflib
import inspect
import math
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd_fm.models.alignment import left_out
from mmkd_fm.models.probe import Measured
from mmkd_fm.models.taps import TAP_OPTIONS, Records, Taps, make_taps, tensors
from mmkd_fm.registry import build_part, placed


def check_kinds(student: Any, losses: Any, teacher: Any) -> None:
    """Refuse what is no config of a student, of losses or of a teacher.

    Raises:
        ValueError: If one is of another kind; it says what is expected.
    """
    if not isinstance(student, dict) or 'type' not in student:
        got = repr(student)
        if isinstance(student, dict):
            whole = 'a whole config: give its `model`'
            keys = ', '.join(map(str, student)) or 'nothing'
            got = whole if 'model' in student else f'a dict without a type, but with: {keys}'
        raise ValueError(
            'student: expected the `model` of its config, such as student={{_base_.model}} where '
            f'_base_ names that config, got {got}'
        )
    if not isinstance(losses, dict):
        raise ValueError(
            "losses: expected a dict of each term's name and its config, such as "
            f"dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck')), got {losses!r}"
        )
    if teacher is not None and not isinstance(teacher, dict):
        raise ValueError(f"teacher: expected dict(config='...', checkpoint='...'), got {teacher!r}")


def choose_terms(losses: dict[str, dict], terms: Optional[Sequence[str]]) -> dict[str, dict]:
    """The losses named by ``terms``, in their order.

    Args:
        losses: Config of each loss by its name.
        terms: Names; None takes all.

    Raises:
        ValueError: If a name is unknown, there is none, or a loss has no type, used or not: an
            option with a misspelt name makes such a loss.
    """
    _check_types(losses)
    terms = list(losses) if terms is None else [terms] if isinstance(terms, str) else list(terms)
    unknown = [name for name in terms if name not in losses]
    if unknown:
        raise ValueError(
            f'terms: there is no loss named {", ".join(map(repr, unknown))}; losses has: '
            f'{", ".join(losses)}'
        )
    if not terms:
        if losses:
            raise ValueError(f'terms is empty; name some of losses: {", ".join(losses)}')
        raise ValueError('losses is empty: name at least one distillation loss')
    return {name: losses[name] for name in terms}


OF_LOSSES = ('loss_weight', 'theta_weight', 'source_weight')
WEIGHTS = (*OF_LOSSES, 'label_weight')  # the last is a part of what loss_weight multiplies
"""Options of a term that are factors of losses."""


def check_weight(where: str, value: Any) -> None:
    """Refuse what is no factor of a loss.

    Args:
        where: Its place in the config.
        value: What stands there.

    Raises:
        ValueError: If it is no finite number of at least 0.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= 0):
        raise ValueError(f'{where}: expected a finite number of at least 0, got {value!r}')


def has_weight(name: str, cfg: dict) -> bool:
    """Whether a term is used; says so if it is not.

    Args:
        name: Of the term.
        cfg: Its config.

    Raises:
        ValueError: If it is not, but has a source term, which would be left out with it, or a
            weight is no finite number of at least 0.
    """
    for key in WEIGHTS:
        if key in cfg and not (key == 'theta_weight' and cfg[key] is None):  # its default
            check_weight(f'losses.{name}.{key}', cfg[key])
    if cfg.get('loss_weight', 1) != 0:
        return True
    if cfg.get('source_weight'):
        raise ValueError(
            f'losses.{name} has loss_weight=0, which leaves out the whole term, but '
            f'source_weight={cfg["source_weight"]}. To train without a flow take a metric alone, '
            f"such as dict(type='mmkd_fm.PKDLoss', project=True); to leave the term out, set "
            f'source_weight=0 too'
        )
    print_log(f'distillation {name}: left out, its loss_weight is 0', 'current')
    return False


def weighs(loss: nn.Module) -> bool:
    """Whether a term has a weight that is not 0 at the moment."""
    weights = [getattr(loss, key) for key in OF_LOSSES if hasattr(loss, key)]
    return any(weights) or not weights


def no_loss(loss: nn.Module, like: Tensor) -> Tensor:
    """A zero in the place of a term, which gives its parameters gradients: DDP waits for them.

    Args:
        loss: The term.
        like: A tensor of the device and dtype.
    """
    zero = like.new_zeros(())
    return sum(((0 * p).sum() for p in loss.parameters() if p.requires_grad), zero)


def build_term(name: str, cfg: dict) -> tuple[nn.Module, Taps, Taps]:
    """Build the loss of a term and what it reads.

    Args:
        name: Of the term.
        cfg: Its config, with its taps.

    Returns:
        The loss, and the taps of student and teacher.

    Raises:
        ValueError: If the name would make mmengine count monitors as losses, there is no tap, or
            the loss can't be built.
    """
    if 'loss' in name:
        raise ValueError(
            f'losses: the name {name!r} contains "loss"; it is prefixed to monitors, and '
            f'mmengine would add those to the total. Choose another, such as '
            f'{name.replace("loss", "").strip("_") or "term"!r}'
        )
    cfg = dict(cfg)
    if 'tap' not in cfg:
        raise ValueError(f"losses.{name} needs a tap, such as tap='neck'")
    tap, index = cfg.pop('tap'), cfg.pop('index', None)
    with placed(f'losses.{name}'):
        student = make_taps(tap, index)
        teacher = make_taps(cfg.pop('teacher_tap', tap), cfg.pop('teacher_index', index))
        return build_part(cfg, 'Loss', beside=TAP_OPTIONS), student, teacher


def describe(loss: nn.Module, tapped: Sequence[Measured]) -> str:
    """What a term compares with what.

    Args:
        loss: The term, connected.
        tapped: What its taps were measured to be, of the student and of the teacher if it has one.
    """
    names = [' and '.join(map(str, t.values())) if isinstance(t, dict) else str(t) for t in tapped]
    rest = left_out(*tapped, loss.pairs) if len(tapped) == 2 and hasattr(loss, 'pairs') else ''
    return ' <- '.join(names) + (f'; left out: {rest}' if rest else '')


def takes_data_samples(loss: nn.Module) -> bool:
    """Whether a term is given the batch's samples."""
    return 'data_samples' in inspect.signature(loss.forward).parameters


def named_losses(name: str, term: Union[Tensor, dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a loss returned, under the names of its term.

    `loss` -> `loss_<name>`, `loss_x` -> `loss_<name>_x`, monitor `x` -> `<name>_x`.

    Args:
        name: Of the term.
        term: A scalar, or scalars by their names.
    """
    if isinstance(term, Tensor):
        term = {'loss': term}
    return {
        f'loss_{name}{key[4:]}' if key.startswith('loss') else f'{name}_{key}': value
        for key, value in term.items()
    }


def check_names(
    name: str, given: Collection[str], others: Collection[str], of_student: Collection[str]
) -> None:
    """Refuse names that another term or the student has: one of the two would be lost.

    Args:
        name: Of the term.
        given: Names that it gives.
        others: Those that other terms gave.
        of_student: Those of the student's own losses.

    Raises:
        ValueError: If one is taken.
    """
    if taken := sorted(set(given) & set(others)):
        raise ValueError(
            f'losses.{name} gives {", ".join(taken)}, which another term gives already (the Theta '
            f"term of 'fmkt', say, is 'fmkt_theta'); rename one of the two"
        )
    if taken := sorted(set(given) & set(of_student)):
        raise ValueError(
            f'the student has losses named {", ".join(taken)} itself; rename losses.{name}, whose '
            f'name is prefixed with "loss_" (the student has: {", ".join(of_student)})'
        )


def check_finite(terms: dict[str, Tensor], teacher: Records) -> None:
    """Name the terms that are not finite; one synchronisation, where mmengine's log has many.

    Args:
        terms: Scalars by their names.
        teacher: What the teacher gave, to tell whether it is the cause.

    Raises:
        FloatingPointError: If there are any.
    """
    if not terms:
        return
    finite = torch.stack([value.detach().float().isfinite().all() for value in terms.values()])
    if finite.all():
        return
    names = ', '.join(name for name, ok in zip(terms, finite.tolist()) if not ok)
    for path, calls in teacher.items():
        if not all(x.isfinite().all() for output, _ in calls for x in tensors(output)):
            raise FloatingPointError(
                f'distillation terms not finite: {names}. The teacher gives infinity or NaN at '
                f'{path!r}: check its checkpoint and its data_preprocessor (mean, std, channel '
                f'order); with float16 try bfloat16'
            )
    raise FloatingPointError(
        f'distillation terms not finite: {names}. Lower the loss weight or the learning rate; with '
        f'mixed precision try bfloat16'
    )


def _check_types(losses: dict[str, dict]) -> None:
    """Refuse losses without a type, used or not."""
    for name, cfg in losses.items():
        if not isinstance(cfg, dict):
            raise ValueError(
                f"losses.{name}: expected a dict, such as dict(type='mmkd_fm.PKDLoss', "
                f"tap='neck'), got {cfg!r}; to leave the term out, set its loss_weight to 0"
            )
        if 'type' not in cfg:
            others = [other for other in losses if other != name]
            near = difflib.get_close_matches(name, others, n=1)
            raise ValueError(
                f"losses.{name} needs a type, such as type='mmkd_fm.PKDLoss', but has: "
                f'{", ".join(cfg) or "nothing"}. Is the name misspelt'
                + (f'; did you mean {near[0]!r}?' if near else '?')
                + f' The other losses are: {", ".join(others) or "none"}'
            )
