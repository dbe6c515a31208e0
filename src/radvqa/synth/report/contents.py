"""The files in the folder of a synthesis that its page is made from, validated."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from radvqa.errors import RunError
from radvqa.records import read_json

Counts = Mapping[str, int]

_QUOTED_PATH = re.compile(r"""(?P<mark>['"])(?P<head>[^'"\n/]*?=)?/(?!/)(?:[^'"\n/]*/)*(?P<name>[^'"\n/]*)(?P=mark)""")
_PATH = re.compile(
    r"""(?:\bfile:/(?=//)|(?<![\w.:/~…<\])])|(?<=:)(?!//))/+(?:[^\s/'",;:=<>]+/+)*(?P<name>[^\s/'",;:=<>]+)/?"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorFacts:
    """What wrote the pairs. ``prompts`` counts pairs by ``id@version``."""

    backend: str
    model: str
    model_digest: str
    sampling: Mapping[str, float]
    prompts: Counts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionCounts:
    """What was asked about. ``source``: adapter, licence, citation and homepage of the captions."""

    source: Mapping[str, str]
    read: int
    rejected: Counts
    not_drawn: int
    asked: int
    failed: Counts
    with_a_kept_pair: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCounts:
    """Pairs before and after screening; shares are None where nothing could be counted."""

    candidates: int
    kept: int
    kept_share: float | None
    kept_per_caption: float | None
    by_rule_added_negatives: int
    dialogues: int
    splits: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCounts:
    """What became of one slot."""

    candidates: int
    kept: int
    empty: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenCounts:
    """What one screen saw and failed; ``failed_alone`` are pairs that no other screen failed."""

    seen: int
    failed: int
    failed_alone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YesNo:
    """Yes/no answers."""

    pairs: int
    yes: int
    yes_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Yes/no answers of all candidates, and of the pairs that were kept."""

    candidates: YesNo
    kept: YesNo


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Exact match of an answerer that never sees a picture, 0 to 1; None where undefined."""

    exact_match: float | None
    yes_no: float | None
    open: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Of texts, in words."""

    median: int | None
    mean: float | None
    longest: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributions:
    """How kept pairs are spread."""

    content_type: Counts
    basis: Counts
    modality: Counts
    answers: Counts
    different_answers: int
    question_words: Lengths
    answer_words: Lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthSummary:
    """``summary.json``, as ``radvqa.synth.summary`` writes it."""

    generator: GeneratorFacts
    captions: CaptionCounts
    pairs: PairCounts
    slots: Mapping[str, SlotCounts]
    empty_slots: Counts
    screens: Mapping[str, ScreenCounts]
    reasons: Counts
    yes_no: Balance
    floor: Floor
    distributions: Distributions


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """``account.json``: what asking took; None where it is not known."""

    requests: int
    replies: int
    replies_cut: int
    failures: Counts
    attempts: int
    prompt_tokens: int | None
    completion_tokens: int | None
    replies_without_usage: int
    seconds: float
    wall_seconds: float | None
    latency_seconds: Mapping[str, float | None]
    cost: float | None
    price_per_million_prompt_tokens: float | None
    price_per_million_completion_tokens: float | None


def read_summary(path: Path) -> SynthSummary:
    """The summary of a synthesis.

    Raises:
        RunError: there is none, or it is damaged.
    """
    summary = read_json(path, SynthSummary)
    if summary is None:
        raise RunError(
            "the synthesis has no summary to report",
            where=str(path),
            expected="summary.json, which a finished synthesis has",
            got="no such file",
            fix="run `radvqa synth RECIPE` again; it goes on where it stopped",
        )
    return summary


def read_recipe(path: Path) -> tuple[str, Mapping[str, Any]]:
    """The text of ``recipe.yaml`` and what it says; ``""`` and nothing without one.

    Raises:
        RunError: it is not YAML.
    """
    if not path.is_file():
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunError(
            "the recipe of the synthesis is not valid YAML",
            where=str(path),
            got=" ".join(str(error).split())[:200],
            fix="restore the file; `radvqa synth` wrote it when the synthesis began",
        ) from error
    return text, values if isinstance(values, dict) else {}


def without_folders(text: str) -> str:
    """The text with every absolute path cut to its last part: folders of a machine are nobody's business on a page.

    >>> without_folders("radvqa synth /home/me/a.yaml --set generator.url=http://localhost:8000/v1")
    'radvqa synth …/a.yaml --set generator.url=http://localhost:8000/v1'
    """
    text = _QUOTED_PATH.sub(lambda found: f"{found['mark']}{found['head'] or ''}…/{found['name']}{found['mark']}", text)
    return _PATH.sub(lambda found: f"…/{found['name']}", text)


def flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as rows of dotted key and text, without the folders of absolute paths."""
    if isinstance(values, Mapping) and values:
        return [
            row for key, value in values.items() for row in flat(value, f"{prefix}.{_plain_text(str(key))}".lstrip("."))
        ]
    if not prefix:
        return []
    if isinstance(values, list | tuple):
        return [(prefix, " ".join(map(_plain, values)) or "none")]
    return [(prefix, _plain(values))]


def _plain(value: Any) -> str:
    if value is None or value in ({}, [], ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _plain_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _plain_text(text: str) -> str:
    """A value that is a path as a whole may hold blanks, which tell nothing within a sentence."""
    path = PurePosixPath(text)
    if path.is_absolute() and "\n" not in text and "://" not in text:
        return f"…/{path.name}"
    return without_folders(text)
