"""The files of a run folder that the report is made from, validated."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from radvqa.errors import RunError
from radvqa.evaluate.metrics import HEADLINE
from radvqa.records import read_json

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
    states: Mapping[str, int] = field(default_factory=dict)


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

    def slice(self, tag: str, value: str) -> Slice | None:
        """The samples with this tag, or of this ``answer_type``; None if there are none."""
        return self.by_answer_type.get(value) if tag == "answer_type" else self.by_tag.get(tag, {}).get(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PValue:
    """As ``radvqa.evaluate.comparison.PValue``."""

    p: float | None = None
    adjusted: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Paired differences, reference minus condition. As ``radvqa.evaluate.comparison.Comparison``."""

    level: float
    samples: int
    groups: int
    overall: Mapping[str, Estimate]
    by_answer_type: Mapping[str, Mapping[str, Estimate]]
    p: Mapping[str, PValue] = field(default_factory=dict)

    def of(self, part: str, metric: str) -> Estimate:
        """The difference of a metric overall or for one answer type; undefined if there are no such samples."""
        found = self.overall if part == "overall" else self.by_answer_type.get(part, {})
        return found.get(metric, UNDEFINED)

    def adjusted_p(self, metric: str) -> float | None:
        """P of the difference over all samples, adjusted for the number of conditions; None if undefined."""
        return self.p.get(metric, PValue()).adjusted


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReliance:
    """``score``: accuracy on the real picture minus that on the control; ``changed``: share of other answers."""

    samples: int
    groups: int
    score: Estimate
    changed: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliance:
    """How much the answers depend on the picture. As ``radvqa.evaluate.controls.Reliance``."""

    control: str
    overall: PartReliance
    by_answer_type: Mapping[str, PartReliance] = field(default_factory=dict)

    def parts(self) -> list[tuple[str, PartReliance]]:
        """All samples as ``overall``, then each answer type."""
        return [("overall", self.overall), *self.by_answer_type.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """``summary.json``. ``condition`` names the reference that the comparisons start from."""

    split: str
    dataset: str
    condition: str
    conditions: Mapping[str, Scores]
    comparisons: Mapping[str, Differences]
    reliance: Mapping[str, Reliance] = field(default_factory=dict)
    limit: int | None = None
    layout: str | None = None
    prompt_id: str | None = None

    @property
    def reference(self) -> Scores:
        """The scores of the model on real images."""
        return self.conditions[self.condition]

    def difference(self, name: str) -> Estimate | None:
        """Accuracy of the model minus that of another condition, or None if that was not evaluated."""
        return self.comparisons[name].of("overall", HEADLINE) if name in self.comparisons else None


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
    """One entry of ``explain/index.json``. ``panel`` is a path inside the run folder.

    ``correct`` is None where there is no reference to tell by.
    """

    sample_id: str
    image_id: str
    question: str
    reference: str
    answer: str
    correct: bool | None
    panel: str
    methods: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def read_summary(path: Path) -> RunSummary:
    """The summary of a run. Raises ``RunError`` if there is none, or it is damaged."""
    summary = read_json(path, RunSummary)
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


def read_text(path: Path) -> str | None:
    """The content of a text file, or None if there is no such file."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


def recipe_values(recipe: str | None) -> Mapping[str, Any]:
    """What the text of a ``recipe.yaml`` says; empty without one. Raises ``RunError`` if it is not YAML."""
    try:
        values = yaml.safe_load(recipe or "")
    except yaml.YAMLError as error:
        raise RunError(
            "the run's recipe.yaml is not valid YAML",
            got=str(error).replace("\n", " "),
            fix="restore the file; `radvqa run` wrote it when the run began",
        ) from error
    return values if isinstance(values, dict) else {}


def stage_order(recipe: str | None) -> list[str]:
    """The names of the stages in a ``recipe.yaml``."""
    stages = recipe_values(recipe).get("stages") or []
    return [str(stage["name"]) for stage in stages if isinstance(stage, dict) and "name" in stage]
