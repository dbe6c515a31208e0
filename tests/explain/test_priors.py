import numpy as np
import pytest

from radvqa.errors import DataError
from radvqa.explain.localisation import localisation_scores
from radvqa.explain.priors import PRIORS, PriorCase, centre_hit, centre_map, fit_priors


def at(row: int, column: int, share: float = 1.0) -> np.ndarray:
    coverage = np.zeros((4, 4))
    coverage[row, column] = share
    return coverage


def case(image_id: str, label: str, coverage: np.ndarray, *, body_part: str = "Chest", modality: str = "CT"):
    return PriorCase(image_id=image_id, body_part=body_part, modality=modality, label=label, coverage=coverage)


CASES = [
    case("a", "Liver", at(0, 0)),
    case("b", "Liver", at(0, 1)),
    case("b", "Heart", at(0, 1)),
    case("c", "Liver", at(3, 3), modality="MRI"),
    case("d", "Mass", at(2, 2), body_part="Head", modality="MRI"),
]


def prior(name: str, *labels: str, body_part: str = "Chest", modality: str = "CT", without: str | None = None):
    return fit_priors(CASES).map(name, body_part=body_part, modality=modality, labels=labels, without=without)


def test_the_body_part_prior_is_the_mean_target_of_its_pictures():
    np.testing.assert_allclose(prior("body_part_prior", "Heart"), (at(0, 0) + 2 * at(0, 1)) / 3)


def test_the_label_prior_is_the_mean_of_its_label_in_one_modality():
    np.testing.assert_allclose(prior("label_prior", "liver"), (at(0, 0) + at(0, 1)) / 2)
    np.testing.assert_allclose(prior("label_prior", "Liver", "Heart"), (at(0, 0) + 3 * at(0, 1)) / 4)


def test_the_labels_of_a_kind_of_picture_are_known():
    priors = fit_priors(CASES)
    assert priors.labels() == ["liver", "heart", "mass"]
    assert priors.labels(body_part="Chest", modality="MRI") == ["liver"]
    assert priors.labels(body_part="Knee", modality="MRI") == ["liver", "heart", "mass"]


def test_the_oracle_is_the_label_prior_of_what_it_is_told():
    np.testing.assert_allclose(prior("label_oracle", "heart"), prior("label_prior", "heart"))


def test_a_picture_left_out_leaves_no_trace():
    np.testing.assert_allclose(prior("label_prior", "Liver", without="b"), at(0, 0))
    np.testing.assert_allclose(prior("body_part_prior", without="b"), at(0, 0))
    np.testing.assert_allclose(prior("label_prior", "Liver", without="none of these"), prior("label_prior", "Liver"))


def test_a_picture_left_out_leaves_no_rounding_error():
    shares = np.random.default_rng(0).random((6, 4, 4))
    shares[::2, :2] = 0.0  # the upper half is of one picture alone, in several labels
    cases = [case("b" if place % 2 else f"a{place}", f"{place}", one) for place, one in enumerate(shares)]
    found = fit_priors(cases).map("body_part_prior", body_part="Chest", modality="CT", labels=[], without="b")
    assert (found[:2] == 0.0).all()
    np.testing.assert_allclose(found, shares[::2].mean(0))


def test_what_was_never_seen_falls_back_to_a_wider_key():
    # Heart was seen in no MRI; without its only picture nor elsewhere.
    np.testing.assert_allclose(prior("label_prior", "Heart", modality="MRI"), at(0, 1))
    np.testing.assert_allclose(prior("label_prior", "Heart", without="b"), at(0, 0))
    np.testing.assert_allclose(prior("body_part_prior", body_part="Knee", modality="MRI"), (at(3, 3) + at(2, 2)) / 2)
    np.testing.assert_allclose(
        prior("body_part_prior", body_part="Knee", modality="US"), sum(one.coverage for one in CASES) / 5
    )


def test_a_prior_fitted_on_nothing_else_says_so():
    priors = fit_priors([case("a", "Liver", at(0, 0))])
    with pytest.raises(DataError, match="no picture to learn from"):
        priors.map("label_prior", body_part="Chest", modality="CT", labels=["Liver"], without="a")
    with pytest.raises(DataError, match="labelled regions"):
        fit_priors([])
    with pytest.raises(DataError, match="different grids"):
        fit_priors([case("a", "Liver", at(0, 0)), case("b", "Liver", np.zeros((2, 2)))])
    with pytest.raises(DataError, match="no such prior"):
        priors.map("label_prior", body_part="Chest", modality="CT", labels=[])


def test_every_row_is_scored_like_a_map():
    priors = fit_priors(CASES)
    for name in PRIORS:
        found = priors.scores(name, at(0, 0), body_part="Chest", modality="CT", labels=["Liver"])
        assert found.excluded is None
        assert found.scores["area"] == 1 / 16
        if name not in ("chance", "centre"):
            values = priors.map(name, body_part="Chest", modality="CT", labels=["Liver"])
            assert found.scores == pytest.approx(localisation_scores(values, at(0, 0)).scores, nan_ok=True)
    # Cells (0, 0) and (0, 1) tie in the label prior; more hearts lie at (0, 1).
    assert (
        priors.scores("label_prior", at(0, 0), body_part="Chest", modality="CT", labels=["Liver"]).scores["hit"] == 0.5
    )
    assert priors.scores("body_part_prior", at(0, 0), body_part="Chest", modality="CT", labels=[]).scores["hit"] == 0.0


def test_the_middle_is_one_place():
    np.testing.assert_array_equal(np.argwhere(centre_map((4, 4)) == 1.0), [[1, 1], [1, 2], [2, 1], [2, 2]])
    np.testing.assert_array_equal(np.argwhere(centre_map((3, 5)) == 1.0), [[1, 2]])
    half = np.zeros((4, 4))
    half[:, :2] = 1.0
    assert centre_hit(half) == 0.0
    half[1, 2] = 0.1
    assert centre_hit(half) == 1.0
    assert centre_hit(np.eye(3)) == 1.0
    found = fit_priors(CASES).scores("centre", half, body_part="Chest", modality="CT", labels=[])
    assert found.scores["hit"] == 1.0
    assert found.scores["hit@1"] == 1.0
