"""Runs the trainings and tests of a table, side by side, each in a process of its own."""

from __future__ import annotations

import json
import queue
import shlex
import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console

from demo_training import clock
from experiments_job import Job
from experiments_logs import (
    TIMES,
    curve,
    seconds,
    seconds_per_iteration,
    validations,
    with_metric,
)
from experiments_processes import Processes, gpus, locked
from experiments_record import (
    check_legs,
    declared,
    environment,
    note_start,
    public,
    read_legs,
    sha256,
    tests_of,
    write_json,
)
from experiments_table import ROOT, VALIDATION, load_config


class Worker:
    """Does one job after the other.

    Args:
        processes: Starts and ends the processes.
        device: The GPU that they see; None leaves all as it is.
    """

    def __init__(self, processes: Processes, device: str | None) -> None:
        self.processes, self.device = processes, device

    def do(self, job: Job) -> dict | None:
        """Train, test and write the result.

        Returns:
            The result; None for a teacher.

        Raises:
            RuntimeError: If a process fails.
            ValueError: If its work dir is that of another run, or a metric is missing.
        """
        with locked(job.folder) as lock:
            if not job.done():
                self._train(job, lock)
            if job.result is None:
                return None
            if job.result.is_file():  # another call was faster
                return json.loads(job.result.read_text(encoding='utf-8'))
            evaluations = {
                key: self._evaluate(job, key, *test, lock)
                for key, test in job.table.tests(job.part).items()
            }
            result = describe(job, evaluations)
            write_json(job.result, result)
            return result

    def _train(self, job: Job, lock: TextIO) -> None:
        if job.teacher is not None:
            check_legs(job.teacher.folder, job.teacher.part, job.teacher.seed)
            if job.teacher.trained() is None:
                raise RuntimeError(f'its {job.teacher.name} is not trained')
        if job.trained() is not None:
            check_legs(job.folder, job.part, job.seed)
            return
        now = environment(self.processes.threads)  # the code is read when the training starts
        note_start(job.folder, job.part, job.seed, now)
        self.processes.call(job.train_command(), job.folder / 'train.log', self.device, lock)
        if job.trained() is None:
            raise RuntimeError(
                f'the training ended without a checkpoint of its end ({job.length()}); the '
                'checkpoint hook has to write one, epoch_N.pth or iter_N.pth'
            )

    def _evaluate(self, job: Job, key: str, name: str, options: dict, lock: TextIO) -> dict:
        """Metrics of an evaluation: those of the last validation, or of a test."""
        metric, config = job.table.metric, ROOT / job.part.config
        if name == VALIDATION and not job.table.evaluations.get(name):
            last = validations(job.folder).get(job.length())
            if key == name and last is not None:
                return with_metric(last, metric)
            config = _validation_config(job)  # ended before, or tested in another way
        folder = job.folder / 'tests' / key.replace('/', '_')
        folder.mkdir(parents=True, exist_ok=True)
        command = job.test_command(config, folder, options)
        self.processes.call(command, folder / 'test.log', self.device, lock)
        return with_metric(_tested(folder), metric)


def _tested(folder: Path) -> dict:
    """Metrics of the latest test in a folder."""
    path = max(path for path in folder.glob('*/*.json') if path.stem == path.parent.name)
    metrics = json.loads(path.read_text())
    return {key: value for key, value in metrics.items() if key not in TIMES}


def _validation_config(job: Job) -> Path:
    """A config that tests what the training validates."""
    cfg = load_config(job.part.config, job.part.options)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    # not its loop: a ValLoop writes no metrics file
    cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')
    path = job.folder / 'tests' / 'validation.py'
    path.parent.mkdir(exist_ok=True)
    cfg.dump(path)
    return path


def describe(job: Job, evaluations: dict[str, dict]) -> dict:
    """The result of a run, as it is kept.

    Args:
        job: The run, complete.
        evaluations: Metrics by evaluation.
    """
    legs = read_legs(job.folder)
    command = shlex.join(['python', *job.train_command(resume=False)[1:]])
    result = dict(
        row=job.part.name,
        seed=job.seed,
        **declared(job.part),
        tests=tests_of(job.table, job.part),
        command=command,
        teacher=describe_teacher(job.teacher) if job.teacher else None,
        evaluations=evaluations,
        curve=curve(job.folder, job.table.metric),
        seconds=seconds(job.folder),
        seconds_per_iteration=seconds_per_iteration(job.folder),
        epochs=job.length(),
        legs=len(legs),
        environment=_environment(legs),
        date=datetime.now().isoformat(timespec='seconds'),
    )
    return public(result, job.work_dir)


def _environment(legs: list[dict]) -> dict:
    """Machine and software of a run, which may have been gone on with by other code."""
    each = [leg['environment'] for leg in legs]
    return dict(
        each[0],
        commit=', '.join(dict.fromkeys(one['commit'] for one in each)),
        dirty=any(one['dirty'] for one in each),
    )


def describe_teacher(job: Job) -> dict:
    """A teacher as the results of its students state it."""
    checkpoint = job.trained()
    return dict(
        name=job.part.name,
        seed=job.seed,
        **declared(job.part),
        checkpoint=checkpoint.name,
        sha256=sha256(checkpoint),
        by_hand=not read_legs(job.folder),
        metrics=validations(job.folder).get(job.length()),
    )


def run_all(stages: list[list[Job]], workers: int, processes: Processes, console: Console) -> int:
    """Do jobs side by side; a stage begins when the one before has ended.

    Args:
        stages: The jobs, in order.
        workers: Number of jobs at a time.
        processes: Starts and ends their processes.
        console: Where each finished job is told.

    Returns:
        The number of jobs that failed.
    """
    free: queue.Queue[Worker] = queue.Queue()
    devices = gpus() or [None]
    for index in range(workers):
        free.put(Worker(processes, devices[index % len(devices)]))
    taken: dict[str, float] = {}

    def do(job: Job) -> dict | None:
        worker, begun = free.get(), time.time()
        try:
            return worker.do(job)
        finally:
            taken[job.name] = time.time() - begun
            free.put(worker)

    left, failed = sum(map(len, stages)), 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            for stage in stages:
                jobs = {pool.submit(do, job): job for job in stage}
                for future in as_completed(jobs):
                    left -= 1
                    name, (ok, text) = jobs[future].name, _outcome(jobs[future], future)
                    failed += not ok
                    remaining = statistics.mean(taken.values()) * left / workers
                    eta = f'{left} left, about {clock(remaining)}' if left else 'none left'
                    console.print(
                        f'{name}: {text} ({clock(taken[name])}) | {eta}',
                        style=None if ok else 'red',
                        highlight=False,
                        markup=False,
                        soft_wrap=True,
                    )
        except BaseException:
            processes.stop()  # what waits then ends at once
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


def _outcome(job: Job, future: Future) -> tuple[bool, str]:
    """Whether a job went well, and what to say of it."""
    try:
        result = future.result()
    except (RuntimeError, ValueError, OSError) as error:
        return False, f'failed: {error}'
    if result is None:
        last = validations(job.folder).get(job.length(), {})
        value = last.get(job.table.metric)
        return True, 'trained' if value is None else f'{job.table.scale * value:.2f}'
    values = [metrics[job.table.metric] for metrics in result['evaluations'].values()]
    return True, ' / '.join(f'{job.table.scale * value:.2f}' for value in values)
