"""The results page as Markdown, for repositories and reviews."""

import math
from collections.abc import Iterable, Mapping, Sequence

import yaml

from radvqa.experiment.contents import Contents
from radvqa.experiment.effects import Difference, Effect, Level
from radvqa.experiment.measured import PARTS
from radvqa.experiment.wording import p_text
from radvqa.report.wording import percent, points


def markdown(contents: Contents, said: Sequence[str], *, figures: Mapping[str, str], command: str, method: str) -> str:
    """The whole page. ``figures``: file name to title."""
    experiment = contents.experiment
    total = len(experiment.cells) * len(experiment.seeds)
    blocks = [
        f"# {experiment.name}",
        experiment.question,
        f"{contents.finished} of {total} runs are finished: {len(experiment.cells)} cells, "
        f"{len(experiment.seeds)} seeds. Reference: {experiment.reference}. Research tool, not for clinical use.",
    ]
    if contents.missing:
        blocks += ["**Missing, and left out of every number below:**"]
        blocks.append("\n".join(f"- {one.cell}, seed {one.seed}: {one.why}" for one in contents.missing))
    blocks += ["## What follows", "\n".join(f"- {one}" for one in said), method]
    for table in contents.tables:
        blocks += [
            f"## {table.where}",
            f"{len(table.sample_ids):,} questions about {len(set(table.groups)):,} groups (images, cases or patients).",
            "### Accuracy in percent",
            _levels(contents.levels[table.where]),
        ]
        if some := [one for one in contents.effects if one.where == table.where]:
            blocks += [f"### Difference to {experiment.reference} in points", _effects(some)]
        controls = [one for one in contents.controls if one.where == table.where]
        if controls:
            blocks += [
                "### Floors and controls, all questions",
                "Gain: the model's accuracy minus this one, in points, over images, mean of the seeds. Over shuffled "
                "images it is what the cell owes to looking.",
                _table(
                    ("cell", "condition", "accuracy, %", "gain, points", "95 % interval"),
                    (
                        (one.cell, one.condition.replace("_", "-"), percent(one.mean), *_spelled(one.gain))
                        for one in controls
                    ),
                ),
            ]
    if figures:
        blocks += ["## Figures", *(f"![{title}]({name})" for name, title in figures.items())]
    blocks += [
        "## How it was made",
        f"```\n{command}\n```",
        _table(
            ("cell", "seed", "run folder", "started with", "code"),
            (
                (one.cell, str(one.seed), f"`{one.folder}`", "; ".join(f"`{c}`" for c in one.commands), one.code)
                for one in contents.origins
            ),
        ),
        f"```yaml\n{recipe_text(contents)}```",
    ]
    return "\n\n".join(blocks) + "\n"


def recipe_text(contents: Contents) -> str:
    """The recipe of the experiment as YAML."""
    values = contents.experiment.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=118)


def _levels(levels: Sequence[Level]) -> str:
    return _table(
        ("cell", "part", "mean", "95 % interval", "by seed", "questions", "groups"),
        (
            (
                one.cell,
                one.part,
                percent(one.mean),
                f"{percent(one.low)} to {percent(one.high)}",
                ", ".join(f"{seed}: {percent(value)}" for seed, value in one.by_seed.items()),
                f"{one.questions:,}",
                f"{one.groups:,}",
            )
            for one in levels
        ),
    )


def _effects(effects: Sequence[Effect]) -> str:
    ordered = sorted(effects, key=lambda one: PARTS.index(one.part))
    return _table(
        ("cell", "part", "difference", "over images and seeds", "over images alone", "by seed", "p", "p, Holm",
         "found with 80 % power from", "power at the margin"),
        (
            (
                one.cell,
                one.part,
                points(one.decisive.difference),
                _spelled(one.for_the_recipe)[1] if one.for_the_recipe else "one seed",
                _spelled(one.for_these_models)[1],
                ", ".join(f"{seed}: {points(value)}" for seed, value in one.by_seed.items()),
                p_text(one.decisive.p),
                p_text(one.adjusted_p),
                "n/a" if math.isnan(one.detectable) else f"{100 * one.detectable:.1f}",
                "n/a" if one.power is None else f"{100 * one.power:.0f} %",
            )
            for one in ordered
        ),
    )  # fmt: skip


def _spelled(found: Difference) -> tuple[str, str]:
    if math.isnan(found.low):
        return points(found.difference), "n/a"
    return points(found.difference), f"{points(found.low)} to {points(found.high)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
