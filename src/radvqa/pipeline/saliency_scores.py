"""From maps and priors of single questions to scores against the regions asked about; nothing here asks a model."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from radvqa.explain.localisation import (
    Localisation,
    auprc_elsewhere,
    exclusion,
    fit_threshold,
    localisation_scores,
)
from radvqa.explain.measured import CHANCE, LABEL_ORACLE, Scored
from radvqa.explain.priors import PRIORS, Priors
from radvqa.explain.targets import question_labels
from radvqa.pipeline.saliency_targets import Aimed, body_part, modality
from radvqa.pipeline.saliency_work import Mapped

Grid = Float[np.ndarray, "r c"]


def thresholds_of(
    aimed: Sequence[Aimed],
    maps: Mapping[str, Mapping[str, Grid]],
    priors: Priors,
    *,
    trained_as: str,
    evaluated_as: str,
) -> dict[str, float | None]:
    """Row → the cut for ``iou_tuned``, from maps of training questions; None where no map of a row can be cut.

    Raises:
        DataError: the training questions are of the split that is evaluated.
    """
    cases: dict[str, list[tuple[Grid, Grid]]] = {}
    for one in aimed:
        found = {**maps[one.sample.sample_id]}
        found |= {name: _prior_map(priors, name, one) for name in PRIORS if name != CHANCE}
        for name, grid in found.items():
            cases.setdefault(name, []).append((grid, one.coverage))
    return {
        name: fit_threshold(some, fitted_on=trained_as, evaluated_on=evaluated_as)
        if any(exclusion(grid, coverage) is None and (grid > 0).any() for grid, coverage in some)
        else None
        for name, some in cases.items()
    }


def scored(
    one: Aimed,
    found: Mapped,
    priors: Priors,
    thresholds: Mapping[str, float | None],
    *,
    right: bool,
    specificity: Mapping[str, float | None],
    faithfulness: Mapping[str, Mapping[str, float]],
) -> Scored:
    """One question as a line for the table. ``specificity`` and ``faithfulness`` are of the few that have them."""
    rows = {}
    scores: dict[str, dict[str, float | None]] = {}
    for name, grid in found.maps.items():
        rows[name] = localisation_scores(grid, one.coverage, threshold=thresholds.get(name))
        scores[name] = _known(rows[name]) | {"auprc_elsewhere": _number(auprc_elsewhere(grid, one.coverage))}
    for name in PRIORS:
        rows[name] = priors.scores(
            name,
            one.coverage,
            body_part=body_part(one.sample),
            modality=modality(one.sample),
            labels=_labels(priors, name, one),
            threshold=thresholds.get(name),
            without=one.sample.image_id,
        )
        scores[name] = _known(rows[name])
    return Scored(
        sample_id=one.sample.sample_id,
        image_id=one.sample.image_id,
        area=float(one.coverage.mean()),
        reliance=found.reliance,
        scores=scores,
        excluded={name: row.excluded for name, row in rows.items() if row.excluded is not None},
        specificity={**found.specificity, **specificity},
        faithfulness=faithfulness,
        tags={**one.strata, "answer": "right" if right else "wrong"},
    )


def _prior_map(priors: Priors, name: str, one: Aimed) -> Grid:
    """The prior's map without what it knows of this image."""
    return priors.map(
        name,
        body_part=body_part(one.sample),
        modality=modality(one.sample),
        labels=_labels(priors, name, one),
        without=one.sample.image_id,
    )


def _labels(priors: Priors, name: str, one: Aimed) -> Sequence[str]:
    """What a prior is told: the oracle the labels of the target, all others what the question alone gives away."""
    if name == LABEL_ORACLE:
        return one.labels
    here = priors.labels(body_part=body_part(one.sample), modality=modality(one.sample))
    return question_labels(one.sample.question, priors.labels(), here=here)


def _known(found: Localisation) -> dict[str, float | None]:
    return {name: _number(value) for name, value in found.scores.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 9)
