"""The results page of an experiment: Markdown, one HTML file, JSON and pictures, from what is finished so far."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radvqa.experiment.contents import Contents, gather
from radvqa.experiment.estimates import Estimated, Level
from radvqa.experiment.figures import effect_figure, learning_figure, trend_figure
from radvqa.experiment.markdown import markdown, recipe_text
from radvqa.experiment.runs import results_folder
from radvqa.experiment.wording import (
    claim_text,
    conclusion,
    floor_sentences,
    no_line_sentence,
    p_text,
    shared_text,
    trend_sentence,
)
from radvqa.html import data_uri, page_environment
from radvqa.recipe import Experiment
from radvqa.records import write_bytes, write_json, write_text
from radvqa.report.wording import percent, points

METHOD = (
    "Accuracy is radvqa's own (docs/scoring.md); questions are paired. Two things would come out otherwise in a "
    "repetition: the images and the training seeds. With three or more common seeds, claims are about the recipe and "
    "rest on the model of Obuchowski and Rockette (1995) with Hillis's degrees of freedom (2007), in which seeds take "
    "the place of readers and images that of cases; it is never taken to be surer than over images alone. With one or "
    "two seeds, claims are about these trained models only and rest on a clustered paired t test over images. Nothing "
    "is claimed while a seed of a comparison is missing. p values are adjusted by Holm's method over all planned "
    "comparisons of the same part (all, closed, open), unfinished ones included; power and the difference that could "
    "be found are at 5 % divided by their number. Across the parts nothing is adjusted: read each by itself. Few seeds "
    "make the interval over images and seeds wide: that is not a defect of it."
)

UNGUARDED = (
    "evaluate.seen_pictures guards the split of recipe.evaluate alone. Questions under evaluate_on are not guarded: "
    "pictures of theirs may have been trained on. The table says how many."
)


def write_page(experiment: Experiment, *, command: str) -> tuple[Path, Contents]:
    """Write ``results.md``, ``results.html``, ``results.json`` and the pictures; the Markdown's path, and what it says.

    Cells that are not finished are named as missing. ``command``: as typed, kept on the page.

    Raises:
        DataError: runs have answered different questions, or a file of theirs is damaged.
        RunError: the results folder cannot be written.
    """
    contents = gather(experiment)
    folder = results_folder(experiment)
    figures = _figures(contents)
    for name, (_, content) in figures.items():
        write_bytes(folder / name, content)
    titles = {name: title for name, (title, _) in figures.items()}
    said = sentences(contents)
    write_json(folder / "results.json", as_json(contents, said))
    write_text(
        folder / "results.md",
        markdown(contents, said, figures=titles, command=command, method=METHOD, unguarded=UNGUARDED),
    )
    pictures = [{"title": title, "uri": data_uri(content, "image/png")} for title, content in figures.values()]
    environment = page_environment("experiment")
    environment.filters |= {
        "percent": percent, "points": points, "p_text": p_text, "claim_text": claim_text, "shared_text": shared_text,
    }  # fmt: skip
    page = environment.get_template("results.html").render(
        contents=contents,
        experiment=experiment,
        said=said,
        pictures=pictures,
        recipe=recipe_text(contents),
        command=command,
        method=METHOD,
        unguarded=UNGUARDED,
    )
    write_text(folder / "results.html", page)
    return folder / "results.md", contents


def sentences(contents: Contents) -> list[str]:
    """What the experiment shows: every cell against the reference on all questions, and the trend."""
    margin, trend = contents.experiment.margin, contents.experiment.trend
    said = [conclusion(one, margin=margin) for one in contents.effects if one.part == "all"]
    said = said or ["Nothing can be said yet: the reference and another cell must be finished with the same seed."]
    if trend is not None:
        drawn = {one.where: one for one in contents.slopes if one.part == "all"}
        said += [
            trend_sentence(drawn[table.where], trend.label, trend.at)
            if table.where in drawn
            else no_line_sentence(table, trend.label, trend.at)
            for table in contents.tables
        ]
    return said + floor_sentences(contents.controls, list(contents.experiment.cells))


def as_json(contents: Contents, said: list[str]) -> dict[str, Any]:
    """``results.json``: every number of the page; undefined ones are null."""
    experiment = contents.experiment
    values = {
        "experiment": experiment.name,
        "question": experiment.question,
        "reference": experiment.reference,
        "margin": experiment.margin,
        "seeds": list(experiment.seeds),
        "finished": contents.finished,
        "missing": [dataclasses.asdict(one) for one in contents.missing],
        "conclusions": said,
        "levels": {where: [dataclasses.asdict(one) for one in some] for where, some in contents.levels.items()},
        "effects": [
            {
                **_estimated(one),
                "shown": one.shown,
            }
            for one in contents.effects
        ],
        "trend": [_estimated(one) for one in contents.slopes],
        "controls": [
            {**dataclasses.asdict(one), "found": {**dataclasses.asdict(one.found), "gain": one.found.gain._asdict()}}
            for one in contents.controls
        ],
        "shared": [dataclasses.asdict(one) for one in contents.shared],
        "runs": [dataclasses.asdict(one) for one in contents.origins],
    }
    result: dict[str, Any] = _plain(values)
    return result


def _estimated(one: Estimated) -> dict[str, Any]:
    return {
        **dataclasses.asdict(one),
        "seeds": one.seeds,
        "for_these_models": one.for_these_models._asdict(),
        "for_the_recipe": one.for_the_recipe._asdict() if one.for_the_recipe else None,
        "claim": claim_text(one),
    }


def _figures(contents: Contents) -> dict[str, tuple[str, bytes]]:
    """File name to title and PNG."""
    experiment, found = contents.experiment, {}
    for number, table in enumerate(contents.tables):
        some = [one for one in contents.effects if one.where == table.where]
        suffix = f"-{number + 1}" if number else ""
        if some:
            title = f"Against {experiment.reference}, {table.where}"
            found[f"effects{suffix}.png"] = (title, effect_figure(some, title=title, margin=experiment.margin))
        if experiment.trend is not None and _drawable(contents.levels[table.where], experiment.trend.at):
            title = f"Accuracy over “{experiment.trend.label}”, {table.where}"
            picture = trend_figure(contents.levels[table.where], experiment.trend.at, label=experiment.trend.label)
            found[f"trend{suffix}.png"] = (title, picture)
    if any(one.losses or one.watched for one in contents.courses):
        found["learning.png"] = ("How the runs learned", learning_figure(contents.courses))
    return found


def _drawable(levels: list[Level], at: Mapping[str, float]) -> bool:
    return any(one.cell in at for one in levels)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
