"""The results page as Markdown, for repositories and reviews."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import yaml

from radvqa.experiment.contents import Contents
from radvqa.experiment.estimates import Difference, Effect, Level
from radvqa.experiment.measured import PARTS
from radvqa.experiment.wording import claim_text, p_text, shared_text
from radvqa.report.wording import percent, points


def markdown(
    contents: Contents, said: Sequence[str], *, figures: Mapping[str, str], command: str, method: str, unguarded: str
) -> str:
    """The whole page. ``figures``: file name to title; ``unguarded``: what is said of further splits."""
    experiment = contents.experiment
    total = len(experiment.cells) * len(experiment.seeds)
    blocks = [
        f"# {plain(experiment.name)}",
        plain(experiment.question),
        f"{contents.finished} of {total} runs are finished: {len(experiment.cells)} cells, "
        f"{len(experiment.seeds)} seeds. Reference: {plain(experiment.reference)}.",
        "Research tool, not for clinical use.",
    ]
    if contents.missing:
        blocks += ["**Missing, and left out of every number below:**"]
        blocks.append("\n".join(f"- {plain(one.cell)}, seed {one.seed}: {plain(one.why)}" for one in contents.missing))
    blocks += ["## What follows", "\n".join(f"- {plain(one)}" for one in said), plain(method)]
    for table in contents.tables:
        blocks += [
            f"## {plain(table.where)}",
            f"{len(table.sample_ids):,} questions about {len(set(table.groups)):,} groups (images, cases or patients).",
            "### Accuracy in percent",
            "Cells with different seeds are compared in the next table only, over the seeds that both have.",
            _levels(contents.levels[table.where], experiment.seeds),
        ]
        if some := [one for one in contents.effects if one.where == table.where]:
            blocks += [f"### Difference to {plain(experiment.reference)} in points", _effects(some)]
        controls = [one for one in contents.controls if one.where == table.where]
        if controls:
            blocks += [
                "### Floors and controls, all questions",
                "Gain: the model's accuracy minus this one, in points, over images, mean of the seeds. Over shuffled "
                "images it is what the cell owes to looking. Intervals are unadjusted.",
                _table(
                    ("cell", "condition", "seeds", "accuracy, %", "gain, points", "95 % interval"),
                    (
                        (
                            plain(one.cell),
                            one.condition.replace("_", "-"),
                            ", ".join(map(str, one.found.seeds)),
                            percent(one.mean),
                            *_spelled(one.found.gain),
                        )
                        for one in controls
                    ),
                ),
            ]
    if figures:
        blocks += ["## Figures", *(f"![{plain(title)}]({name})" for name, title in figures.items())]
    if contents.shared:
        blocks += ["## What the questions share with training"]
        blocks += [unguarded] if experiment.evaluate_on else []
        blocks.append(
            _table(
                ("cell", "seeds", "questions", "compared with", "shared"),
                (
                    (
                        plain(one.cell),
                        ", ".join(map(str, one.seeds)),
                        plain(one.where),
                        plain(one.against or "n/a"),
                        shared_text(one),
                    )
                    for one in contents.shared
                ),
            )
        )
    blocks += [
        "## How it was made",
        fenced(command),
        _table(
            ("cell", "seed", "run folder", "started with", "code"),
            (
                (
                    plain(one.cell),
                    str(one.seed),
                    code(one.folder),
                    "; ".join(map(code, one.commands)),
                    plain(one.code),
                )
                for one in contents.origins
            ),
        ),
        fenced(recipe_text(contents), "yaml"),
    ]
    return "\n\n".join(blocks) + "\n"


def plain(text: str) -> str:
    """Any text as one line of Markdown that shows it as it is: no markup, no HTML, no table cell or list of its own."""
    text = re.sub(r"([\\`*_\[\]<>&|~$#])", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)


def code(text: str) -> str:
    """Any text as a code span, fit for a table; one with a pipe as plain text, since tables cut code at pipes."""
    text = " ".join(text.split())
    if "|" in text or not text:
        return plain(text)
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """Any text as a block of code, whose fence is longer than any in it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def recipe_text(contents: Contents) -> str:
    """The recipe of the experiment as YAML."""
    values = contents.experiment.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=118)


def _levels(levels: Sequence[Level], planned: Sequence[int]) -> str:
    return _table(
        ("cell", "part", "mean", "95 % interval", "seeds", "by seed", "questions", "groups"),
        (
            (
                plain(one.cell),
                one.part,
                percent(one.mean),
                f"{percent(one.low)} to {percent(one.high)}",
                f"{len(one.by_seed)} of {len(planned)}",
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
        ("cell", "part", "difference", "over images and seeds", "over images alone", "by seed", "a claim is about",
         "p", "p, Holm", "found with 80 % power from, after adjustment", "power at the margin, after adjustment"),
        (
            (
                plain(one.cell),
                one.part,
                points(one.decisive.difference),
                _spelled(one.for_the_recipe)[1] if one.for_the_recipe else "one seed",
                _spelled(one.for_these_models)[1],
                ", ".join(f"{seed}: {points(value)}" for seed, value in one.by_seed.items()),
                claim_text(one),
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
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
