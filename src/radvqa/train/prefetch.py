"""The next micro-batches are made while the current one is computed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], numbers: Iterable[int], *, depth: int = 2) -> Generator[T, None, None]:
    """``make`` of each number in order, made in one thread up to ``depth`` items ahead of the one in use.

    What ``make`` raises is raised when its item is asked for; nothing follows it. The thread ends with the generator:
    one that is not asked for all its items is to be closed (``contextlib.closing``), and waits for the item at work.

    ``make`` runs beside the caller: it must not draw from torch's generator, and grad mode and autocast of the caller
    do not reach it.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="radvqa-ahead") as thread:
        try:
            for number in numbers:
                waiting.append(thread.submit(make, number))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
