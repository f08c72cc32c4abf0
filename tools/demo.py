"""The whole story on two CPU cores in a quarter of an hour.

    python tools/demo.py

Draws a small detection data set, trains a teacher and a plain student, distils
the same student with FM-KT on the pyramid and WTTM on the classification
logits, and evaluates all of them with pycocotools on test images that none has
seen. The table (report.md, report.json) and the figure (figure.png) lie in the
work dir. Plain and distilled student have the same network, images, schedule
and seed; the distilled one is evaluated as a plain mmdet detector, after a
strict load into the plain student's config.

Interrupt it at any time: the same command goes on where it stopped.
`--seeds 0 1 2` repeats the two students and gives mean and deviation.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_report import METRICS, Result, draw_figure, print_report, write_report
from make_demo_data import Spec, make_demo_data
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner, load_checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / 'configs/demo/retinanet_r18_demo.py'
PLAIN = ROOT / 'configs/demo/retinanet_r18-quarter_demo.py'
DISTILLED = ROOT / 'configs/demo/fmkt-wttm_retinanet_r18_r18-quarter_demo.py'
TIMED_IMAGES = 40


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        kind: 'teacher', 'plain' or 'distilled'.
        seed: Seed of weights, image order and flips.
        folder: Its work dir.
        epochs: Length of its schedule.
        total: Iterations of its schedule.
        options: Further `--cfg-options`.
    """

    kind: str
    seed: int
    folder: Path
    epochs: int
    total: int
    options: tuple[str, ...] = ()

    @property
    def config(self) -> Path:
        return dict(teacher=TEACHER, plain=PLAIN, distilled=DISTILLED)[self.kind]

    @property
    def deployed_config(self) -> Path:
        """The config that evaluates it: plain mmdet, also for the distilled student."""
        return TEACHER if self.kind == 'teacher' else PLAIN

    @property
    def checkpoint(self) -> Path:
        return self.folder / f'epoch_{self.epochs}.pth'

    @property
    def name(self) -> str:
        return self.kind if self.kind == 'teacher' else f'{self.kind} student, seed {self.seed}'

    @property
    def cost(self) -> float:
        """Rough seconds on one core, to weigh the jobs in the overall estimate."""
        return self.total * dict(teacher=0.4, plain=0.2, distilled=0.5)[self.kind]

    @property
    def trained(self) -> bool:
        return (self.folder / 'trained.json').is_file()

    def log(self) -> list[dict]:
        """What MMEngine's logger wrote so far, over all legs of an interrupted run."""
        files = sorted(self.folder.glob('*/vis_data/scalars.json'))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()
                if line.endswith('}')]

    def iteration(self) -> int:
        return max((line['iter'] for line in self.log() if 'iter' in line), default=0)

    def curve(self) -> list[tuple[int, float]]:
        """(epoch, validation AP in percent), by epoch."""
        points = {line['step']: 100 * line['coco/bbox_mAP'] for line in self.log()
                  if 'coco/bbox_mAP' in line}
        return sorted(points.items())


def plan_jobs(work_dir: Path, data_dir: Path, seeds: list[int], epochs: int | None) -> list[Job]:
    """The teacher, then the plain, then the distilled students."""
    def job(kind: str, seed: int, folder: str, *options: str) -> Job:
        cfg = Config.fromfile(TEACHER if kind == 'teacher' else PLAIN)
        length = epochs or cfg.train_cfg.max_epochs
        coco = json.loads((data_dir / 'train.json').read_text())
        images = len({annotation['image_id'] for annotation in coco['annotations']})
        total = length * math.ceil(images / cfg.train_dataloader.batch_size)
        if epochs:
            options += (f'train_cfg.max_epochs={epochs}', 'train_cfg.val_interval=1',
                        f'param_scheduler.1.end={epochs}', f'param_scheduler.1.T_max={epochs}')
        return Job(kind, seed, work_dir / folder, length, total, options)

    teacher = job('teacher', 0, 'teacher')
    known = f'model.teacher.checkpoint={teacher.checkpoint}'
    return [teacher,
            *(job('plain', seed, f'plain_seed{seed}') for seed in seeds),
            *(job('distilled', seed, f'distilled_seed{seed}', known) for seed in seeds)]


def start(job: Job, threads: int) -> subprocess.Popen:
    """Train in a process of its own; it resumes when the folder holds a checkpoint."""
    job.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(job.config),
               '--work-dir', str(job.folder), '--resume',
               '--cfg-options', f'randomness.seed={job.seed}', *job.options]
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
    with open(job.folder / 'train.log', 'a') as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)


def finish(job: Job, process: subprocess.Popen, seconds: float) -> None:
    """Note that a training is complete.

    Raises:
        RuntimeError: If it failed.
    """
    if process.returncode or not job.checkpoint.is_file():
        tail = '\n'.join((job.folder / 'train.log').read_text().splitlines()[-12:])
        raise RuntimeError(f'Training the {job.name} ended with exit status {process.returncode}; '
                           f'expected 0 and {job.checkpoint}. The last lines of '
                           f'{job.folder / "train.log"}:\n{tail}')
    (job.folder / 'trained.json').write_text(
        json.dumps(dict(config=job.config.name, seed=job.seed, epochs=job.epochs,
                        seconds_of_last_leg=round(seconds, 1))))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def clock(seconds: float) -> str:
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def train(jobs: list[Job], console: Console) -> None:
    """Run what is not yet trained, two side by side, the students of a teacher after it."""
    waiting = [job for job in jobs if not job.trained]
    for job in jobs:
        if job.trained:
            console.print(f'[dim]{job.name}: already trained[/]')
    if not waiting:
        return
    lanes, begun, spoken = min(2, cores()), time.time(), time.time()
    running: dict[Job, subprocess.Popen] = {}
    started = {}
    before = {job: job.iteration() for job in waiting}
    columns = (TextColumn('{task.description:32}'), BarColumn(24), TaskProgressColumn(),
               TextColumn('{task.fields[note]}'))
    everything = list(waiting)
    with Progress(*columns, console=console) as progress:
        bars = {job: progress.add_task(job.name, total=job.total, note='') for job in waiting}
        overall = progress.add_task('all trainings', total=sum(j.cost for j in waiting), note='')
        try:
            while waiting or running:
                ready = [job for job in waiting if job.kind != 'distilled' or jobs[0].trained]
                share = cores() // max(1, min(lanes, len(ready) + len(running)))
                for job in ready[:lanes - len(running)]:
                    waiting.remove(job)
                    running[job], started[job] = start(job, max(1, share)), time.time()
                time.sleep(1)
                for job in everything:
                    if job not in started or job not in running:
                        continue
                    process, step, curve = running[job], job.iteration(), job.curve()
                    note = f'validation AP {curve[-1][1]:.1f}' if curve else ''
                    progress.update(bars[job], completed=step, note=note)
                    if process.poll() is not None:
                        del running[job]
                        finish(job, process, time.time() - started[job])
                        progress.update(bars[job], completed=job.total)
                done = sum(j.cost * progress.tasks[bars[j]].completed / j.total for j in everything)
                new = done - sum(j.cost * before[j] / j.total for j in everything)
                left = sum(j.cost for j in everything) - done
                if new > 0.02 * left:
                    note = f'about {clock((time.time() - begun) * left / new)} left'
                    progress.update(overall, completed=done, note=note)
                if not console.is_terminal and time.time() > spoken + 30:
                    spoken = time.time()
                    report = [f'{j.name} {progress.tasks[bars[j]].percentage:.0f}%'
                              for j in running]
                    print(' | '.join([clock(time.time() - begun), *report,
                                      progress.tasks[overall].fields['note']]), flush=True)
        finally:
            for process in running.values():
                process.terminate()
                process.wait()


def evaluate(job: Job) -> Result:
    """Test a trained model as a plain mmdet detector; the result is kept in its folder."""
    path = job.folder / 'result.json'
    if path.is_file():
        return Result(**json.loads(path.read_text()))
    cfg = Config.fromfile(job.deployed_config)
    cfg.update(work_dir=str(job.folder / 'test'), log_level='ERROR')
    runner = Runner.from_cfg(cfg)
    load_checkpoint(runner.model, str(job.checkpoint), map_location='cpu', strict=True)
    scores = runner.test()
    model, dataset = runner.model.eval(), runner.test_dataloader.dataset
    size = json.loads((Path(cfg.data_root) / 'manifest.json').read_text())['size']
    device = next(model.parameters()).device
    cost = get_model_complexity_info(model, inputs=torch.zeros(1, 3, size, size, device=device))
    result = Result(
        kind=job.kind, seed=job.seed, parameters=cost['params'], gflops=cost['flops'] / 1e9,
        seconds_per_image=seconds_per_image(model, dataset), curve=job.curve(),
        scores={name: 100 * scores[f'coco/bbox_{key}'] for name, key in METRICS.items()})
    path.write_text(json.dumps(vars(result), indent=1))
    return result


@torch.no_grad()
def seconds_per_image(model: torch.nn.Module, dataset: object) -> float:
    """Median time from pixels to boxes, one image at a time on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    for index in range(min(TIMED_IMAGES, len(dataset))):
        batch = pseudo_collate([dataset[index]])
        begun = time.perf_counter()
        model.test_step(batch)
        seconds.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return statistics.median(seconds)
