"""Starts and ends the processes of experiments.py, and keeps others out of their work dirs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch

from experiments_table import ROOT
from machine import AVX2

TAIL = 12  # lines of a failed run's log that are shown
PATIENCE = 10  # seconds that a process gets to end


@dataclass
class Processes:
    """The processes of this call, to be ended together.

    Attributes:
        threads: Threads of each.
        running: Those that run.
        stopped: Whether none is to be started any more.
    """

    threads: int
    running: set[subprocess.Popen] = field(default_factory=set)
    stopped: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)

    def call(self, command: list[str], log: Path, device: str | None, lock: TextIO) -> None:
        """Run a command to its end.

        Args:
            command: Program and arguments.
            log: File that its output is added to.
            device: The GPU that it sees; None leaves all as it is.
            lock: Open file that it inherits, and with it the lock on its folder.

        Raises:
            RuntimeError: If it fails or is stopped.
        """
        env = dict(os.environ, OMP_NUM_THREADS=str(self.threads), MKL_NUM_THREADS=str(self.threads))
        if not torch.cuda.is_available():
            env.update(AVX2)  # as on any other processor
        env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
        if device is not None:
            env['CUDA_VISIBLE_DEVICES'] = device
        with open(log, 'a', encoding='utf-8') as output:
            with self.guard:
                if self.stopped:
                    raise RuntimeError('stopped')
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=env,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # its data loaders are ended with it
                    pass_fds=[lock.fileno()],
                )
                self.running.add(process)
            status = process.wait()
        self.running.discard(process)
        if self.stopped:
            raise RuntimeError('stopped')
        if status:
            tail = '\n'.join(log.read_text(errors='replace').splitlines()[-TAIL:])
            raise RuntimeError(f'exit status {status}; the end of {log}:\n{tail}')

    def stop(self) -> None:
        """End all processes."""
        with self.guard:
            self.stopped = True
            ended = list(self.running)
        for process in ended:
            _signal(process, signal.SIGTERM)
        for process in ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[TextIO]:
    """Keep other calls, and trainings that outlived theirs, out of a work dir.

    Raises:
        RuntimeError: If one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError('another process is at work on it; left to that one') from error
        yield lock


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    return visible.split(',')[:count] if visible else [str(index) for index in range(count)]
