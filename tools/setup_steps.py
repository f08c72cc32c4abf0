"""Runs commands for setup_env.py: output into a log, progress on the screen, no child left over."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TICK = 15  # seconds between two lines of progress


class SetupError(RuntimeError):
    """Something the user has to act on; the message names the remedy."""


def clock(seconds: float) -> str:
    """75 -> '1:15'."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def progress(output: str, elapsed: float) -> str:
    """Where a command stands: ninja's count with an estimate of the rest, else its last line."""
    counts = re.findall(r'^\s*\[(\d+)/(\d+)\]', output, flags=re.MULTILINE)
    if counts:
        done, total = map(int, counts[-1])
        left = clock(elapsed * (total - done) / done)
        return f'compiled {done} of {total} files, about {left} left'
    lines = output.split('\n')
    return next((line.strip()[:100] for line in reversed(lines) if line.strip()), '')


def read_from(log: Path, offset: int) -> str:
    """The text of the log after an offset."""
    with log.open('rb') as source:
        source.seek(offset)
        return source.read().decode(errors='replace')


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM are acted on at the end: what starts meanwhile is known by then."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # which the command is to inherit
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def run_step(command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
    """Runs a command, its output in the log, with a line of progress every 15 s.

    The command gets a session of its own, so that an interrupt can end all of its children.

    Raises:
        SetupError: It failed; the message holds the end of its output and the place of the log.
    """
    start = time.monotonic()
    with log.open('ab') as sink:
        offset = sink.seek(0, os.SEEK_END)
        process = None
        try:
            with interrupts_wait():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env=env,
                    start_new_session=True,
                )
            while process.poll() is None:
                try:
                    process.wait(timeout=TICK)
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - start
                    state = progress(read_from(log, offset), elapsed)
                    print(f'    {clock(elapsed)}  {state}', flush=True)
        except BaseException:
            if process is None:  # there is no such command
                raise
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)  # pip then removes its temporary folders
                process.wait(timeout=10)
            time.sleep(1)  # for ninja, which has to end its compilers: they are groups of their own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whoever is left
            process.wait()
            raise
    if process.returncode != 0:
        lines = read_from(log, offset).splitlines()[-20:]
        tail = '\n'.join(f'    | {line[:200]}' for line in lines)
        raise SetupError(
            f'this failed with exit code {process.returncode}:\n'
            f'  {shlex.join(command)}\n{tail}\n  The whole log: {log}'
        )


def ask(python: Path, code: str, *args: str) -> subprocess.CompletedProcess:
    """Runs a few lines with the environment's Python, where no file can shadow a module."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [str(python), '-c', code, *args], capture_output=True, text=True, cwd=folder
        )
