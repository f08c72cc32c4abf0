"""Time and memory of one call, and where the time of a training step goes."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from complexity import now

Call = Callable[[], Any]
QUIET_SECONDS = 30  # between two lines of progress where there is no terminal


def interleave(
    calls: dict[Hashable, Call],
    device: torch.device,
    repeats: int,
    warmup: int = 1,
    tick: Call = lambda: None,
) -> dict[Hashable, list[float]]:
    """Seconds of each call in each of ``repeats`` rounds.

    A round runs every call once, so that what else happens on the machine meets all of them; every
    other round goes backwards, so that a drift does too.

    Args:
        calls: What is compared.
        device: Where it runs.
        repeats: Number of rounds that count.
        warmup: Number of rounds before them.
        tick: Called after each call, out of its time.
    """
    seconds: dict[Hashable, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(warmup + repeats):
        for name in names if number % 2 == 0 else reversed(names):
            start = now(device)
            calls[name]()
            seconds[name].append(now(device) - start)
            tick()
    return {name: values[warmup:] for name, values in seconds.items()}


def ratios(seconds: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round."""
    return [value / other for value, other in zip(seconds, base)]


def policy_average(seconds: dict[int, list[float]], policy: Sequence[int]) -> list[float]:
    """Expected seconds of a step whose number of steps is drawn uniformly from ``policy``.

    Args:
        seconds: Seconds in each round by number of steps.
        policy: Numbers of steps; one that is named twice is drawn twice as often.

    Returns:
        One expectation for each round.
    """
    return [statistics.mean(values) for values in zip(*(seconds[steps] for steps in policy))]


def peak_memory(call: Call, device: torch.device) -> int:
    """Most bytes that are allocated at any time during ``call()`` beyond those before it.

    On a GPU the caching allocator's count of allocated bytes. On the CPU all that goes through
    torch's allocator, which the profiler records with a running total: tensors and the workspace of
    its own kernels, not what a library allocates by itself.
    """
    gc.collect()  # what cycles still hold would be freed at any time
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    events = [event for event in events if event.get('name') == '[memory]']
    if not events:
        return 0
    # the running total goes on from one profile to the next, so the first event gives its start
    first = min(events, key=lambda event: event['ts'])['args']
    start = first['Total Allocated'] - first['Bytes']
    return max(0, max(event['args']['Total Allocated'] for event in events) - start)


def resident_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that the tensors hold; storage that several of them share counts once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


class Stopwatch:
    """Seconds in each phase of a step; a phase inside another one counts for the inner one only.

    Args:
        device: Where the phases run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside to ``name``."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def _charge(self) -> None:
        instant = now(self.device)
        if self._running:
            self.seconds[self._running[-1]] += instant - self._since
        self._since = instant

    @contextmanager
    def watching(self, owners: Iterable[tuple[Any, str]]) -> Iterator[None]:
        """Charge the time in each owner's `forward` to the name beside it."""
        owners = list(owners)

        def watched(forward: Callable, name: str) -> Callable:
            @wraps(forward)
            def call(*args, **kwargs):
                with self.phase(name):
                    return forward(*args, **kwargs)

            return call

        for owner, name in owners:
            owner.forward = watched(owner.forward, name)
        try:
            yield
        finally:
            for owner, _ in owners:
                del owner.forward


class Meter:
    """Shows how much is done and how long the rest will take.

    Args:
        console: Where to show it. Without a terminal a line is printed now and then.
        total: Number of calls to be measured.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.done, self.what = console, total, 0, ''
        # its refreshing thread would be timed too
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(24),
            TextColumn('{task.completed}/{task.total}'),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self.bar = self.progress.add_task('', total=total)
        self.begun = self.spoken = time.time()

    def name(self, what: str) -> None:
        """Say what is measured next."""
        self.what = what
        self.progress.update(self.bar, description=what, refresh=True)

    def tick(self) -> None:
        """One call has been measured."""
        self.done += 1
        self.progress.update(self.bar, completed=self.done, refresh=True)
        elapsed = time.time() - self.begun
        if not self.console.is_terminal and time.time() > self.spoken + QUIET_SECONDS:
            self.spoken = time.time()
            left = elapsed / self.done * (self.total - self.done)
            self.console.print(
                f'{self.what}: {self.done} of {self.total}, {elapsed:.0f} s, {left:.0f} s to go',
                highlight=False,
                soft_wrap=True,
            )
