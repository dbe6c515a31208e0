"""A language model as judge of answers: a check beside the scorer, with its own reliability measured. Never a headline.

::

    FOLDER/
      replies.jsonl      every reply of every judge asked here, by content: no start asks for it again
      judgements.jsonl   one line per prediction: all verdicts, the one that counts, and that of our own scorer
      judge.json         the result, see ``judge``
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from radvqa.errors import RecipeError
from radvqa.evaluate.agreement import cohen_kappa, two_reader_ac1
from radvqa.evaluate.judge_prompt import SCHEMA, JudgePrompt, Order, verdict_of
from radvqa.evaluate.metrics import accuracy
from radvqa.evaluate.statistics import score_interval
from radvqa.llm import ModelIdentity, Request, TextModel
from radvqa.llm.asking import ask, has_reply, request_key
from radvqa.records import write_json, write_records
from radvqa.run.journal import Journal
from radvqa.run.progress import Progress
from radvqa.sample import Prediction

REPLIES, JUDGEMENTS, RESULT = "replies.jsonl", "judgements.jsonl", "judge.json"
CAUTION = (
    "A judge is a language model that did not see the image and errs in its own ways. Read this number beside the "
    "scores, with the judge's repeat agreement and its changes of mind, and never in their place."
)
UNPARSABLE, NO_REPLY = "unparsable", "no_reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge said of one prediction.

    ``verdicts``: with the reference first, one per repeat; ``swapped``: with the answer first, one or none. Each is
    ``correct``, ``incorrect``, ``unparsable`` or ``no_reply``. An empty answer has none.
    ``correct``: more than half of ``verdicts`` are ``correct``. ``scorer``: what our own metric says.
    """

    sample_id: str
    group_id: str
    answer_type: str
    verdicts: tuple[str, ...]
    swapped: tuple[str, ...]
    correct: bool
    scorer: bool


class _Plan(NamedTuple):
    """What is asked about one prediction, by order; nothing about an empty one."""

    reference_first: tuple[Request, ...]
    candidate_first: tuple[Request, ...]


def judge(
    predictions: Sequence[Prediction],
    model: TextModel,
    prompt: JudgePrompt,
    *,
    folder: Path,
    repeats: int = 2,
    swap: bool = True,
    progress: Progress,
) -> dict[str, Any]:
    """Ask for verdicts on all predictions, write the three files and return what ``judge.json`` holds.

    Predictions of equal question, references and answer are asked about once; empty and missing ones not at all, they
    are wrong. ``repeats``: times each is asked with the reference first. ``swap``: ask once more with the answer
    first. A reply that is not exactly the form asked for is unparsable and counts as wrong, as does no reply; the next
    start asks again for what had no reply.

    Keys: ``headline`` (False), ``caution``, ``judge`` (identity, dates), ``prompt``, ``counts``, ``accuracy`` (overall,
    closed, open: mean and 95 % interval by group), ``repeats``, ``swap`` (None without), ``scorer``.

    Raises:
        DataError: a prediction has no reference.
        ModelError: the judge cannot be used; replies so far are kept.
        RecipeError: the judge samples its replies, or ``repeats`` is below 1.
        RunError: a file cannot be written.
    """
    identity = model.identity
    _require_plain_judge(identity, repeats)
    scorer = [accuracy(prediction) == 1.0 for prediction in predictions]
    plans = [_plan(prediction, prompt, identity, repeats=repeats, swap=swap) for prediction in predictions]
    with Journal(folder / REPLIES) as journal:
        requests = {request.key: request for plan in plans for order in plan for request in order}
        ask(requests.values(), model, journal, what="verdicts", total=len(requests), dated=True, progress=progress)
        judgements = [
            _judgement(prediction, plan, journal, scorer=right)
            for prediction, plan, right in zip(predictions, plans, scorer, strict=True)
        ]
        # The identity as it is after asking: only then an endpoint has told which form of reply it holds to.
        told = _told(model.identity, requests, journal)
    result = {
        "headline": False,
        "caution": CAUTION,
        "judge": told,
        "prompt": {"name": prompt.name, "sha256": prompt.digest},
        **_result(judgements, swap=swap),
    }
    write_records(folder / JUDGEMENTS, judgements)
    write_json(folder / RESULT, result)
    return result


def _require_plain_judge(identity: ModelIdentity, repeats: int) -> None:
    if identity.sampling.temperature != 0:
        raise RecipeError(
            "a judge takes its likeliest reply",
            where="temperature of the model file",
            expected="0",
            got=str(identity.sampling.temperature),
            fix="leave temperature out",
        )
    if repeats < 1:
        raise RecipeError("the judge must be asked at least once", where="repeats", got=str(repeats))


def _plan(prediction: Prediction, prompt: JudgePrompt, identity: ModelIdentity, *, repeats: int, swap: bool) -> _Plan:
    if prediction.missing or not prediction.text.strip():
        return _Plan((), ())

    def request(order: Order, repeat: int) -> Request:
        messages = prompt.messages(prediction.question, prediction.references, prediction.text, order=order)
        unnamed = Request(key="", messages=messages, schema=SCHEMA)
        return dataclasses.replace(unnamed, key=request_key(unnamed, identity, repeat=repeat))

    swapped = (request("candidate_first", 0),) if swap else ()
    return _Plan(tuple(request("reference_first", repeat) for repeat in range(repeats)), swapped)


def _judgement(prediction: Prediction, plan: _Plan, journal: Journal, *, scorer: bool) -> Judgement:
    verdicts, swapped = (tuple(_verdict(journal, request.key) for request in order) for order in plan)
    return Judgement(
        sample_id=prediction.sample_id,
        group_id=prediction.group_id,
        answer_type=prediction.answer_type,
        verdicts=verdicts,
        swapped=swapped,
        correct=2 * verdicts.count("correct") > len(verdicts),
        scorer=scorer,
    )


def _verdict(journal: Journal, key: str) -> str:
    if not has_reply(journal, key):
        return NO_REPLY
    reply = journal[key]
    return (verdict_of(reply["text"]) if reply["finished"] else None) or UNPARSABLE


def _told(identity: ModelIdentity, keys: Iterable[str], journal: Journal) -> dict[str, Any]:
    """Who judged, and from when to when."""
    dates = sorted(journal[key]["date"] for key in keys if has_reply(journal, key))
    return {
        **dataclasses.asdict(identity),
        "first_reply": dates[0] if dates else None,
        "last_reply": dates[-1] if dates else None,
        "replies": len(dates),
    }


def _result(judgements: Sequence[Judgement], *, swap: bool) -> dict[str, Any]:
    said = Counter(verdict for one in judgements for verdict in (*one.verdicts, *one.swapped))
    answered = [one for one in judgements if one.verdicts]
    return {
        "counts": {
            "samples": len(judgements),
            "groups": len({one.group_id for one in judgements}),
            "not_asked": len(judgements) - len(answered),
            "verdicts": {word: said[word] for word in ("correct", "incorrect", UNPARSABLE, NO_REPLY)},
        },
        "accuracy": {
            "overall": _estimate(judgements),
            "closed": _estimate([one for one in judgements if one.answer_type == "closed"]),
            "open": _estimate([one for one in judgements if one.answer_type == "open"]),
        },
        "repeats": _repeats(answered),
        "swap": _swap(answered) if swap else None,
        "scorer": _scorer(judgements),
    }


def _estimate(judgements: Sequence[Judgement]) -> dict[str, Any]:
    interval = score_interval([float(one.correct) for one in judgements], [one.group_id for one in judgements])
    return {
        "mean": _number(interval.mean),
        "low": _number(interval.low),
        "high": _number(interval.high),
        "samples": len(judgements),
    }


def _repeats(answered: Sequence[Judgement]) -> dict[str, Any]:
    """How often the judge says the same when asked the same again; None where it was asked once."""
    times = len(answered[0].verdicts) if answered else 0
    same = [len(set(one.verdicts)) == 1 for one in answered] if times > 1 else []
    again = [one.verdicts[0] == one.verdicts[1] for one in answered] if times > 1 else []
    return {"times": times, "all_equal": _share(same), "second_equals_first": _share(again)}


def _swap(answered: Sequence[Judgement]) -> dict[str, Any]:
    """What the order changes: ``changed`` is the share of answers whose first verdicts in both orders differ.

    ``both`` and ``either``: accuracy over the asked ones if both orders, or one of them, must say correct.
    """
    pairs = [(one.verdicts[0] == "correct", one.swapped[0] == "correct") for one in answered]
    return {
        "changed": _share([one.verdicts[0] != one.swapped[0] for one in answered]),
        "reference_first": _share([first for first, _ in pairs]),
        "candidate_first": _share([second for _, second in pairs]),
        "both": _share([first and second for first, second in pairs]),
        "either": _share([first or second for first, second in pairs]),
        "samples": len(pairs),
    }


def _scorer(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Agreement with our own accuracy over all predictions; ``table`` rows: judge wrong, right; columns: scorer."""
    table = [[0, 0], [0, 0]]
    for one in judgements:
        table[one.correct][one.scorer] += 1
    return {
        "metric": "accuracy",
        "mean": _share([one.scorer for one in judgements]),
        "table": table,
        "equal": _share([one.correct == one.scorer for one in judgements]),
        "kappa": dataclasses.asdict(cohen_kappa(table)),
        "ac1": dataclasses.asdict(two_reader_ac1(table)),
    }


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
