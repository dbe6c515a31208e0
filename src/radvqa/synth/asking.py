"""Asks a language model about captions: each different request once, every outcome in a journal before the next."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from pydantic import TypeAdapter

from radvqa.llm import Failure, ModelIdentity, Outcome, Reply, Request, TextModel
from radvqa.run.journal import Journal
from radvqa.run.progress import Advance, Progress

_KINDS: Mapping[str, TypeAdapter[Any]] = {"reply": TypeAdapter(Reply), "failure": TypeAdapter(Failure)}


def request_key(request: Request, identity: ModelIdentity) -> str:
    """SHA-256 over all that a reply depends on: messages, schema, model and sampling. The place of a model is not."""
    content = {
        "messages": [dataclasses.asdict(message) for message in request.messages],
        "schema": request.schema,
        "backend": identity.backend,
        "model": identity.name,
        "weights": identity.digest,
        "sampling": dataclasses.asdict(identity.sampling),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def ask(requests: Iterable[Request], model: TextModel, journal: Journal, *, total: int, progress: Progress) -> None:
    """Ask for everything that the journal does not have yet.

    Requests of equal content are asked once. What an earlier start got a reply to is not asked again; what failed is,
    since a larger context or a mended server may answer it now. Keys must be those of ``request_key``.

    Raises:
        ModelError: the model cannot be used at all; what was answered is in the journal.
        RunError: the journal cannot be written.
    """
    with (
        progress.track("replies", total, unit="requests") as tick,
        # Closed even when the journal's disk is full: nothing must stay in flight.
        closing(model.complete(_unanswered(requests, journal, tick))) as outcomes,
    ):
        for outcome in outcomes:
            journal.append(outcome.key, _entry(outcome))
            tick(1)


def outcome_of(entry: Mapping[str, Any]) -> Outcome:
    """The outcome in one entry of the journal."""
    values = {name: value for name, value in entry.items() if name != "kind"}
    outcome: Outcome = _KINDS[entry["kind"]].validate_python(values)
    return outcome


def _unanswered(requests: Iterable[Request], journal: Journal, tick: Advance) -> Iterator[Request]:
    drawn = set()
    for request in requests:
        if request.key in drawn or (request.key in journal and journal[request.key]["kind"] == "reply"):
            tick(1)
            continue
        drawn.add(request.key)
        yield request


def _entry(outcome: Outcome) -> dict[str, Any]:
    return {"kind": "reply" if isinstance(outcome, Reply) else "failure", **dataclasses.asdict(outcome)}
