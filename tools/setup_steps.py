"""Runs the commands of setup_env.py: output into a log, progress on the screen, an end for all children."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path

TICK = 15  # seconds between two lines of progress


class SetupError(RuntimeError):
    """Something the user has to act on; the message names the remedy."""


def clock(seconds: float) -> str:
    """75 -> '1:15'."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def progress(output: str, elapsed: float) -> str:
    """What a running command has come to: ninja's count with an estimate, else its last line."""
    counts = re.findall(r'^\s*\[(\d+)/(\d+)\]', output, flags=re.MULTILINE)
    if counts:
        done, total = map(int, counts[-1])
        return (
            f'compiled {done} of {total} files, about {clock(elapsed * (total - done) / done)} left'
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:100] if lines else ''


def run_step(command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
    """Runs a command with its output in the log and a line of progress every 15 s.

    The command gets a session of its own, so that an interrupt ends all of its children too.

    Raises:
        SetupError: The command failed; the message holds the end of its output and the place of the log.
    """
    start = time.monotonic()
    with log.open('ab') as sink:
        offset = sink.tell()
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=TICK)
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - start
                    print(
                        f'    {clock(elapsed)}  {progress(read_from(log, offset), elapsed)}',
                        flush=True,
                    )
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if code != 0:
        tail = '\n'.join(
            f'    | {line[:200]}' for line in read_from(log, offset).splitlines()[-20:]
        )
        raise SetupError(
            f'this failed (exit {code}): {shlex.join(command)}\n{tail}\n  The whole log: {log}'
        )


def read_from(log: Path, offset: int) -> str:
    """The text of the log after an offset."""
    with log.open('rb') as source:
        source.seek(offset)
        return source.read().decode(errors='replace')


def ask(python: Path, code: str, *args: str) -> subprocess.CompletedProcess:
    """Runs a few lines in the environment, away from the source tree."""
    return subprocess.run(
        [str(python), '-c', code, *args],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        check=False,
    )
