"""The demo's trainings: what they are, running them side by side, showing how far they are."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from experiments_logs import scalars
from setup_steps import clock

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / 'configs/demo/retinanet_r18_demo.py'
PLAIN = ROOT / 'configs/demo/retinanet_r18-quarter_demo.py'
DISTILLED = ROOT / 'configs/demo/fmkt-wttm_retinanet_r18_r18-quarter_demo.py'
SECONDS_PER_STEP = dict(teacher=0.22, plain=0.06, distilled=0.12)  # as run; weighs the estimate
QUIET_SECONDS = 30  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        kind: 'teacher', 'plain' or 'distilled'.
        seed: Seed of weights, image order and flips.
        folder: Its work dir.
        epochs: Length of its schedule.
        steps: Iterations of its schedule.
        options: Its `--cfg-options`.
    """

    kind: str
    seed: int
    folder: Path
    epochs: int
    steps: int
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return self.kind if self.kind == 'teacher' else f'{self.kind} student, seed {self.seed}'

    @property
    def config(self) -> Path:
        """The config to train it with."""
        return dict(teacher=TEACHER, plain=PLAIN, distilled=DISTILLED)[self.kind]

    @property
    def deployed_config(self) -> Path:
        """The config to evaluate it with: plain mmdet, also for the distilled student."""
        return TEACHER if self.kind == 'teacher' else PLAIN

    @property
    def checkpoint(self) -> Path:
        """The file that the last epoch writes."""
        return self.folder / f'epoch_{self.epochs}.pth'

    @property
    def trained(self) -> bool:
        """Whether it ran to its end."""
        return (self.folder / 'trained.json').is_file()

    @property
    def cost(self) -> float:
        """Rough seconds, from which the remaining time is estimated."""
        return self.steps * SECONDS_PER_STEP[self.kind]

    def step(self) -> int:
        """Iterations done so far."""
        if self.trained:
            return self.steps
        return max((line['iter'] for line in scalars(self.folder) if 'iter' in line), default=0)

    def curve(self) -> list[tuple[int, float]]:
        """(epoch, validation AP in percent), by epoch; mmdet writes none where nothing is found."""
        points = {
            line['step']: round(100 * line.get('coco/bbox_mAP', 0.0), 2)
            for line in scalars(self.folder)
            if 'epoch' not in line
        }
        return sorted(points.items())


def plan_jobs(work_dir: Path, data_dir: Path, seeds: list[int], epochs: int | None) -> list[Job]:
    """The teacher, then the plain, then the distilled students.

    Args:
        work_dir: Folder of all runs.
        data_dir: Folder of the data set.
        seeds: Seeds of the students. The teacher's is always 0: it is trained once.
        epochs: Length of all schedules; None leaves it to the configs.
    """
    coco = json.loads((data_dir / 'train.json').read_text())
    images = len({annotation['image_id'] for annotation in coco['annotations']})

    configs = {config: Config.fromfile(config) for config in (TEACHER, PLAIN)}

    def job(kind: str, seed: int, folder: str, *options: str) -> Job:
        cfg = configs[TEACHER if kind == 'teacher' else PLAIN]
        length = epochs or cfg.train_cfg.max_epochs
        steps = length * math.ceil(images / cfg.train_dataloader.batch_size)
        if epochs:
            options += (
                f'train_cfg.max_epochs={epochs}',
                'train_cfg.val_interval=1',
                f'param_scheduler.1.end={epochs}',
                f'param_scheduler.1.T_max={epochs}',
            )
        return Job(
            kind, seed, work_dir / folder, length, steps, (f'randomness.seed={seed}', *options)
        )

    teacher = job('teacher', 0, 'teacher')
    known = f'model.teacher.checkpoint={teacher.checkpoint}'
    return [
        teacher,
        *(job('plain', seed, f'plain_seed{seed}') for seed in seeds),
        *(job('distilled', seed, f'distilled_seed{seed}', known) for seed in seeds),
    ]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


class Board:
    """Shows how far each training is and when all will be done.

    Args:
        jobs: The trainings to be done.
        console: Where to show it. Without a terminal a line is printed now and then.
    """

    def __init__(self, jobs: list[Job], console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(24),
            TaskProgressColumn(),
            TextColumn('{task.fields[note]}'),
            console=console,
            disable=not console.is_terminal,
        )
        self.bars = {
            job: self.progress.add_task(job.name, total=job.steps, note='') for job in jobs
        }
        self.steps = {job: job.step() for job in jobs}
        self.at_start = self._seconds_done()
        self.overall = self.progress.add_task(
            'everything', note='', total=sum(job.cost for job in jobs)
        )
        self.begun = self.spoken = time.time()

    def _seconds_done(self) -> float:
        return sum(job.cost * step / job.steps for job, step in self.steps.items())

    def update(self, running: list[Job]) -> None:
        """Read the logs of the running jobs and show them."""
        parts = []
        for job in running:
            self.steps[job] = job.step()
            curve = job.curve()
            note = f'validation AP {curve[-1][1]:.1f}' if curve else ''
            self.progress.update(self.bars[job], completed=self.steps[job], note=note)
            parts.append(f'{job.name}: {100 * self.steps[job] // job.steps} % {note}'.rstrip())
        done = self._seconds_done()
        elapsed, gained = time.time() - self.begun, done - self.at_start
        left = sum(job.cost for job in self.steps) - done
        remaining = f'about {clock(elapsed / gained * left)} left' if gained else 'starting'
        self.progress.update(self.overall, completed=done, note=remaining)
        if not self.console.is_terminal and time.time() > self.spoken + QUIET_SECONDS:
            self.spoken = time.time()
            line = ' | '.join([clock(elapsed), *parts, remaining])
            self.console.print(line, highlight=False, soft_wrap=True)


def start(job: Job, threads: int) -> subprocess.Popen:
    """Train in a process of its own; it resumes where its folder holds a checkpoint."""
    job.folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(ROOT / 'tools/train.py'),
        str(job.config),
        '--work-dir',
        str(job.folder),
        '--resume',
        '--cfg-options',
        *job.options,
    ]
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
    with open(job.folder / 'train.log', 'a') as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)


def finish(job: Job, exit_status: int) -> None:
    """Note that a training is complete.

    Raises:
        RuntimeError: If it failed.
    """
    log = job.folder / 'train.log'
    if exit_status or not job.checkpoint.is_file():
        tail = '\n'.join(log.read_text().splitlines()[-12:])
        raise RuntimeError(
            f'Training the {job.name} ended with exit status {exit_status}; '
            f'expected 0 and {job.checkpoint}. The end of {log}:\n{tail}'
        )
    note = dict(config=job.config.name, seed=job.seed, epochs=job.epochs)
    (job.folder / 'trained.json').write_text(json.dumps(note))


def train(jobs: list[Job], console: Console) -> None:
    """Train what is not yet trained, two side by side, distilled students after the teacher."""
    for job in jobs:
        if job.trained:
            console.print(f'{job.name}: trained before, skipped', style='dim')
    teacher, waiting = jobs[0], [job for job in jobs if not job.trained]
    board, lanes = Board(waiting, console), min(2, cores())
    running: dict[Job, subprocess.Popen] = {}
    with board.progress:
        try:
            while waiting or running:
                ready = [job for job in waiting if job.kind != 'distilled' or teacher.trained]
                threads = max(1, cores() // max(1, min(lanes, len(ready) + len(running))))
                for job in ready[: lanes - len(running)]:
                    waiting.remove(job)
                    running[job] = start(job, threads)
                time.sleep(1)
                ended = [job for job, process in running.items() if process.poll() is not None]
                for job in ended:
                    finish(job, running[job].returncode)
                board.update(list(running))
                for job in ended:
                    del running[job]
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
