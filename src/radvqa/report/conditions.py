"""The conditions of a run beside each other: the model, its controls and the floors."""

from collections.abc import Mapping
from typing import Any

from radvqa.evaluate.metrics import HEADLINE
from radvqa.html import Picture, data_uri
from radvqa.report.contents import RunSummary, Scores
from radvqa.report.figures import Bar, condition_bars

CONDITIONS: Mapping[str, tuple[str, str]] = {
    "model": ("Model", "the model on the real images"),
    "blank": ("Model, blank images", "the same model, every image replaced by an empty one"),
    "shuffled": ("Model, shuffled images", "the same model, every image replaced by that of another question"),
    "mirrored": ("Model, mirrored images", "the same model, every image mirrored left to right"),
    "question_only": (
        "Question-only floor",
        "no model: the most frequent training answer to this question, or to the nearest one asked in training",
    ),
    "majority": ("Majority floor", "no model: the most frequent training answer of the answer type"),
    "always_yes": ("Always yes", "no model: the answer is yes, whatever the question"),
    "always_no": ("Always no", "no model: the answer is no, whatever the question"),
}
"""Name and meaning of each condition, in the order of the tables. Others follow under their own name."""


def conditions(summary: RunSummary) -> dict[str, Any]:
    """What the templates of conditions, differences and counts show."""
    return {
        "names": condition_names(summary),
        "meanings": {name: meaning for name, (_, meaning) in CONDITIONS.items()},
        "parts": _parts(summary),
        "bars": _bars(summary),
        "states_shown": list(
            dict.fromkeys(
                state
                for scores in summary.conditions.values()
                for state in scores.overall.states
                if state not in ("answered", "empty", "missing")
            )
        ),
    }


def condition_names(summary: RunSummary) -> dict[str, str]:
    """The conditions of the run in the order of the tables, with their names."""
    known = [name for name in CONDITIONS if name in summary.conditions]
    order = dict.fromkeys([summary.condition, *known, *sorted(summary.conditions)])
    return {name: CONDITIONS[name][0] if name in CONDITIONS else name for name in order}


def _parts(summary: RunSummary) -> list[str]:
    return ["overall", *sorted(summary.reference.by_answer_type)]


def _bars(summary: RunSummary) -> Picture:
    def bar(scores: Scores, part: str) -> Bar:
        estimate = scores.of(part, HEADLINE)
        return Bar(estimate.mean, estimate.low, estimate.high)

    bars = {
        label: {part: bar(summary.conditions[name], part) for part in _parts(summary)}
        for name, label in condition_names(summary).items()
        if name not in ("always_yes", "always_no")  # the table has them; eight bars in a row cannot be told apart
    }
    return Picture(uri=data_uri(condition_bars(bars, level=summary.reference.level), "image/png"))
