"""The report of a run: one HTML file with everything in it, made from the files of the run folder.

Only ``summary.json`` must be there. Every other file may be absent, and the section that needs it then says so.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radvqa.data.paths import path_inside
from radvqa.errors import DataError
from radvqa.evaluate.metrics import HEADLINE, accuracy
from radvqa.html import Picture, data_uri, reason, thumbnail
from radvqa.records import read_json, read_optional, write_bytes, write_text
from radvqa.report.browser import browser_script
from radvqa.report.conditions import condition_names, conditions
from radvqa.report.contents import (
    UNDEFINED,
    Estimate,
    Explained,
    RunSummary,
    Scores,
    SplitCounts,
    StageCounts,
    read_summary,
    read_text,
    recipe_values,
    stage_order,
)
from radvqa.report.evaluation import environment, flat, read_evaluation
from radvqa.report.figures import Update, Watch, learning_curves
from radvqa.report.mixture_figure import MixtureUpdate, is_mixed, mixture_figure
from radvqa.report.wording import verdict
from radvqa.sample import Prediction, VqaSample

EXAMPLES = 6
THUMBNAIL_PIXELS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStage:
    """What the report shows of one stage."""

    name: str
    counts: StageCounts | None
    curves: Picture
    mixture: Picture | None
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

    Also writes ``train/<stage>/curves.png`` and, for mixtures, ``mixture.png``. The same files give the same bytes.

    Raises:
        RunError: there is no summary yet, a file is damaged, or the folder is not writable.
        DataError: a JSON Lines file has a damaged line.
    """
    summary = read_summary(folder / "summary.json")
    recipe = read_text(folder / "recipe.yaml")
    stages = _train_stages(folder / "train", order=stage_order(recipe))
    context: dict[str, Any] = {
        "name": recipe_values(recipe).get("name", folder.name),
        "summary": summary,
        **conditions(summary),
        "verdict": verdict(
            summary,
            trained={stage.counts.layout for stage in stages if stage.counts is not None},
            watched=any(stage.watched for stage in stages),
        ),
        "slices": _slice_tables(summary),
        "undefined_score": UNDEFINED,
        "stages": stages,
        "explained": _explained(folder),
        "examples": _examples(folder, summary),
        "evaluation": read_evaluation(folder, summary),
        "script": browser_script(),
        "splits": read_json(folder / "samples" / "index.json", dict[str, SplitCounts]),
        "recipe": recipe,
        "command": read_text(folder / "command.txt"),
        "provenance": flat(read_json(folder / "provenance.json", dict[str, Any]) or {}),
    }
    path = folder / "report.html"
    write_text(path, environment().get_template("report.html").render(context))
    return path


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


def _slice_tables(summary: RunSummary) -> list[dict[str, Any]]:
    """For each tag: heading, columns and rows of accuracy; model against floor against blank images."""
    names = condition_names(summary)
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
    return UNDEFINED if found is None else found.metrics.get(HEADLINE, UNDEFINED)


def _train_stages(folder: Path, *, order: Sequence[str]) -> list[TrainedStage]:
    """The stages with a folder, those of the recipe first and in its order. Writes their pictures."""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    return [_train_stage(folder / name) for name in names]


def _train_stage(folder: Path) -> TrainedStage:
    updates = read_optional(folder / "metrics.jsonl", Update)
    watch = read_optional(folder / "watch.jsonl", Watch)
    curves = Picture(note="No updates were recorded for this stage.")
    if updates:
        png = learning_curves(updates, watch, title=f"Stage {folder.name}")
        write_bytes(folder / "curves.png", png)
        curves = _png_picture(png)
    mixture = None
    mixed = read_optional(folder / "metrics.jsonl", MixtureUpdate)
    if is_mixed(mixed):
        png = mixture_figure(mixed, title=f"Mixture of stage {folder.name}")
        write_bytes(folder / "mixture.png", png)
        mixture = _png_picture(png)
    return TrainedStage(
        name=folder.name,
        counts=read_json(folder / "stage.json", StageCounts),
        curves=curves,
        mixture=mixture,
        watched=bool(watch),
    )


def _explained(folder: Path) -> list[tuple[Explained, Picture]]:
    entries = read_json(folder / "explain" / "index.json", list[Explained]) or []
    return [(entry, _panel(folder, entry.panel)) for entry in entries]


def _panel(folder: Path, name: str) -> Picture:
    try:
        path = path_inside(folder, name)
        return _png_picture(path.read_bytes())
    except (DataError, OSError) as error:
        return Picture(note=f"The panel {name} cannot be shown: {reason(error)}.")


def _examples(folder: Path, summary: RunSummary) -> dict[str, list[Example]]:
    """Right and wrong examples of the model, empty where there are no predictions."""
    predictions = read_optional(folder / "predictions" / f"{summary.split}.jsonl", Prediction)
    floor = read_optional(folder / "predictions" / f"{summary.split}_question_only.jsonl", Prediction)
    samples = read_optional(folder / "samples" / f"{summary.dataset}-{summary.split}.jsonl", VqaSample)
    floor_by_id = {prediction.sample_id: prediction for prediction in floor}
    image_by_id = {sample.sample_id: sample.image for sample in samples}
    right = [prediction for prediction in predictions if accuracy(prediction)]
    wrong = [prediction for prediction in predictions if not accuracy(prediction)]
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
        picture = thumbnail(image, side=THUMBNAIL_PIXELS)
    return Example(
        prediction=prediction,
        picture=picture,
        floor_answer=None if floor is None else floor.text,
        floor_correct=floor is not None and bool(accuracy(floor)),
    )


def _png_picture(content: bytes) -> Picture:
    return Picture(uri=data_uri(content, "image/png"))
