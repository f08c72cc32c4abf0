"""Classes by name: which of the student's classes are which of the teacher's."""

import difflib
from collections.abc import Sequence
from typing import Optional, Union

from mmkd_fm.models.class_names import dataset_classes

ClassNames = Union[str, Sequence[str]]

_FORMS = (
    "an index for each of the student's classes, as in [2, -1, 0], or names, as in "
    "dict(student=['car', 'cat'], teacher=['cat', 'dog', 'car']), where a data set type such as "
    "'mmdet.CocoDataset' stands for its classes"
)


class NamedMap(list):
    """For each class of the student the index of the teacher's, or -1; and the names of both.

    Args:
        indices: The map.
        student: Names of the student's classes.
        teacher: Names of the teacher's classes.
    """

    def __init__(
        self, indices: Sequence[int] = (), student: Sequence[str] = (), teacher: Sequence[str] = ()
    ) -> None:
        super().__init__(indices)
        self.student = tuple(student)
        self.teacher = tuple(teacher)


def resolve_class_map(
    class_map: Union[Sequence[int], dict[str, ClassNames], None],
) -> Optional[list[int]]:
    """For each class of the student the index of the teacher's, or -1 where it has none.

    Names are the same if they are equal, else if they differ in upper and lower case alone.

    Args:
        class_map: None, indices, or `student` and `teacher`, each the names of all its classes in
            the order of its logits, or the type of a data set with these classes.

    Returns:
        The indices; a `NamedMap` where there were names; None for None.

    Raises:
        ValueError: If it is neither, a class would be mapped twice, names are ambiguous or none
            are shared.

    Example:
        >>> resolve_class_map(dict(student=['car', 'tram'], teacher=['dog', 'Car']))
        [1, -1]
    """
    if class_map is None:
        return None
    if isinstance(class_map, dict):
        return _by_name(class_map)
    valid = not isinstance(class_map, str) and isinstance(class_map, Sequence)
    if not valid or not all(isinstance(i, int) and not isinstance(i, bool) for i in class_map):
        raise ValueError(f'class_map is {_FORMS}; but got {class_map!r}')
    _check_distinct(class_map, [str(i) for i in range(len(class_map))])
    return list(class_map)


def describe_class_map(class_map: Sequence[int], most: int = 12) -> str:
    """Which classes are compared and which are not, in a few lines.

    Args:
        class_map: As resolved.
        most: Of how many classes to give the names.

    Example:
        >>> print(describe_class_map(NamedMap([1, -1], ['car', 'tram'], ['dog', 'Car'])))
        1 of the student's 2 classes compared with the teacher's 2: car <- Car
        without a partner, left out: tram
    """
    of_teacher = ''
    if isinstance(class_map, NamedMap):
        student, teacher = class_map.student, class_map.teacher
        of_teacher = f' {len(teacher)}'
    else:
        student = teacher = [str(i) for i in range(max(len(class_map), *class_map) + 1)]
    mapped = [(student[i], teacher[j]) for i, j in enumerate(class_map) if j >= 0]
    pairs = [s if s == t else f'{s} <- {t}' for s, t in mapped]
    alone = [student[i] for i, j in enumerate(class_map) if j < 0]
    lines = [
        f"{len(mapped)} of the student's {len(class_map)} classes compared with the teacher's"
        f'{of_teacher}: {_listed(pairs, most)}'
    ]
    if alone:
        lines.append(f'without a partner, left out: {_listed(alone, most)}')
    return '\n'.join(lines)


def check_names(
    class_map: Optional[Sequence[int]],
    student: Sequence[str],
    teacher: Optional[Sequence[str]],
    where: tuple[str, str],
) -> Optional[str]:
    """Refuse a map, or none, that compares a class with another, as far as names can tell.

    Args:
        class_map: As resolved.
        student: Names of the classes of the training data.
        teacher: Names of the classes that the teacher was trained with, if they are known.
        where: Where the names of both were found.

    Returns:
        What is doubtful, in words, if anything.

    Raises:
        ValueError: If a `NamedMap` is of other classes, or without a map the teacher has classes of
            the student's in another order.
    """
    if isinstance(class_map, NamedMap):
        known = (('student', student, where[0]), ('teacher', teacher, where[1]))
        for owner, found, place in known:
            mapped = getattr(class_map, owner)
            if found is not None and list(mapped) != list(found):
                raise ValueError(
                    f'class_map.{owner} has the classes {_listed(mapped)}, but {place} has '
                    f'{_listed(found)}; give all of its classes, in its order'
                )
    if class_map is not None or teacher is None:
        return None
    remedy = (
        'class_map=dict(student=[...], teacher=[...]) of the logit losses says which correspond'
    )
    if len(student) != len(teacher):  # the logits are as many, so the names may be another's
        return (
            f'{where[0]} has {len(student)} classes, {where[1]} names {len(teacher)}; their logits '
            f'are compared in their order. If they are not those of the same classes, {remedy}'
        )
    ours, theirs = ([name.casefold() for name in names] for names in (student, teacher))
    differ = [i for i, name in enumerate(ours) if theirs[i] != name]
    moved = [student[i] for i in differ if ours[i] in theirs]
    if moved:
        raise ValueError(
            f'{where[0]} and {where[1]} have classes in another order: {_listed(moved)}. Their '
            f'logits would be compared with those of other classes; {remedy}'
        )
    if differ:
        renamed = _listed([f'{i}: {student[i]} / {teacher[i]}' for i in differ])
        return (
            f'{where[0]} / {where[1]} have classes of other names, which are taken to be the same: '
            f'{renamed}. If they are not, {remedy}'
        )
    return None


def _by_name(class_map: dict[str, ClassNames]) -> NamedMap:
    if set(class_map) != {'student', 'teacher'}:
        raise ValueError(f'class_map is {_FORMS}; but got a dict of {sorted(class_map)}')
    student = _names(class_map['student'], 'student')
    teacher = _names(class_map['teacher'], 'teacher')
    repeated = sorted({name for name in student if student.count(name) > 1})
    if repeated:
        raise ValueError(
            f'class_map.student names {", ".join(map(repr, repeated))} more than once; give each '
            f'of the classes once, in the order of the logits'
        )
    indices = [_find(name, teacher) for name in student]
    _check_distinct(indices, student)
    if all(i < 0 for i in indices):
        near = difflib.get_close_matches(student[0], teacher, n=1) if student else []
        raise ValueError(
            f'class_map: student and teacher have no class name in common: '
            f'{_listed(student)} and {_listed(teacher)}'
            + (f'; is {student[0]!r} meant to be {near[0]!r}?' if near else '')
            + '. Use the same names, or give indices'
        )
    return NamedMap(indices, student, teacher)


def _names(names: ClassNames, owner: str) -> list[str]:
    """The names, or those of a type of data set."""
    if isinstance(names, str):
        found = dataset_classes(names)
        if found is None:
            raise ValueError(
                f'class_map.{owner}={names!r} is no type of data set that has classes of its own; '
                f"give one such as 'mmdet.CocoDataset', or a list of names"
            )
        names = found
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f'class_map.{owner} must be a list of names, but got {names!r}')
    return list(names)


def _find(name: str, teacher: list[str]) -> int:
    """Index of a class of the teacher, or -1."""
    exact = [i for i, other in enumerate(teacher) if other == name]
    found = exact or [i for i, other in enumerate(teacher) if other.casefold() == name.casefold()]
    if len(found) > 1:
        raise ValueError(
            f'class_map: {name!r} could be any of the classes {found} of the teacher '
            f'({", ".join(teacher[i] for i in found)}); give indices instead of names'
        )
    return found[0] if found else -1


def _check_distinct(indices: Sequence[int], student: Sequence[str]) -> None:
    """Refuse a class of the teacher that two of the student's have."""
    for j in sorted(set(indices)):
        owners = [student[i] for i, other in enumerate(indices) if other == j]
        if j >= 0 and len(owners) > 1:
            raise ValueError(
                f'class_map gives class {j} of the teacher to several of the student: '
                f'{", ".join(owners)}. Its probability would count twice: keep one, -1 for the rest'
            )


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f', ... ({len(names)} in all)' if len(names) > most else ''
    return ', '.join(names[:most]) + more
