"""What a run tells while it works: bars on a terminal, a plain line now and then elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TextIO, final

from rich.console import Console
from rich.progress import BarColumn, Task, TextColumn
from rich.progress import Progress as Bars

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Tells that ``count`` more units are done; ``note`` is shown beside them, e.g. the loss."""

    def __call__(self, count: int = 1, *, note: str = "") -> None:
        """Count up."""


@final
class Progress:
    """Says what goes on and how long it still takes.

    Args:
        quiet: say nothing at all.
        stream: where to; stderr unless given.
        clock: seconds from any start.
    """

    def __init__(
        self, quiet: bool = False, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quiet = quiet
        self._clock = clock
        self._stream = sys.stderr if stream is None else stream
        self._console = Console(file=self._stream)
        self._bars: Bars | None = None

    def say(self, text: str) -> None:
        """Write one line."""
        if self._quiet:
            return
        if self._stream.isatty():
            # Through rich, which keeps a bar that is drawn at this moment below the line.
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    @contextmanager
    def track(self, description: str, total: int, *, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yield the function to call as work gets done.

        Speed and time left are those of this process: ``done`` units of an earlier one take no part in them.

        Args:
            description: what is being done.
            total: units when finished.
            done: units that were finished before.
            unit: what is counted, in the plural.
        """
        if self._quiet:
            yield _ignore
        elif self._stream.isatty():
            with self._bar(description, total, done=done, unit=unit) as advance:
                yield advance
        else:
            lines = _Lines(self.say, self._clock, description=description, total=total, done=done, unit=unit)
            yield lines.advance
            lines.finish()

    @contextmanager
    def _bar(self, description: str, total: int, *, done: int, unit: str) -> Iterator[Advance]:
        outermost = self._bars is None
        if self._bars is None:
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                console=self._console,
            )
            self._bars.start()
        bars, began = self._bars, self._clock()
        task_id = bars.add_task(description, total=total, completed=done, facts="")
        task: Task = bars.tasks[bars.task_ids.index(task_id)]

        def advance(count: int = 1, *, note: str = "") -> None:
            now = int(task.completed) + count
            facts = describe(now, total, done=done, unit=unit, note=note, seconds=self._clock() - began)
            bars.update(task_id, advance=count, facts=facts)

        try:
            yield advance
        finally:
            if outermost:
                bars.stop()
                self._bars = None
            else:
                bars.remove_task(task_id)


@final
class _Lines:
    """Plain lines: the first, the last, and one every ten seconds."""

    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float],
        *,
        description: str,
        total: int,
        done: int,
        unit: str,
    ) -> None:
        self._say, self._clock = say, clock
        self._description, self._total, self._unit = description, total, unit
        self._before, self._now, self._note = done, done, ""
        self._began = clock()
        self._said_at: float | None = None
        self._said_count = -1

    def advance(self, count: int = 1, *, note: str = "") -> None:
        self._now += count
        self._note = note
        now = self._clock()
        if self._said_at is None or now - self._said_at >= SECONDS_BETWEEN_LINES:
            self._write(now)

    def finish(self) -> None:
        if self._now != self._said_count:
            self._write(self._clock())

    def _write(self, now: float) -> None:
        facts = describe(
            self._now, self._total, done=self._before, unit=self._unit, note=self._note, seconds=now - self._began
        )
        self._say(f"{self._description}: {facts}")
        self._said_at, self._said_count = now, self._now


def describe(now: int, total: int, *, done: int, unit: str, note: str, seconds: float) -> str:
    """Count, note, speed and time left in one line, e.g. ``20 of 80 updates, loss 1.2, 4.00 updates/s, 0:00:15 left``.

    Speed and time left are missing until they are known.
    """
    parts = [f"{now} of {total} {unit}".rstrip()]
    if note:
        parts.append(note)
    if now > done and seconds > 0:
        speed = (now - done) / seconds
        parts.append(f"{speed:.3g} {unit or 'units'}/s")
        if now < total:
            parts.append(f"{timedelta(seconds=round((total - now) / speed))} left")
        else:
            parts.append(f"{timedelta(seconds=round(seconds))} taken")
    return ", ".join(parts)


def _ignore(count: int = 1, *, note: str = "") -> None:
    pass
