"""What an evaluation of saliency maps holds: its metrics, the measured questions, the rows of its table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypedDict

METRICS: Final = {
    "hit": "pointing game: the strongest cell lies on the target",
    "hit@1": "the strongest cell lies on the target or next to it",
    "hit@2": "the strongest cell lies at most two cells from the target",
    "energy": "share of the map that lies on the target",
    "enrichment": "energy over the target's share of the picture; 1 is chance",
    "auprc": "area under the precision-recall curve of the cells",
    "auprc_elsewhere": "the same, mean over all places the map could be shifted to: its own chance level",
    "rra": "of the strongest cells, as many as the target has, the share on the target",
    "iou_otsu": "overlap with the target, map cut by Otsu's rule",
    "iou_tuned": "overlap with the target, map cut where it was best on training images",
    "iou_area": "overlap with the target, of the strongest cells, as many as the target has",
}
TESTED: Final = ("hit", "energy", "auprc")
BY_STRATUM: Final = ("hit", "enrichment", "auprc")
NEAR_ZERO_NATS: Final = 0.1
"""A smaller reliance changes the probability of an answer by a factor of about 1.1 at most."""
SAME_MAP: Final = 0.02
"""Below this total variation two maps count as the same."""
CHANCE: Final = "chance"
LABEL_PRIOR: Final = "label_prior"
LABEL_ORACLE: Final = "label_oracle"
"""The label prior of the target itself: not blind to the answer, so no method is tested against it."""
ORDERS: Final = ("random", "raster")
"""Orders of taking cells away that need no map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One question: the maps of its answer and the priors, measured against the region asked about.

    ``scores``: row of the table (method or prior) → metric → value, None where undefined. ``excluded``: row → why
    some or all of its scores are undefined (``localisation.EXCLUSIONS``). ``tags``: the strata that the question
    belongs to. ``specificity`` is of methods only; ``faithfulness``: method or order → number. ``reliance``: nats (see
    ``bundle.View``).
    """

    sample_id: str
    image_id: str
    area: float
    reliance: float
    scores: Mapping[str, Mapping[str, float | None]]
    excluded: Mapping[str, str] = field(default_factory=dict)
    specificity: Mapping[str, float | None] = field(default_factory=dict)
    faithfulness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Estimate(TypedDict):
    """A mean with its interval; None where undefined. ``images`` and ``questions`` are those that count."""

    mean: float | None
    low: float | None
    high: float | None
    images: int
    questions: int


class Row(TypedDict):
    """One method or prior, scored on so many ``questions``. ``excluded``: reason → questions."""

    kind: str
    questions: int
    metrics: dict[str, Estimate]
    excluded: dict[str, int]


class Difference(TypedDict):
    """A method minus a reference on the questions that both are scored on.

    ``low`` and ``high`` are at the level that Holm's method leaves to this comparison, so they exclude 0 just where
    ``adjusted_p`` tells a difference. ``verdict``: ``above``, ``below`` or ``""``. None where nothing was measured.
    """

    method: str
    reference: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    adjusted_p: float | None
    verdict: str
    images: int
    questions: int


class Reliance(TypedDict):
    """Of all questions, how many answers are hardly more (or less) probable with the image than without."""

    questions: int
    near_zero: float | None
    near_zero_nats: float
    median: float | None


class Localisation(TypedDict):
    """The whole table. ``strata``: stratum → value → row → metric. ``faithfulness``: method or order → number."""

    questions: int
    images: int
    level: float
    median_area: float | None
    rows: dict[str, Row]
    differences: list[Difference]
    strata: dict[str, dict[str, dict[str, dict[str, Estimate]]]]
    faithfulness: dict[str, dict[str, Estimate]]
    reliance: Reliance


class MeanLikeness(TypedDict):
    """Mean rank correlation and structural similarity to the real map; None where no pair of maps defines them."""

    spearman: float | None
    ssim: float | None
    questions: int


class SanityRow(TypedDict):
    """One method, on so many questions. ``blocks``: randomised so far → likeness.

    ``survives_…``: the map hardly changes all the same; None where no pair of maps could be compared.
    """

    questions: int
    blocks: dict[str, MeanLikeness]
    wrong_question: MeanLikeness
    wrong_image: MeanLikeness
    survives_weights: bool | None
    survives_question: bool | None
    survives_image: bool | None


class Sanity(TypedDict):
    """The sanity checks of all methods, on so many questions."""

    questions: int
    methods: dict[str, SanityRow]


class Evaluation(TypedDict):
    """``localisation.json``: what was measured, on what, and how.

    ``methods`` and ``priors``: name → what it is. ``left_out``: why questions take no part → how many.
    ``thresholds``: row → share of a map's maximum at which it is cut for ``iou_tuned``, found on ``tuned_on`` training
    questions; None where none was found. ``priors_fitted_on``: training targets.
    """

    subject: str
    dataset: str
    split: str
    weights: str
    seed: int
    limit: int | None
    grid: tuple[int, int]
    methods: dict[str, str]
    priors: dict[str, str]
    left_out: dict[str, int]
    thresholds: dict[str, float | None]
    tuned_on: int
    priors_fitted_on: int
    faithfulness_questions: int
    table: Localisation
    sanity: Sanity | None
