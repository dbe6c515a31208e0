"""The report of a run: one HTML file with everything in it, made from the files of the run folder.

Only ``summary.json`` must be there. Every other file may be absent, and the section that needs it then says so.
"""

import base64
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import TypeAdapter, ValidationError

from radvqa.data.imaging import open_image, path_inside
from radvqa.errors import DataError, RunError
from radvqa.evaluate.metrics import exact_match
from radvqa.records import read_records, write_bytes, write_text
from radvqa.report.figures import Bar, Update, Watch, condition_bars, learning_curves
from radvqa.sample import Prediction, VqaSample

T = TypeVar("T")

CONDITIONS: Mapping[str, tuple[str, str]] = {
    "model": ("Model", "the trained model on the real images"),
    "blank": ("Model, blank images", "the same model, every image replaced by an empty one"),
    "shuffled": ("Model, shuffled images", "the same model, every image replaced by that of another question"),
    "question_only": ("Question-only floor", "no model: the most frequent training answer to this question"),
    "majority": ("Majority floor", "no model: the most frequent training answer of the answer type"),
}
"""Name and meaning of each condition, in the order of the tables. Others follow under their own name."""

LAYOUTS: Mapping[str, str] = {"per_question": "per-question", "shared_image": "shared-image"}

EXAMPLES = 6
THUMBNAIL_PIXELS = 256

Effect = Literal["better", "worse", "unclear", "undefined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with confidence limits; None where undefined. As ``radvqa.evaluate.summary.Estimate``."""

    mean: float | None
    low: float | None
    high: float | None

    @property
    def effect(self) -> Effect:
        """Of a difference: on which side of zero its interval lies."""
        if self.low is None or self.high is None or math.isnan(self.low) or math.isnan(self.high):
            return "undefined"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


UNDEFINED = Estimate(mean=None, low=None, high=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Counts and scores of some predictions. As ``radvqa.evaluate.summary.SliceSummary``."""

    samples: int
    groups: int
    empty: int
    unfinished: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One condition. As ``radvqa.evaluate.summary.Summary``."""

    level: float
    overall: Slice
    by_answer_type: Mapping[str, Slice]
    by_tag: Mapping[str, Mapping[str, Slice]]

    def of(self, part: str, metric: str) -> Estimate:
        """A metric overall (``part`` is "overall") or of one answer type; undefined if there are no such samples."""
        found = self.overall if part == "overall" else self.by_answer_type.get(part)
        return UNDEFINED if found is None else found.metrics.get(metric, UNDEFINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Paired differences, reference minus condition. As ``radvqa.evaluate.summary.Comparison``."""

    level: float
    samples: int
    groups: int
    overall: Mapping[str, Estimate]
    by_answer_type: Mapping[str, Mapping[str, Estimate]]

    def of(self, part: str, metric: str) -> Estimate:
        """The difference of a metric overall or for one answer type; undefined if there are no such samples."""
        found = self.overall if part == "overall" else self.by_answer_type.get(part, {})
        return found.get(metric, UNDEFINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """``summary.json``. ``condition`` names the reference that the comparisons start from."""

    split: str
    dataset: str
    condition: str
    conditions: Mapping[str, Scores]
    comparisons: Mapping[str, Differences]
    limit: int | None = None
    layout: str | None = None
    prompt_id: str | None = None

    @property
    def reference(self) -> Scores:
        """The scores of the model on real images."""
        return self.conditions[self.condition]

    def difference(self, name: str) -> Estimate | None:
        """Exact match of the model minus that of another condition, or None if that was not evaluated."""
        return self.comparisons[name].of("overall", "exact_match") if name in self.comparisons else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCounts:
    """One entry of ``samples/index.json``."""

    samples: int
    images: int
    groups: int
    rejects: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCounts:
    """``train/<stage>/stage.json``; ``trainable`` counts parameters, ``adapter_modules`` LoRA modules, by part."""

    stage: str
    updates: int
    questions: int
    seconds: float
    trainable: Mapping[str, int]
    adapter_modules: Mapping[str, int]
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One entry of ``explain/index.json``. ``panel`` is a path inside the run folder."""

    sample_id: str
    image_id: str
    question: str
    reference: str
    answer: str
    correct: bool
    panel: str
    methods: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as data URI, or the note that takes its place."""

    uri: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStage:
    """What the report shows of one stage."""

    name: str
    counts: StageCounts | None
    curves: Picture
    watched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One answered question with its picture."""

    prediction: Prediction
    picture: Picture
    floor_answer: str | None
    floor_correct: bool


def write_report(folder: Path) -> Path:
    """The path of ``report.html`` in the run folder ``folder``, written anew from the other files there.

    Also writes ``train/<stage>/curves.png``. The same files give the same bytes.

    Raises:
        RunError: there is no summary yet, a file is damaged, or the folder is not writable.
        DataError: a JSON Lines file has a damaged line.
    """
    summary = _read_summary(folder / "summary.json")
    recipe = _read_text(folder / "recipe.yaml")
    stages = _train_stages(folder / "train", order=_stage_order(recipe))
    context: dict[str, Any] = {
        "name": _recipe_values(recipe).get("name", folder.name),
        "summary": summary,
        "names": _condition_names(summary),
        "meanings": {name: meaning for name, (_, meaning) in CONDITIONS.items()},
        "verdict": verdict(summary, stages),
        "parts": ["overall", *sorted(summary.reference.by_answer_type)],
        "bars": _bars(summary),
        "slices": _slice_tables(summary),
        "stages": stages,
        "explained": _explained(folder),
        "examples": _examples(folder, summary),
        "splits": _read_json(folder / "samples" / "index.json", dict[str, SplitCounts]),
        "recipe": recipe,
        "command": _read_text(folder / "command.txt"),
        "provenance": _flat(_read_json(folder / "provenance.json", dict[str, Any]) or {}),
    }
    path = folder / "report.html"
    write_text(path, _environment().get_template("report.html").render(context))
    return path


def verdict(summary: RunSummary, stages: Sequence[TrainedStage]) -> list[str]:
    """Sentences that say what the numbers say, and no more: score, floor, use of the image, layout, reservations.

    A difference counts only if its interval excludes zero.
    """
    overall = summary.reference.overall
    score = overall.metrics.get("exact_match", UNDEFINED)
    interval = f"{100 * summary.reference.level:g} % interval"
    sentences = [
        f"On {overall.samples:,} questions in {overall.groups:,} groups (images, cases or patients) of "
        f"{summary.dataset}, split {summary.split}, the model's answer matches a reference exactly in "
        f"{percent(score.mean)} % of cases ({interval} {span(score)}).",
        _floor_sentence(summary, interval),
        _image_sentence(summary, interval),
        _layout_sentence(summary, stages),
    ]
    if overall.empty or overall.unfinished:
        sentences.append(
            f"Empty answers: {overall.empty:,}, answers cut at the token limit: {overall.unfinished:,}; "
            "all of them count in every score."
        )
    if summary.limit is not None:
        sentences.append(f"Only the first {summary.limit:,} images of the split were evaluated.")
    if summary.split == "train":
        sentences.append("These are training questions: the scores say nothing about new images.")
    elif summary.split == "val" and any(stage.watched for stage in stages):
        sentences.append("Some validation images were also watched during training, so this is not an untouched test.")
    return sentences


def percent(value: float | None) -> str:
    """A share as percent with one decimal and no sign, or "n/a"."""
    return "n/a" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points with its sign, or "n/a"."""
    if value is None or math.isnan(value):
        return "n/a"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def span(estimate: Estimate, *, signed: bool = False) -> str:
    """The limits of an estimate as "58.1 to 66.4", or "n/a"."""
    if estimate.low is None or estimate.high is None:
        return "n/a"
    show = points if signed else percent
    return f"{show(estimate.low)} to {show(estimate.high)}"


def number(value: float | None) -> str:
    """A plain number with three decimals, or "n/a"."""
    return "n/a" if value is None or math.isnan(value) else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds as "42 s", "12 min" or "1 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def spread(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """At most ``count`` of the predictions, taking turns over content types and avoiding an image seen before.

    The order within a type is that of a hash of the sample id: it favours nothing and is the same every time.
    """
    waiting: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in sorted(predictions, key=lambda one: hashlib.sha256(one.sample_id.encode()).digest()):
        waiting[prediction.tags.get("content_type", "")].append(prediction)
    chosen: list[Prediction] = []
    while len(chosen) < count and waiting:
        for content_type in sorted(waiting):
            if len(chosen) == count:
                break
            seen = {prediction.image_id for prediction in chosen}
            members = waiting[content_type]
            best = next((index for index, one in enumerate(members) if one.image_id not in seen), 0)
            chosen.append(members.pop(best))
            if not members:
                del waiting[content_type]
    return chosen


def _floor_sentence(summary: RunSummary, interval: str) -> str:
    difference = summary.difference("question_only")
    if difference is None:
        return (
            "The question-only floor was not evaluated, so it is unknown what the answers owe to the questions alone."
        )
    amount = f"{points(difference.mean)} points ({interval} {span(difference, signed=True)})"
    return {
        "better": f"It beats the question-only floor, which never sees an image, by {amount.lstrip('+')}.",
        "worse": f"It falls behind the question-only floor, which never sees an image: {amount}.",
        "unclear": f"It does not differ clearly from the question-only floor, which never sees an image: {amount}.",
        "undefined": f"Whether it beats the question-only floor cannot be told, for lack of an interval: {amount}.",
    }[difference.effect]


def _image_sentence(summary: RunSummary, interval: str) -> str:
    differences = {
        name: difference for name in ("blank", "shuffled") if (difference := summary.difference(name)) is not None
    }
    if not differences:
        return "Whether it uses the image was not tested: neither blank nor shuffled images were evaluated."
    effects = [difference.effect for difference in differences.values()]
    if "undefined" in effects:
        judgement = "Whether it uses the image cannot be told, for lack of an interval"
    elif all(effect == "better" for effect in effects):
        judgement = "It uses the image"
    elif "better" in effects:
        judgement = "The evidence that it uses the image is mixed"
    else:
        judgement = "There is no clear sign that it uses the image"
    amounts = " and ".join(
        f"{points(difference.mean)} points over {name} images ({interval} {span(difference, signed=True)})"
        for name, difference in differences.items()
    )
    untested = (
        ""
        if len(differences) == 2
        else f" {'Blank' if 'shuffled' in differences else 'Shuffled'} images were not tested."
    )
    return f"{judgement}: real images are worth {amounts}.{untested}"


def _layout_sentence(summary: RunSummary, stages: Sequence[TrainedStage]) -> str:
    evaluated = summary.layout
    trained = {stage.counts.layout for stage in stages if stage.counts is not None}
    if evaluated is None:
        return "The summary does not say in which layout the model was evaluated."
    shown = LAYOUTS.get(evaluated, evaluated)
    if trained and trained != {evaluated}:
        others = " and ".join(sorted(LAYOUTS.get(layout, layout) for layout in trained))
        first = f"Trained in the {others} layout but evaluated in the {shown} layout: the two do not fit."
    else:
        first = f"{'Trained and evaluated' if trained else 'Evaluated'} in the {shown} layout"
        first += ", which is PaliGemma's own prefix-LM mask." if evaluated == "per_question" else "."
    if "shared_image" in trained | {evaluated}:
        first += (
            " The shared-image layout differs from PaliGemma's own mask: all questions share one reading of the image, "
            "and image tokens do not see the question."
        )
    return first


def _condition_names(summary: RunSummary) -> dict[str, str]:
    """The conditions of the run in the order of the tables, with their names."""
    known = [name for name in CONDITIONS if name in summary.conditions]
    order = dict.fromkeys([summary.condition, *known, *sorted(summary.conditions)])
    return {name: CONDITIONS[name][0] if name in CONDITIONS else name for name in order}


def _bars(summary: RunSummary) -> Picture:
    parts = ["overall", *sorted(summary.reference.by_answer_type)]

    def bar(scores: Scores, part: str) -> Bar:
        estimate = scores.of(part, "exact_match")
        return Bar(estimate.mean, estimate.low, estimate.high)

    bars = {
        label: {part: bar(summary.conditions[name], part) for part in parts}
        for name, label in _condition_names(summary).items()
    }
    return _png_picture(condition_bars(bars, level=summary.reference.level))


def _slice_tables(summary: RunSummary) -> list[dict[str, Any]]:
    """For each tag: heading, columns and rows of exact match; model against floor against blank images."""
    names = _condition_names(summary)
    columns = [name for name in (summary.condition, "question_only", "blank") if name in names]
    return [
        {
            "tag": tag.replace("_", " "),
            "columns": [names[name] for name in columns],
            "rows": [
                (value, members, [_slice_score(summary.conditions[name], tag, value) for name in columns])
                for value, members in by_value.items()
            ],
        }
        for tag, by_value in summary.reference.by_tag.items()
    ]


def _slice_score(scores: Scores, tag: str, value: str) -> Estimate:
    found = scores.by_tag.get(tag, {}).get(value)
    return UNDEFINED if found is None else found.metrics.get("exact_match", UNDEFINED)


def _train_stages(folder: Path, *, order: Sequence[str]) -> list[TrainedStage]:
    """The stages with a folder, those of the recipe first and in its order. Writes their ``curves.png``."""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    return [_train_stage(folder / name) for name in names]


def _train_stage(folder: Path) -> TrainedStage:
    updates = _read_optional(folder / "metrics.jsonl", Update)
    watch = _read_optional(folder / "watch.jsonl", Watch)
    curves = Picture(note="No updates were recorded for this stage.")
    if updates:
        png = learning_curves(updates, watch, title=f"Stage {folder.name}")
        write_bytes(folder / "curves.png", png)
        curves = _png_picture(png)
    return TrainedStage(
        name=folder.name,
        counts=_read_json(folder / "stage.json", StageCounts),
        curves=curves,
        watched=bool(watch),
    )


def _explained(folder: Path) -> list[tuple[Explained, Picture]]:
    entries = _read_json(folder / "explain" / "index.json", list[Explained]) or []
    return [(entry, _panel(folder, entry.panel)) for entry in entries]


def _panel(folder: Path, name: str) -> Picture:
    try:
        path = path_inside(folder, name)
        return _png_picture(path.read_bytes())
    except (DataError, OSError) as error:
        return Picture(note=f"The panel {name} cannot be shown: {_reason(error)}.")


def _examples(folder: Path, summary: RunSummary) -> dict[str, list[Example]]:
    """Right and wrong examples of the model, empty where there are no predictions."""
    predictions = _read_optional(folder / "predictions" / f"{summary.split}.jsonl", Prediction)
    floor = _read_optional(folder / "predictions" / f"{summary.split}_question_only.jsonl", Prediction)
    samples = _read_optional(folder / "samples" / f"{summary.dataset}-{summary.split}.jsonl", VqaSample)
    floor_by_id = {prediction.sample_id: prediction for prediction in floor}
    image_by_id = {sample.sample_id: sample.image for sample in samples}
    right = [prediction for prediction in predictions if exact_match(prediction)]
    wrong = [prediction for prediction in predictions if not exact_match(prediction)]
    return {
        heading: [
            _example(prediction, image_by_id.get(prediction.sample_id), floor_by_id.get(prediction.sample_id))
            for prediction in spread(members, EXAMPLES)
        ]
        for heading, members in (("right", right), ("wrong", wrong))
    }


def _example(prediction: Prediction, image: Path | None, floor: Prediction | None) -> Example:
    if image is None:
        picture = Picture(note="The samples file of the run does not name a picture for this question.")
    else:
        picture = thumbnail(image)
    return Example(
        prediction=prediction,
        picture=picture,
        floor_answer=None if floor is None else floor.text,
        floor_correct=floor is not None and bool(exact_match(floor)),
    )


def thumbnail(path: Path) -> Picture:
    """The picture with at most 256 pixels a side as JPEG data URI, or a note if the file cannot be read."""
    try:
        image = open_image(path)
    except DataError as error:
        return Picture(note=f"The picture {path.name} cannot be shown: {_reason(error)}.")
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return Picture(uri=_data_uri(buffer.getvalue(), "image/jpeg"))


def _png_picture(content: bytes) -> Picture:
    return Picture(uri=_data_uri(content, "image/png"))


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _reason(error: DataError | OSError) -> str:
    # Not the whole message: it holds absolute paths, which are nobody's business in a shared report.
    return error.what if isinstance(error, DataError) else error.strerror or type(error).__name__


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("radvqa", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, span=span, number=number, duration=duration)
    return environment


def _read_summary(path: Path) -> RunSummary:
    summary = _read_json(path, RunSummary)
    if summary is None:
        raise RunError(
            "the run has no summary to report",
            where=str(path),
            expected="summary.json, which the evaluation step writes",
            got="no such file",
            fix="let `radvqa run` finish this run's evaluation (it goes on where it stopped), then write the report",
        )
    if summary.condition not in summary.conditions:
        raise RunError(
            "the summary lacks the scores of its own reference condition",
            where=str(path),
            expected=f"an entry {summary.condition!r} under conditions",
            got=", ".join(summary.conditions) or "no conditions",
            fix="delete the file and run the evaluation again",
        )
    return summary


def _read_json(path: Path, kind: type[T]) -> T | None:
    """The validated content of a JSON file, or None if there is no such file."""
    if not path.is_file():
        return None
    try:
        value: T = TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(
            "a file of the run folder is damaged or from another version of radvqa",
            where=f"{path}, field {'.'.join(map(str, first['loc'])) or '(whole file)'}",
            expected=first["msg"],
            got=repr(first["input"])[:200],
            fix="delete the file and run the step that writes it again",
        ) from error
    return value


def _read_optional(path: Path, kind: type[T]) -> list[T]:
    return read_records(path, kind) if path.is_file() else []


def _read_text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _recipe_values(recipe: str | None) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(recipe or "")
    except yaml.YAMLError as error:
        raise RunError(
            "the run's recipe.yaml is not valid YAML",
            got=str(error).replace("\n", " "),
            fix="restore the file; `radvqa run` wrote it when the run began",
        ) from error
    return values if isinstance(values, dict) else {}


def _stage_order(recipe: str | None) -> list[str]:
    stages = _recipe_values(recipe).get("stages") or []
    return [str(stage["name"]) for stage in stages if isinstance(stage, dict) and "name" in stage]


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of dotted key and text."""
    if isinstance(values, Mapping) and values:
        return [row for key, value in values.items() for row in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if not prefix:
        return []
    return [(prefix, ", ".join(map(str, values)) if isinstance(values, list) else _plain(values))]


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
