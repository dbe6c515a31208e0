"""Asks a language model many things: each different request once, every outcome in a journal before the next."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from radvqa.llm import Failure, ModelIdentity, Outcome, Reply, Request, TextModel
from radvqa.run.journal import Journal
from radvqa.run.progress import Advance, Progress

_KINDS: Mapping[str, TypeAdapter[Any]] = {"reply": TypeAdapter(Reply), "failure": TypeAdapter(Failure)}


def request_key(request: Request, identity: ModelIdentity, **more: Any) -> str:
    """SHA-256 over all that a reply depends on: messages, schema, model and sampling. The place of a model is not.

    ``more`` tells apart requests that are equal on purpose, such as repeats.
    """
    content = {
        "messages": [dataclasses.asdict(message) for message in request.messages],
        "schema": request.schema,
        "backend": identity.backend,
        "model": identity.name,
        "weights": identity.digest,
        "sampling": dataclasses.asdict(identity.sampling),
        **more,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def ask(
    requests: Iterable[Request],
    model: TextModel,
    journal: Journal,
    *,
    what: str,
    total: int,
    dated: bool = False,
    progress: Progress,
) -> None:
    """Ask for everything that the journal does not have yet.

    Requests of equal content are asked once. What an earlier start got a reply to is not asked again; what failed is,
    since a larger context or a mended server may answer it now. Keys must be those of ``request_key``. ``what``:
    are asked for, for the progress line. ``dated``: note with each outcome when it came.

    Raises:
        ModelError: the model cannot be used at all; what was answered is in the journal.
        RunError: the journal cannot be written.
    """
    with (
        progress.track(what, total, unit="requests") as tick,
        # Closed even when the journal's disk is full: nothing must stay in flight.
        closing(model.complete(_unanswered(requests, journal, tick))) as outcomes,
    ):
        for outcome in outcomes:
            date = {"date": datetime.now(UTC).isoformat(timespec="seconds")} if dated else {}
            kind = "reply" if isinstance(outcome, Reply) else "failure"
            journal.append(outcome.key, {"kind": kind, **date, **dataclasses.asdict(outcome)})
            tick(1)


def has_reply(journal: Journal, key: str) -> bool:
    """Whether the journal holds a reply, not a failure, to this request."""
    return key in journal and journal[key]["kind"] == "reply"


def outcome_of(entry: Mapping[str, Any]) -> Outcome:
    """The outcome in one entry of the journal."""
    values = {name: value for name, value in entry.items() if name not in ("kind", "date")}
    outcome: Outcome = _KINDS[entry["kind"]].validate_python(values)
    return outcome


def _unanswered(requests: Iterable[Request], journal: Journal, tick: Advance) -> Iterator[Request]:
    drawn = set()
    for request in requests:
        if request.key in drawn or has_reply(journal, request.key):
            tick(1)
            continue
        drawn.add(request.key)
        yield request
