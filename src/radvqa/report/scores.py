"""``scores.json`` and the files beside it, validated: what the evaluation sections of a page are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from radvqa.report.contents import Estimate, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """One mean with three intervals. As ``radvqa.evaluate.scoring.Intervals``."""

    wilson: Estimate | None
    clustered_t: Estimate
    bootstrap: Estimate
    design_effect: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolMetric:
    """What a peer's program would print, in percent."""

    value: float | None
    counted: int
    crashed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolScores:
    """The numbers of one protocol; ``headline`` names those that papers quote."""

    title: str
    metrics: Mapping[str, ProtocolMetric]
    headline: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceContrast:
    """A slice against all other answers. As ``radvqa.evaluate.scoring.SliceContrast``."""

    tag: str
    value: str
    samples: int
    groups: int
    mean: float
    rest: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers of like confidence."""

    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Whether confidence tells right from wrong. As ``radvqa.evaluate.calibration.Calibration``."""

    samples: int
    ece: Estimate
    brier: Estimate
    aurc: Estimate
    aurc_random: float
    aurc_best: float
    selective_accuracy: Mapping[str, Estimate]
    bins: tuple[Bin, ...]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Answers to paraphrases. As ``radvqa.evaluate.consistency.Consistency``."""

    sets: int
    questions: int
    left_out: int
    same_answer: Estimate
    all_right: Estimate
    any_right: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many answers there are, and how many in each state."""

    samples: int
    groups: int
    states: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFile:
    """``scores.json``. ``reading``: what ``radvqa score`` took for what, where that verb wrote it."""

    counts: Counts
    summary: Scores
    intervals: Mapping[str, Mapping[str, Intervals]]
    protocols: Mapping[str, ProtocolScores] = field(default_factory=dict)
    calibration: Calibration | None = None
    consistency: Consistency | None = None
    worst_slices: tuple[SliceContrast, ...] = ()
    file: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeExample:
    """One question of a probe beside the one it was made from."""

    sample_id: str
    question: str
    answer: str
    probe_question: str
    probe_answer: str
    wanted: str
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a probe found. As ``radvqa.evaluate.probes.result.ProbeResult``."""

    tests: str
    questions: int
    groups: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[ProbeExample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWith:
    """What the evaluated questions share with one training set; None where it was not compared."""

    samples: int
    images: int
    shared_pictures: int | None = None
    questions_on_them: int | None = None
    pictures: tuple[str, ...] = ()
    shared_groups: int = 0
    same_rows: int = 0
    rows: tuple[str, ...] = ()
    share_of_questions_seen: float | None = None
    share_of_open_answers_seen: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """``leaks.json``. ``ancestry``: what the base had learned from before, by name only."""

    compared_with: Mapping[str, SharedWith] = field(default_factory=dict)
    ancestry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether a picture, a group or a whole row of the questions was trained on."""
        return any(one.shared_pictures or one.shared_groups or one.same_rows for one in self.compared_with.values())
