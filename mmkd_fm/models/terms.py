"""Which of the losses that a config lists are used."""

import difflib
from collections.abc import Sequence
from typing import Optional

from mmengine.logging import print_log


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
        raise ValueError('losses is empty: name at least one distillation loss')
    return {name: losses[name] for name in terms}


def has_weight(name: str, cfg: dict) -> bool:
    """Whether a term is used; says so if it is not.

    Args:
        name: Of the term.
        cfg: Its config.

    Raises:
        ValueError: If it is not, but has a source term, which would be left out with it.
    """
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


def _check_types(losses: dict[str, dict]) -> None:
    """Refuse losses without a type, used or not."""
    for name, cfg in losses.items():
        if isinstance(cfg, dict) and 'type' not in cfg:
            others = [other for other in losses if other != name]
            near = difflib.get_close_matches(name, others, n=1)
            raise ValueError(
                f"losses.{name} needs a type, such as type='mmkd_fm.PKDLoss', but has: "
                f'{", ".join(cfg) or "nothing"}. Is the name misspelt'
                + (f'; did you mean {near[0]!r}?' if near else '?')
                + f' The other losses are: {", ".join(others) or "none"}'
            )
