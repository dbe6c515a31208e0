"""``scores.json`` and the files beside it, validated: what the evaluation sections of a page are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """What the evaluated questions share with one set; None where it was not compared.

    ``kind``: ``trained_on``, or ``own_train`` for the data set's train split, which need not be trained on.
    """

    samples: int
    images: int
    kind: Literal["trained_on", "own_train"] | None = None
    shared_pictures: int | None = None
    questions_on_them: int | None = None
    pictures: tuple[str, ...] = ()
    shared_groups: int = 0
    same_rows: int | None = None
    rows: tuple[str, ...] = ()
    share_of_questions_seen: float | None = None
    share_of_open_answers_seen: float | None = None

    @property
    def found(self) -> bool | None:
        """Whether a picture, a group or a whole row is in both; None where pictures were not compared."""
        if self.shared_pictures or self.shared_groups or self.same_rows:
            return True
        return None if self.shared_pictures is None else False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """``leaks.json``. ``ancestry``: what the base had learned from before, by name only."""

    compared_with: Mapping[str, SharedWith] = field(default_factory=dict)
    ancestry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained_on(self) -> bool:
        """Whether any compared set is known to be trained on."""
        return any(one.kind == "trained_on" for one in self.compared_with.values())

    @property
    def found_in_training(self) -> bool:
        """Whether something of the questions is in a set that is known to be trained on."""
        return any(one.found for one in self.compared_with.values() if one.kind == "trained_on")

    @property
    def found_in(self) -> tuple[str, ...]:
        """The sets, trained on or not, with something of the questions."""
        return tuple(name for name, one in self.compared_with.items() if one.found)

    @property
    def not_compared(self) -> tuple[str, ...]:
        """The sets whose pictures were not compared."""
        return tuple(name for name, one in self.compared_with.items() if one.shared_pictures is None)
