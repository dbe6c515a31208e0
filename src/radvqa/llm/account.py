"""What asking a model took: requests, replies, failures, tokens, seconds and money, added up from outcomes."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from radvqa.errors import RecipeError
from radvqa.llm import Failure, Outcome, Reply

QUANTILES = (0.5, 0.9, 0.99)

_PER_MILLION = 1_000_000


class LatencySketch:
    """Quantiles of positive numbers in bounded memory, each within ``accuracy`` of the true value.

    Numbers are counted in buckets whose bounds grow by a constant factor, so the order of adding does not matter and
    sketches can be added up (Charles Masson, Jee Rim, Homin Lee, "DDSketch", PVLDB 12, 2019). We keep every bucket:
    from a microsecond to a week they are fewer than 1,400 at 1 %. Numbers below a microsecond count as one.
    """

    def __init__(self, *, accuracy: float = 0.01) -> None:
        self._growth = (1 + accuracy) / (1 - accuracy)
        self._log_growth = math.log(self._growth)
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        """Buckets in use."""
        return len(self._counts)

    def add(self, value: float) -> None:
        """Count one number."""
        self._counts[math.ceil(math.log(max(value, 1e-6)) / self._log_growth)] += 1

    def merge(self, other: "LatencySketch") -> None:
        """Count all numbers of another sketch of the same accuracy."""
        self._counts.update(other._counts)

    def quantile(self, level: float) -> float:
        """The number that ``level`` of all are at most (lower quantile); NaN where nothing was added."""
        rank = math.floor(level * (self._counts.total() - 1))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen > rank:
                return 2 * self._growth**bucket / (1 + self._growth)
        return math.nan


class Account:
    """Adds up outcomes. It holds nothing else, so stored outcomes added again give the same account.

    Tokens and money cover replies: what an endpoint spent on attempts that failed is not known. A reply without usage
    has 0 prompt or completion tokens, which no real reply has; such replies are counted apart. Prices are for a million
    tokens, in any currency; None says that they are not known.

    Raises:
        RecipeError: a price is below 0 or not finite.
    """

    def __init__(
        self,
        outcomes: Iterable[Outcome] = (),
        *,
        price_per_million_prompt_tokens: float | None = None,
        price_per_million_completion_tokens: float | None = None,
    ) -> None:
        self._prompt_price = _checked(price_per_million_prompt_tokens, "prompt")
        self._completion_price = _checked(price_per_million_completion_tokens, "completion")
        self.replies = 0
        self.replies_cut = 0
        self.replies_without_usage = 0
        self.failures: Counter[str] = Counter()
        self.attempts = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.latency = LatencySketch()
        self._nanoseconds = 0
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        self.attempts += outcome.attempts
        # Whole numbers, so that the order of outcomes does not change the sum.
        self._nanoseconds += round(outcome.seconds * 1e9)
        match outcome:
            case Reply():
                self._add_reply(outcome)
            case Failure():
                self.failures[outcome.reason] += 1

    @property
    def requests(self) -> int:
        """Outcomes so far."""
        return self.replies + self.failures.total()

    @property
    def seconds(self) -> float:
        """The sum over outcomes; requests that ran side by side all count in full."""
        return self._nanoseconds / 1e9

    @property
    def cost(self) -> float | None:
        """The price of the tokens that were counted; None where a price, or the usage of all replies, is not known.

        Replies without usage are not in it: it is a lower bound where ``replies_without_usage`` is not 0.
        """
        if self._prompt_price is None or self._completion_price is None:
            return None
        if self.replies and self.replies == self.replies_without_usage:
            return None
        spent = self.prompt_tokens * self._prompt_price + self.completion_tokens * self._completion_price
        return spent / _PER_MILLION

    def as_dict(self, *, wall_seconds: float | None = None) -> dict[str, Any]:
        """The account for JSON; what is not known is None. Outcomes cannot tell ``wall_seconds``, the caller can."""
        known = self.replies > self.replies_without_usage
        return {
            "requests": self.requests,
            "replies": self.replies,
            "replies_cut": self.replies_cut,
            "failures": dict(sorted(self.failures.items())),
            "attempts": self.attempts,
            "prompt_tokens": self.prompt_tokens if known or not self.replies else None,
            "completion_tokens": self.completion_tokens if known or not self.replies else None,
            "replies_without_usage": self.replies_without_usage,
            "usage": f"unknown for {self.replies_without_usage:,} replies"
            if self.replies_without_usage
            else "complete",
            "seconds": self.seconds,
            "wall_seconds": wall_seconds,
            "requests_per_second": self.requests / wall_seconds if wall_seconds else None,
            "latency_seconds": {
                f"p{level * 100:g}": round(self.latency.quantile(level), 6) if self.replies else None
                for level in QUANTILES
            },
            "cost": self.cost,
            "price_per_million_prompt_tokens": self._prompt_price,
            "price_per_million_completion_tokens": self._completion_price,
        }

    def _add_reply(self, reply: Reply) -> None:
        self.replies += 1
        self.replies_cut += not reply.finished
        self.replies_without_usage += not (reply.prompt_tokens and reply.completion_tokens)
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.latency.add(reply.seconds)


def _checked(price: float | None, of_what: str) -> float | None:
    if price is not None and not 0 <= price < math.inf:
        raise RecipeError(
            f"the price of {of_what} tokens is impossible",
            expected="0 or more for a million tokens, or null where it is not known",
            got=str(price),
        )
    return price
