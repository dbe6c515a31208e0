"""SIGTERM, as machines that are taken back send it: at once where nothing can be lost, else at the next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final


@final
class Stopped(SystemExit):
    """The process was asked to end and all that was finished is on disk; the same command goes on there.

    No ``Exception``, so that nothing takes it for a failure of a row or a request; as an exit its code is 0.
    """

    def __init__(self) -> None:
        super().__init__(0)


class _Asked:
    """Whether SIGTERM came, and whether the code at work says itself where it may end."""

    came = False
    held = False


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM raises ``Stopped`` (outside the main thread of Python nothing can be installed)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _Asked.came = False


@contextmanager
def held() -> Iterator[None]:
    """Inside, SIGTERM is only noted: ``asked_to_stop`` tells, and the code raises ``Stopped`` where it is safe.

    What came too late for that is raised at the end.
    """
    before, _Asked.held = _Asked.held, True
    try:
        yield
    finally:
        _Asked.held = before
    if _Asked.came and not _Asked.held:
        raise Stopped


def asked_to_stop() -> bool:
    """Whether SIGTERM came, inside ``stoppable``."""
    return _Asked.came


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    _Asked.came = True
    if not _Asked.held:
        raise Stopped
