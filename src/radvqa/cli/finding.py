"""One line of ``radvqa check``."""

from dataclasses import dataclass

from radvqa.errors import RadvqaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fact, or the problem that stands in its place."""

    subject: str
    fact: str = ""
    problem: RadvqaError | None = None
