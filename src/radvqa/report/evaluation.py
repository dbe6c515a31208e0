"""What the evaluation sections of a page show, and the page of a folder that has nothing but an evaluation.

Every file of the folder may be absent; the section that needs it then says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from radvqa.errors import RunError
from radvqa.evaluate.metrics import HEADLINE
from radvqa.evaluate.protocols import PROTOCOLS, Protocol
from radvqa.html import Picture, data_uri, page_environment
from radvqa.records import read_json, read_optional, read_records, write_text
from radvqa.report.browser import Browser, browse, browser_script
from radvqa.report.conditions import conditions
from radvqa.report.contents import UNDEFINED, Reliance, RunSummary, Scores, Slice, read_summary
from radvqa.report.evaluation_figures import SliceRow, calibration_figure, slice_figure
from radvqa.report.figures import Bar
from radvqa.report.folder import predictions_file
from radvqa.report.scores import Leaks, Probe, ProtocolMetric, ScoreFile
from radvqa.report.wording import duration, number, p_value, percent, points, span, verdict
from radvqa.sample import Prediction, VqaSample

STATES: Mapping[str, str] = {
    "answered": "an answer was found; only these can be right",
    "missing": "there is no answer to the question",
    "empty": "no letter and no digit",
    "refused": "the model declined to answer",
    "unsure": "the model says that it does not know",
    "ambiguous": "two answers that exclude each other, such as “yes or no”",
    "no_verdict": "a yes/no question, and neither was said",
    "echo": "the question was given back",
}
FLAGS: Mapping[str, str] = {
    "unfinished": "cut at the token limit",
    "degenerate": "the same words over and over",
}
SETTINGS: Mapping[str, str] = {
    "subject": "Run or model",
    "model": "Base",
    "revision": "Commit of the base",
    "weights": "Weights",
    "dataset": "Data set",
    "split": "Split",
    "limit": "First images only",
    "questions": "Questions",
    "data": "SHA-256 of questions and pictures",
    "prompt_id": "Prompt",
    "layout": "Layout",
    "dtype": "Computed in",
    "decoding": "Decoding",
    "batch_size": "Batch size",
    "seed": "Seed of shuffling and draws",
    "floors_from": "Floors learn from",
    "command": "Command",
}
"""Keys of ``evaluation.json`` that the page shows, with their names."""
PARTS: Mapping[str, str] = {"overall": "all questions", "closed": "closed questions", "open": "open questions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One protocol: its numbers, and its rule where this version knows it.

    ``quoted``: by part, what papers quote; ``others``: the other numbers.
    """

    name: str
    title: str
    quoted: Mapping[str, tuple[tuple[str, ProtocolMetric], ...]]
    others: tuple[tuple[str, ProtocolMetric], ...]
    rule: Protocol | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that the template ``evaluation.html`` shows."""

    level: float
    scores: ScoreFile | None
    states: Mapping[str, str]
    flags: Mapping[str, str]
    parts: Mapping[str, str]
    sizes: Mapping[str, int]
    reliance: tuple[Reliance, ...]
    slices: Picture
    cards: tuple[Card, ...]
    calibration: Picture | None
    probes: Mapping[str, Probe]
    judge: tuple[tuple[str, str], ...]
    leaks: Leaks | None
    ancestry: tuple[tuple[str, str], ...]
    subject: str | None
    settings: tuple[tuple[str, str], ...]
    browser: Browser


def write_evaluation(folder: Path) -> Path:
    """The path of ``evaluation.html`` in an evaluation folder, written anew from the other files there.

    The same files give the same bytes.

    Raises:
        RunError: the folder has neither ``scores.json`` nor ``summary.json``, a file is damaged, or not writable.
        DataError: a JSON Lines file has a damaged line.
    """
    summary = read_summary(folder / "summary.json") if (folder / "summary.json").is_file() else None
    evaluation = read_evaluation(folder, summary)
    if summary is None and evaluation.scores is None:
        raise RunError(
            "the folder holds no scores to show",
            where=str(folder),
            expected="scores.json or summary.json",
            got="neither",
            fix="write them with `radvqa evaluate` or `radvqa score --to FOLDER`",
        )
    path = folder / "evaluation.html"
    context = {
        "name": folder.resolve().name,
        "summary": summary,
        "evaluation": evaluation,
        "script": browser_script(),
        "headline": _headline(summary, evaluation.scores),
        "verdict": _verdict(summary, evaluation.scores),
        "file_name": Path((evaluation.scores and evaluation.scores.file) or "").name,
        **({} if summary is None else conditions(summary)),
    }
    write_text(path, environment().get_template("evaluation_page.html").render(context))
    return path


def read_evaluation(folder: Path, summary: RunSummary | None) -> Evaluation:
    """What there is to show of a run or evaluation folder; ``summary`` is its ``summary.json``, if any."""
    scores = read_json(folder / "scores.json", ScoreFile)
    predictions, samples = _answers(folder), _samples(folder, summary)
    leaks = read_json(folder / "leaks.json", Leaks)
    about = read_json(folder / "evaluation.json", dict[str, Any]) or {}
    level = scores.summary.level if scores is not None else summary.reference.level if summary is not None else 0.95
    return Evaluation(
        level=level,
        scores=scores,
        states=STATES,
        flags=FLAGS,
        parts=PARTS,
        sizes={} if scores is None else _sizes(scores.summary),
        reliance=() if summary is None else tuple(summary.reliance.values()),
        slices=_slices(scores, summary),
        cards=_cards(scores),
        calibration=None
        if scores is None or scores.calibration is None
        else _png(calibration_figure(scores.calibration)),
        probes=read_json(folder / "probes.json", dict[str, Probe]) or {},
        judge=tuple(flat(read_json(folder / "judge.json", dict[str, Any]) or {})),
        leaks=leaks,
        ancestry=() if leaks is None else tuple(row for row in flat(leaks.ancestry) if row[1] != _plain(None)),
        subject=about.get("subject"),
        settings=_settings(about),
        browser=browse(predictions, {one.sample_id: one.image for one in samples}),
    )


def environment() -> Environment:
    """Templates and filters of all pages that show an evaluation."""
    made = page_environment("report")
    made.filters.update(
        percent=percent,
        points=points,
        span=span,
        number=number,
        duration=duration,
        p_value=p_value,
        words=_words,
        shown=_shown,
    )
    made.filters.update(words=_words, shown=_shown)
    return made


def flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of dotted key and text."""
    if isinstance(values, Mapping) and values:
        return [row for key, value in values.items() for row in flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if not prefix:
        return []
    if isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        return flat({str(place): value for place, value in enumerate(values, start=1)}, prefix)
    return [(prefix, ", ".join(map(str, values)) if isinstance(values, list) and values else _plain(values))]


def _answers(folder: Path) -> list[Prediction]:
    try:
        path = predictions_file(folder)
    except RunError:
        return []
    return read_records(path, Prediction)


def _samples(folder: Path, summary: RunSummary | None) -> list[VqaSample]:
    """The samples that name the pictures: of the evaluated data set, or the only ones there."""
    found = sorted((folder / "samples").glob("*.jsonl"))
    if summary is not None:
        found = [folder / "samples" / f"{summary.dataset}-{summary.split}.jsonl"]
    return [sample for path in found for sample in read_optional(path, VqaSample)]


def _settings(about: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """``evaluation.json`` as rows; of a folder of this machine only its name."""
    shown = dict(about)
    if "model" in shown:
        shown["model"] = Path(str(shown["model"])).name if Path(str(shown["model"])).is_absolute() else shown["model"]
    return tuple((SETTINGS[name], _plain(value)) for name, value in shown.items() if name in SETTINGS)


def _headline(summary: RunSummary | None, scores: ScoreFile | None) -> Scores:
    if summary is not None:
        return summary.reference
    assert scores is not None
    return scores.summary


def _verdict(summary: RunSummary | None, scores: ScoreFile | None) -> list[str]:
    if summary is not None:
        return verdict(summary)
    assert scores is not None
    overall, accuracy = scores.summary.overall, scores.summary.of("overall", HEADLINE)
    wrong = overall.samples - scores.counts.states.get("answered", 0)
    return [
        f"{percent(accuracy.mean)} % of {overall.samples:,} answers in {overall.groups:,} groups (images, cases or "
        f"patients) are right (accuracy, {100 * scores.summary.level:g} % interval {span(accuracy)}).",
        f"{wrong:,} of them are missing, empty, refused or undecidable and count as wrong."
        if wrong
        else "All questions have a usable answer.",
        "Only answers were scored: what the questions alone give away and what the image is worth is unknown here.",
    ]


def _slices(scores: ScoreFile | None, summary: RunSummary | None) -> Picture:
    shown = {"Model": summary.reference if summary is not None else scores.summary if scores is not None else None}
    if summary is not None and "question_only" in summary.conditions:
        shown["Question-only floor"] = summary.conditions["question_only"]
    model = shown["Model"]
    if model is None:
        return Picture(note="There are no scores to break down.")
    tables = {"answer_type": model.by_answer_type, **model.by_tag}
    rows = [
        SliceRow(
            _words(tag),
            value,
            members.samples,
            {name: _bar(found.slice(tag, value)) for name, found in shown.items() if found is not None},
        )
        for tag, table in tables.items()
        for value, members in table.items()
    ]
    if not rows:
        return Picture(note="The questions carry no tags by which the scores could be broken down.")
    return _png(slice_figure(rows, level=model.level))


def _bar(members: Slice | None) -> Bar:
    estimate = UNDEFINED if members is None else members.metrics.get(HEADLINE, UNDEFINED)
    return Bar(estimate.mean, estimate.low, estimate.high)


def _cards(scores: ScoreFile | None) -> tuple[Card, ...]:
    return tuple(
        Card(
            name=name,
            title=one.title,
            quoted={
                part: tuple((m, one.metrics[m]) for m in one.headline if m in one.metrics and _part(m) == part)
                for part in PARTS
            },
            others=tuple((metric, value) for metric, value in one.metrics.items() if metric not in one.headline),
            rule=PROTOCOLS.get(name),
        )
        for name, one in ({} if scores is None else scores.protocols).items()
    )


def _sizes(scores: Scores) -> dict[str, int]:
    return {"overall": scores.overall.samples, **{part: one.samples for part, one in scores.by_answer_type.items()}}


def _shown(value: float | None) -> str:
    """A number of a protocol, which is in percent already."""
    return "none" if value is None else f"{value:.1f}"


def _part(metric: str) -> str:
    kind = metric.partition("_")[0]
    return kind if kind in ("closed", "open") else "overall"


def _png(content: bytes) -> Picture:
    return Picture(uri=data_uri(content, "image/png"))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    if value is None or value in ({}, []):
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
