"""The table of measured maps on planted scores: what must be told apart is, what is left out is counted."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from radvqa.evaluate.multiplicity import holm
from radvqa.explain.evaluation import localisation_table, reliance_of
from radvqa.explain.localisation import auprc_elsewhere, chance_scores, localisation_scores
from radvqa.explain.measured import TESTED, Localisation, Scored

Grid = Float[np.ndarray, "r c"]
METHODS = ("oracle", "noise", "constant")
PRIORS = ("chance", "label_prior")


def target(rng: np.random.Generator) -> Grid:
    """A block of four cells somewhere on a grid of eight by eight."""
    coverage = np.zeros((8, 8))
    row, column = rng.integers(0, 7, size=2)
    coverage[row : row + 2, column : column + 2] = 1.0
    return coverage


def planted(images: int = 24, per_image: int = 2) -> list[Scored]:
    rng = np.random.default_rng(3)
    cases = []
    for image in range(images):
        coverage = target(rng)
        prior = 0.25 * coverage + rng.random((8, 8))  # sees something of the place
        for question in range(per_image):
            maps: Mapping[str, Grid] = {
                "oracle": coverage + 0.01 * rng.random((8, 8)),
                "noise": rng.random((8, 8)),
                "constant": np.ones((8, 8)),
                "label_prior": prior,
            }
            found = {name: localisation_scores(grid, coverage, threshold=0.5) for name, grid in maps.items()}
            found = {
                name: replace(one, scores={**one.scores, "auprc_elsewhere": auprc_elsewhere(maps[name], coverage)})
                for name, one in found.items()
            }
            found["chance"] = chance_scores(coverage)
            cases.append(
                Scored(
                    sample_id=f"{image}-{question}",
                    image_id=str(image),
                    area=float(coverage.mean()),
                    reliance=0.01 if question else 2.0,
                    scores={
                        name: {key: None if np.isnan(value) else value for key, value in one.scores.items()}
                        for name, one in found.items()
                    },
                    excluded={name: one.excluded for name, one in found.items() if one.excluded is not None},
                    specificity={"oracle": 0.5},
                    tags={"answer": "right" if question else "wrong", "modality": "CT" if image % 3 else "MRI"},
                )
            )
    return cases


@pytest.fixture(scope="module")
def table() -> Localisation:
    return localisation_table(
        planted(), methods=METHODS, priors=PRIORS, strata=("answer", "modality"), resamples=400, seed=1
    )


def verdicts(table: Localisation, reference: str, metric: str) -> dict[str, str]:
    return {
        one["method"]: one["verdict"]
        for one in table["differences"]
        if one["reference"] == reference and one["metric"] == metric
    }


def test_a_map_that_is_the_target_beats_the_label_prior_and_noise_does_not(table: Localisation) -> None:
    assert table["rows"]["oracle"]["metrics"]["hit"]["mean"] == 1.0
    for metric in ("hit", "energy", "auprc"):
        assert verdicts(table, "label_prior", metric)["oracle"] == "above"
        assert verdicts(table, "chance", metric)["oracle"] == "above"
        assert verdicts(table, "chance", metric)["noise"] == ""
    assert verdicts(table, "label_prior", "auprc")["noise"] == "below"


def test_a_perfect_score_claims_no_certainty(table: Localisation) -> None:
    hit = table["rows"]["oracle"]["metrics"]["hit"]
    assert hit["low"] == pytest.approx(0.025 ** (1 / 24))
    assert hit["high"] == 1.0
    area = table["rows"]["chance"]["metrics"]["energy"]
    assert (area["low"], area["high"]) == (0.0625, 0.0625)


def test_a_constant_map_is_left_out_and_counted(table: Localisation) -> None:
    row = table["rows"]["constant"]
    assert row["excluded"] == {"constant_map": 48}
    assert row["metrics"]["hit"]["mean"] is None
    assert row["metrics"]["hit"]["questions"] == 0
    assert {one["p"] for one in table["differences"] if one["method"] == "constant"} == {None}
    assert set(verdicts(table, "chance", "hit").values()) == {"above", ""}


@pytest.mark.parametrize("metric", ["hit", "energy", "auprc"])
def test_p_values_are_adjusted_within_a_metric(table: Localisation, metric: str) -> None:
    known = [one for one in table["differences"] if one["metric"] == metric and one["p"] is not None]
    assert len(known) == 4
    assert [one["adjusted_p"] for one in known] == holm([one["p"] for one in known if one["p"] is not None])
    for one in known:
        assert one["low"] is not None
        assert one["high"] is not None
        excludes = one["low"] > 0 or one["high"] < 0
        assert excludes == bool(one["verdict"]), one


def test_the_image_is_the_unit() -> None:
    once = planted(images=12, per_image=1)
    copied = [replace(case, sample_id=f"{case.sample_id}-{copy}") for case in once for copy in range(9)]
    few, many = (
        localisation_table(cases, methods=("noise",), priors=("chance",), resamples=400) for cases in (once, copied)
    )
    for metric in ("energy", "auprc"):
        one, other = few["rows"]["noise"]["metrics"][metric], many["rows"]["noise"]["metrics"][metric]
        assert (one["low"], one["high"]) == pytest.approx((other["low"], other["high"]))
        assert (one["images"], other["images"]) == (12, 12)
        assert (one["questions"], other["questions"]) == (12, 108)


def test_strata_hold_their_own_questions(table: Localisation) -> None:
    assert {name: one["oracle"]["hit"]["questions"] for name, one in table["strata"]["answer"].items()} == {
        "right": 24,
        "wrong": 24,
    }
    assert table["strata"]["modality"]["MRI"]["oracle"]["hit"]["images"] == 8


def test_a_map_is_compared_with_itself_elsewhere() -> None:
    rng = np.random.default_rng(0)
    coverage = np.zeros((4, 5))
    coverage[1, 1:3] = (1.0, 0.3)
    grid = rng.random((4, 5)).round(1)  # with ties
    shifted = [np.roll(grid, (row, column), (0, 1)) for row in range(4) for column in range(5)]
    expected = np.mean([localisation_scores(one, coverage).scores["auprc"] for one in shifted])
    assert auprc_elsewhere(grid, coverage) == pytest.approx(expected)
    assert np.isnan(auprc_elsewhere(grid, np.zeros((4, 5))))
    assert np.isnan(auprc_elsewhere(np.ones((4, 5)), coverage))


def smooth_noise(rng: np.random.Generator) -> Grid:
    return np.asarray(gaussian_filter(rng.random((16, 16)), 2.5, mode="wrap"))


def test_smooth_noise_is_not_above_chance() -> None:
    rng = np.random.default_rng(7)
    scores: list[dict[str, dict[str, float | None]]] = []
    for _ in range(300):
        coverage = np.zeros((16, 16))
        row, column = rng.integers(0, 11, size=2)
        coverage[row : row + 5, column : column + 5] = 1.0
        grid = smooth_noise(rng)
        found = {**localisation_scores(grid, coverage).scores, "auprc_elsewhere": auprc_elsewhere(grid, coverage)}
        chance = chance_scores(coverage).scores
        scores.append({"noise": _defined(found), "chance": _defined(chance)})
    cases = [
        Scored(sample_id=str(place), image_id=str(place), area=0.1, reliance=1.0, scores=one)
        for place, one in enumerate(scores)
    ]
    table = localisation_table(cases, methods=("noise",), priors=("chance",), resamples=50)
    assert {metric: verdicts(table, "chance", metric)["noise"] for metric in TESTED} == dict.fromkeys(TESTED, "")
    # The mean over random orders of single cells is no reference: smooth noise is above it.
    auprc = table["rows"]["noise"]["metrics"]["auprc"]["mean"]
    orders = [localisation_scores(rng.random((16, 16)), coverage).scores["auprc"] for _ in range(200)]
    assert auprc is not None
    assert auprc > 1.1 * np.mean(orders)


def _defined(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in scores.items()}


def test_an_interval_includes_0_where_the_adjusted_test_shows_nothing() -> None:
    """Six comparisons: one clear, one that fails at its own step, the others just below the level they would have."""
    rng = np.random.default_rng(1)
    images = 40
    noise = rng.standard_normal(images)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    shifts = {"clear": 8.0, "b": 2.3, "c": 2.25, "d": 2.2, "e": 2.15, "f": 2.1}  # as t values
    cases = [
        Scored(
            sample_id=str(place),
            image_id=str(place),
            area=0.1,
            reliance=1.0,
            scores={name: {"hit": t / images**0.5 + noise[place]} for name, t in shifts.items()}
            | {"chance": {"hit": 0.0}},
        )
        for place in range(images)
    ]
    table = localisation_table(cases, methods=tuple(shifts), priors=("chance",), resamples=50)
    found = [one for one in table["differences"] if one["metric"] == "hit"]
    assert [one["verdict"] for one in found] == ["above", "", "", "", "", ""]
    for one in found:
        assert one["low"] is not None
        assert one["p"] is not None
        assert one["p"] < 0.05
        assert (one["low"] > 0) == bool(one["verdict"]), one


def test_what_was_not_measured_has_no_difference(table: Localisation) -> None:
    constant = [one for one in table["differences"] if one["method"] == "constant"]
    assert {(one["difference"], one["questions"], one["verdict"]) for one in constant} == {(None, 0, "")}


def test_specificity_is_of_methods_only(table: Localisation) -> None:
    assert table["rows"]["oracle"]["metrics"]["specificity"]["mean"] == 0.5
    assert table["rows"]["noise"]["metrics"]["specificity"]["mean"] is None
    assert "specificity" not in table["rows"]["label_prior"]["metrics"]


def test_faithfulness_is_of_methods_and_orders_that_were_measured() -> None:
    cases = planted(images=6)
    cases[0] = replace(cases[0], faithfulness={"oracle": {"gap": 0.4}, "random": {"gap": 0.0}, "answer": {"all": -1.0}})
    cases[3] = replace(cases[3], faithfulness={"oracle": {"gap": 0.2}, "noise": {}})
    found = localisation_table(cases, methods=("oracle", "noise"), priors=PRIORS, resamples=50)["faithfulness"]
    assert list(found) == ["oracle", "noise", "random"]
    assert found["oracle"]["gap"]["mean"] == pytest.approx(0.3)
    assert found["oracle"]["gap"]["questions"] == 2
    assert found["noise"] == {}


def test_answers_that_do_not_need_the_image_are_counted(table: Localisation) -> None:
    assert table["reliance"]["near_zero"] == 0.5
    assert reliance_of([0.09, -0.09, 0.11, -0.11, float("nan")])["near_zero"] == 0.5
    assert reliance_of([])["near_zero"] is None


def test_one_image_has_no_interval() -> None:
    found = localisation_table(planted(images=1), methods=METHODS, priors=PRIORS, resamples=50)
    assert found["rows"]["oracle"]["metrics"]["hit"]["low"] is None
    assert not any(one["verdict"] for one in found["differences"])
