"""Language models that write text: behind an HTTP endpoint, in this process, or on a cluster. One interface for all."""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant"]
FailureReason = Literal[
    "timeout",
    "rate_limited",
    "server_error",
    "connection",
    "refused_request",
    "malformed_response",
    "empty_reply",
    "endless_output",
    "model_error",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing asked of a model.

    ``key`` names it in outcomes. ``schema`` is a JSON schema that the reply should follow, where the model can be held
    to one.
    """

    key: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a reply is drawn. Temperature 0 takes the likeliest token; ``max_tokens`` bounds a reply."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model wrote. ``finished`` is False where it was cut at ``max_tokens``; ``attempts`` counts requests."""

    key: str
    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no reply. It is an outcome, not an error: one request must not end the others."""

    key: str
    reason: FailureReason
    detail: str
    attempts: int
    seconds: float


Outcome = Reply | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model answered, so that a reply can be traced.

    ``digest``: SHA-256 of the weights where this process can read them, else ``""``; ``facts`` then holds what the
    endpoint says of itself. No secret is in here.
    """

    backend: str
    name: str
    digest: str
    sampling: Sampling
    facts: Mapping[str, str] = field(default_factory=dict)


class TextModel(Protocol):
    """Answers many requests."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""

    def complete(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for every request, as they come, in any order; requests are drawn as there is room for them.

        Closing the generator gives up what is in flight.

        Raises:
            ModelError: the model cannot be used at all, so that asking on would be useless. Outcomes that were yielded
                before stand; requests without one were not answered.
        """

    def close(self) -> None:
        """Free what the model holds. Nothing can be asked afterwards."""
