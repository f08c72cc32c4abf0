"""A run of experiments.py: where it lies, whether it is done, and its commands."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from experiments_logs import last_checkpoint, length, unit
from experiments_record import result_path
from experiments_table import ROOT, Row, Table, Teacher, as_arguments, load_config


@dataclass(frozen=True)
class Job:
    """A run of a row, or the training of a teacher.

    Attributes:
        table: Its table.
        part: The row or teacher.
        seed: Its seed.
        work_dir: Folder of all work dirs.
    """

    table: Table
    part: Row | Teacher
    seed: int
    work_dir: Path

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        if isinstance(self.part, Teacher):
            return f'teacher {self.part.name}'
        return f'{self.part.name}, seed {self.seed}'

    @property
    def folder(self) -> Path:
        """Its work dir."""
        if isinstance(self.part, Teacher):
            return self.work_dir / 'teachers' / self.part.name
        return self.work_dir / f'{self.part.name}_seed{self.seed}'

    @property
    def result(self) -> Path | None:
        """The file of its result; a teacher has none."""
        if isinstance(self.part, Teacher):
            return None
        return result_path(self.table, self.part.name, self.seed)

    @property
    def teacher(self) -> Job | None:
        """The training of its teacher."""
        name = getattr(self.part, 'teacher', None)
        if name is None:
            return None
        teacher = self.table.teachers[name]
        return Job(self.table, teacher, teacher.seed, self.work_dir)

    def length(self) -> int:
        """Epochs (iterations) of its training."""
        return length(load_config(self.part.config, self.part.options))

    def unit(self) -> str:
        """What its training counts, 'epoch' or 'iter'."""
        return unit(load_config(self.part.config, self.part.options))

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """Its latest whole checkpoint and the number of its epochs (iterations)."""
        return last_checkpoint(self.folder, self.unit())

    def trained(self) -> Path | None:
        """Its last checkpoint, once the training is complete."""
        found = self.last_checkpoint()
        return found[1] if found and found[0] >= self.length() else None

    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.result.is_file() if self.result else self.trained() is not None

    def arguments(self) -> list[str]:
        """All its options, as `--cfg-options` takes them."""
        options = [*as_arguments(self.part.options), f'randomness.seed={self.seed}']
        if self.teacher is not None:
            name = f'{self.teacher.unit()}_{self.teacher.length()}.pth'
            checkpoint = self.teacher.trained() or self.teacher.folder / name
            options.append(f'model.teacher.checkpoint={checkpoint}')
        return options

    def train_command(self, resume: bool = True) -> list[str]:
        """Its training, going on from the last checkpoint if there is one."""
        found = self.last_checkpoint() if resume else None
        return [
            *(sys.executable, str(ROOT / 'tools/train.py'), str(ROOT / self.part.config)),
            *('--work-dir', str(self.folder)),
            *(['--resume', str(found[1])] if found else []),
            *('--cfg-options', *self.arguments()),
        ]

    def test_command(self, config: Path, folder: Path, options: dict) -> list[str]:
        """A test of its last checkpoint.

        Args:
            config: Config to test with.
            folder: Work dir of the test.
            options: Those of the test, beside its own.
        """
        return [
            *(sys.executable, str(ROOT / 'tools/test.py'), str(config), str(self.trained())),
            *('--work-dir', str(folder)),
            *('--cfg-options', *self.arguments(), *as_arguments(options)),
        ]
