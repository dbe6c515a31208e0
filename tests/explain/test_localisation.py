import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from radvqa.errors import DataError, ModelError
from radvqa.explain.localisation import (
    EXCLUSIONS,
    SCORES,
    chance_scores,
    fit_threshold,
    localisation_scores,
    pointing_hit,
)  # fmt: skip

WITHOUT_THRESHOLD = [name for name in SCORES if name not in ("iou_tuned", "area", "enrichment")]


def grid(rows: str) -> np.ndarray:
    return np.array([[float(value) for value in row.split()] for row in rows.strip().split("/")])


TARGET = grid("1 1 0 0 / 1 1 0 0 / 0 0 0 0 / 0 0 0 0")

whole_targets = arrays.arrays(bool, st.tuples(st.integers(2, 6), st.integers(2, 6))).filter(
    lambda target: 0 < target.sum() <= target.size / 2
)


@settings(deadline=None)
@given(whole_targets)
def test_a_map_that_is_its_target_scores_one(target):
    coverage = target.astype(float)
    found = localisation_scores(3.0 * coverage, coverage, threshold=0.5)
    assert found.excluded is None
    assert {name: found.scores[name] for name in (*WITHOUT_THRESHOLD, "iou_tuned")} == pytest.approx(
        dict.fromkeys((*WITHOUT_THRESHOLD, "iou_tuned"), 1.0)
    )
    assert found.scores["enrichment"] == pytest.approx(1 / coverage.mean())


@settings(deadline=None)
@given(whole_targets)
def test_the_complement_of_a_target_scores_nothing(target):
    coverage = target.astype(float)
    scores = localisation_scores(1.0 - coverage, coverage, threshold=0.5).scores
    for name in ("hit", "energy", "enrichment", "rra", "iou_otsu", "iou_area", "iou_tuned"):
        assert scores[name] == 0.0, name
    assert scores["auprc"] == pytest.approx(scores["area"])


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float64, (4, 5), elements=st.floats(-10, 10).map(lambda value: round(value, 3))),
    arrays.arrays(np.float64, (4, 5), elements=st.floats(0, 1)),
    st.floats(1e-6, 1e6),
)
def test_scaling_a_map_changes_no_score(values, coverage, factor):
    one = localisation_scores(values, coverage, threshold=0.437)
    other = localisation_scores(values * factor, coverage, threshold=0.437)
    assert one.excluded == other.excluded
    assert one.scores == pytest.approx(other.scores, nan_ok=True, rel=1e-9)
    for name, value in one.scores.items():
        assert math.isnan(value) or name == "enrichment" or -1e-12 <= value <= 1 + 1e-12, name


def test_a_constant_map_is_degenerate_whatever_rounding_does_to_it():
    flat = np.full((4, 4), 1 / 16, dtype=np.float32)
    flat[1, 1] += 1e-8
    assert len(np.unique(flat)) == 2
    for values in (flat, np.zeros((4, 4)), -np.ones((4, 4))):
        found = localisation_scores(values, TARGET, threshold=0.5)
        assert found.excluded == "constant_map"
        assert {name for name, value in found.scores.items() if not math.isnan(value)} == {"area", "clipped"}


def test_an_empty_target_is_no_hit_and_no_miss():
    found = localisation_scores(np.eye(4), np.zeros((4, 4)))
    assert found.excluded == "no_target"
    assert math.isnan(found.scores["hit"])
    assert found.scores["area"] == 0.0


def test_a_target_below_half_a_cell_keeps_the_scores_that_need_no_whole_cells():
    coverage = np.zeros((4, 4))
    coverage[0, 0] = 0.5
    found = localisation_scores(np.eye(4), coverage)
    assert found.excluded == "target_below_half_a_cell"
    assert found.excluded in EXCLUSIONS
    assert found.scores["energy"] == pytest.approx(0.5 / 4)
    assert found.scores["enrichment"] == pytest.approx(4.0)
    assert found.scores["auprc"] == pytest.approx(0.125)
    for name in ("hit", "hit@1", "hit@2", "rra", "iou_otsu", "iou_area"):
        assert math.isnan(found.scores[name]), name


def test_ties_for_the_maximum_share_the_hit():
    values = grid("5 0 0 5 / 0 0 0 0 / 0 0 0 0 / 5 0 0 5")
    assert localisation_scores(values, TARGET).scores["hit"] == 0.25


def test_the_neighbourhood_reaches_diagonally_and_no_further():
    for place, expected in (((0, 0), (1, 1, 1)), ((2, 2), (0, 1, 1)), ((3, 3), (0, 0, 1))):
        values = np.zeros((5, 5))
        values[place] = 1.0
        coverage = np.zeros((5, 5))
        coverage[:2, :2] = 1.0
        scores = localisation_scores(values, coverage).scores
        assert (scores["hit"], scores["hit@1"], scores["hit@2"]) == expected
    values = np.zeros((5, 5))
    values[4, 0] = 1.0
    assert pointing_hit(values, coverage, radius=2) == 0.0


def test_values_worked_out_by_hand():
    values = grid("4 1 0 -2 / 3 0 0 0 / 2 0 0 0 / 0 0 0 0")
    scores = localisation_scores(values, TARGET, threshold=0.5).scores
    assert scores["energy"] == pytest.approx(8 / 10)
    assert scores["area"] == 0.25
    assert scores["enrichment"] == pytest.approx(3.2)
    assert scores["clipped"] == pytest.approx(2 / 12)
    assert scores["rra"] == pytest.approx(3 / 4)  # 4, 3, 2, 1
    assert scores["iou_area"] == pytest.approx(3 / 5)
    assert scores["iou_tuned"] == pytest.approx(2 / 5)  # 4, 3 and 2 of at least half the maximum
    # Ranks 1, 2 and 4 are positive; then eleven ties at 0 with one positive, before the negative value.
    assert scores["auprc"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 15) / 4)


def test_otsu_takes_the_upper_of_two_clusters():
    values = grid("9 8 1 0 / 8 9 0 1 / 0 1 0 0 / 0 1 0 9")
    assert localisation_scores(values, TARGET).scores["iou_otsu"] == pytest.approx(4 / 5)


def test_ties_at_the_cut_share_the_places_left():
    values = grid("9 9 1 1 / 1 1 1 1 / 1 1 1 1 / 1 1 1 1")
    # Two places are left for fourteen ties, two of which lie on the target.
    assert localisation_scores(values, TARGET).scores["rra"] == pytest.approx((2 + 2 * 2 / 14) / 4)


@settings(deadline=None)
@given(arrays.arrays(np.float64, (4, 5), elements=st.floats(0, 1)).filter(lambda one: one.sum() > 0.1))
def test_the_ranking_of_a_flat_map_is_worth_the_area(coverage):
    values = np.ones((4, 5))
    values[0, 0] = 1 + 1e-5  # just no longer constant
    found = localisation_scores(values, coverage).scores
    assert found["energy"] == pytest.approx(found["area"], rel=1e-3)
    rest = coverage.mean() * coverage.sum() - coverage.mean() * coverage[0, 0] + coverage[0, 0] ** 2
    assert found["auprc"] == pytest.approx(rest / coverage.sum())


def test_a_map_without_positive_values_still_has_an_order():
    scores = localisation_scores(TARGET - 1.0, TARGET, threshold=0.5).scores
    assert (scores["hit"], scores["rra"], scores["clipped"]) == (1.0, 1.0, 1.0)
    assert math.isnan(scores["energy"])
    assert math.isnan(scores["iou_tuned"])


def test_chance_is_the_mean_over_aimless_maps():
    rng = np.random.default_rng(0)
    coverage = np.clip(rng.random((4, 4)) - 0.2, 0.0, 1.0)
    maps = [localisation_scores(rng.random((4, 4)), coverage).scores for _ in range(1000)]
    chance = chance_scores(coverage).scores
    for name in ("energy", "hit@1", "hit@2", "rra"):
        assert np.mean([one[name] for one in maps]) == pytest.approx(chance[name], abs=0.04), name
    assert chance["hit"] == chance["energy"] == coverage.mean()


def test_the_threshold_is_the_best_of_the_cases_it_is_fitted_on():
    values = grid("10 7 5 0 / 8 6 0 5 / 0 0 0 0 / 0 0 0 0")
    found = fit_threshold([(values, TARGET), (np.ones((4, 4)), TARGET)], fitted_on="train", evaluated_on="val")
    assert found == 0.55  # 6 is in, 5 is out; the lowest of those that do it
    assert localisation_scores(values, TARGET, threshold=found).scores["iou_tuned"] == 1.0


def test_a_threshold_is_not_tuned_on_what_it_judges_nor_on_nothing():
    with pytest.raises(DataError, match="never tuned"):
        fit_threshold([(TARGET, TARGET)], fitted_on="val", evaluated_on="val")
    with pytest.raises(DataError, match="no case"):
        fit_threshold([(np.ones((4, 4)), TARGET)], fitted_on="train", evaluated_on="val")


def test_maps_and_targets_that_cannot_be_scored_are_refused():
    with pytest.raises(ModelError, match="shape"):
        localisation_scores(np.eye(3), TARGET)
    with pytest.raises(ModelError, match="finite"):
        localisation_scores(np.full((4, 4), math.nan), TARGET)
    with pytest.raises(DataError, match="share of a cell"):
        localisation_scores(np.eye(4), 2 * TARGET)
