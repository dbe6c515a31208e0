"""When a request may be sent: waits between attempts, pauses an endpoint asks for, and when to give it up."""

import asyncio
import math
import random
from collections import deque
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT_SECONDS = 0.5
_FEWER = 0.7


class Backoff:
    """Waits that grow exponentially, with full jitter.

    Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: uniform between 0 and the grown wait,
    so that requests that failed together do not come back together. The draws are seeded.
    """

    def __init__(self, *, longest_seconds: float, seed: int) -> None:
        self.longest_seconds = longest_seconds
        self._random = random.Random(seed)

    def seconds(self, failures: int) -> float:
        """The wait after so many failures, 1 or more."""
        return self._random.uniform(0, self.ceiling_seconds(failures))

    def ceiling_seconds(self, failures: int) -> float:
        """The longest that ``seconds`` can draw."""
        # Beyond 2**60 the ceiling is reached for every sensible limit, and larger powers overflow a float.
        return min(self.longest_seconds, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 60))


def retry_after_seconds(value: str | None, *, now: datetime) -> float | None:
    """What a Retry-After header asks for, in seconds from ``now`` (aware); None where it is absent or unreadable.

    Both forms of RFC 9110, section 10.2.3: a number of seconds, or a date.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()
    return None if math.isnan(seconds) else max(0.0, seconds)


class Throttle:
    """Lets attempts through, at most ``width`` at a time, and fewer while the endpoint is in trouble.

    A pause holds all attempts. An answer of "too many requests" narrows the width, answers widen it again step by step
    (additive increase, multiplicative decrease). After half of ``failures_to_give_up`` failed attempts in a row only
    one attempt at a time is let through, after a wait that doubles; an answer ends that, and as many failures again
    make the throttle ``hopeless`` (Michael Nygard, "Release It!", 2007: circuit breaker). An attempt that was sent
    before the trouble was noticed does not count twice against the endpoint.

    It belongs to one event loop.
    """

    def __init__(self, *, width: int, failures_to_give_up: int, backoff: Backoff) -> None:
        self.failures_in_a_row = 0
        self.probing = False
        self._widest = width
        self._width = float(width)
        self.failures_to_give_up = failures_to_give_up
        self._probe_at = max(1, failures_to_give_up // 2)
        self._backoff = backoff
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._quiet_until = 0.0
        self._sent = 0
        self._failures_count_from = 0
        self._narrow_again_from = 0

    @property
    def hopeless(self) -> bool:
        """Whether so many attempts failed in a row that asking on is useless."""
        return self.failures_in_a_row >= self.failures_to_give_up

    async def enter(self) -> int:
        """The number of the attempt, once it may be sent. ``answered``, ``failed`` or ``leave`` must follow."""
        loop = asyncio.get_running_loop()
        waited = False
        while True:
            wait = self._quiet_until - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif self._in_flight >= self._room:
                turn = loop.create_future()
                # Who was called in vain, because of a pause or a newcomer, is called first next time.
                (self._waiting.appendleft if waited else self._waiting.append)(turn)
                waited = True
                await turn
            else:
                break
        self._in_flight += 1
        self._sent += 1
        return self._sent

    def leave(self) -> None:
        """The attempt says nothing about the endpoint."""
        self._in_flight -= 1
        for _ in range(min(self._room - self._in_flight, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def answered(self) -> bool:
        """The attempt was answered. True where that ends a time of probing."""
        recovered = self.probing
        self.probing = False
        self.failures_in_a_row = 0
        self._width = min(self._widest, self._width + 1 / self._width)
        self.leave()
        return recovered

    def failed(self, attempt: int, *, too_many: bool = False, retry_after: float | None = None) -> bool:
        """The attempt failed. True where that begins a time of probing.

        ``too_many``: the endpoint said so. ``retry_after``: seconds for which it asked to be left alone.
        """
        begins = False
        if attempt > self._failures_count_from:
            self.failures_in_a_row += 1
            begins = not self.probing and not self.hopeless and self.failures_in_a_row >= self._probe_at
        if begins:
            self.probing = True
            self._failures_count_from = self._sent
        if self.probing:
            self._pause(self._backoff.ceiling_seconds(self.failures_in_a_row - self._probe_at + 1))
        if too_many:
            self._narrow(attempt)
        if retry_after is not None or too_many:
            self._pause(self._backoff.seconds(self.failures_in_a_row) if retry_after is None else retry_after)
        self.leave()
        return begins

    @property
    def _room(self) -> int:
        return 1 if self.probing else int(self._width)

    def _narrow(self, attempt: int) -> None:
        # Once for all attempts that were under way together.
        if attempt > self._narrow_again_from:
            self._width = max(1.0, self._width * _FEWER)
            self._narrow_again_from = self._sent

    def _pause(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + min(seconds, self._backoff.longest_seconds)
        self._quiet_until = max(self._quiet_until, until)
