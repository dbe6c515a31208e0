"""Effects between cells: two sources of variance, adjusted p values, and words that do not say more than they show."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from radvqa.evaluate.mrmc import obuchowski_rockette
from radvqa.evaluate.paired import paired_t
from radvqa.evaluate.statistics import score_interval
from radvqa.experiment.effects import Effect, effects, levels, reliance, slopes
from radvqa.experiment.measured import Measured
from radvqa.experiment.wording import conclusion, trend_sentence

QUESTIONS, GROUPS = 240, 40


def measured(rates: Mapping[str, float], *, seeds: int, where: str = "slake val", noise: float = 0.0) -> Measured:
    """Answers that are right with these rates; ``noise`` is the spread of the rate over seeds."""
    rng = np.random.default_rng(3)
    scores = {}
    for cell, rate in rates.items():
        for seed in range(1, seeds + 1):
            right = rng.random(QUESTIONS) < rate + noise * rng.standard_normal()
            scores[cell, seed] = {"model": right.astype(float), "shuffled": (rng.random(QUESTIONS) < 0.2).astype(float)}
    return Measured(
        where=where,
        sample_ids=tuple(f"q{i}" for i in range(QUESTIONS)),
        groups=tuple(f"image{i % GROUPS}" for i in range(QUESTIONS)),
        closed=np.arange(QUESTIONS) % 3 == 0,
        scores=scores,
    )


def one(table: Measured, *, part: str = "all", margin: float | None = None, cell: str = "a") -> Effect:
    found = effects([table], ["a", "b"], reference="b", margin=margin)
    return next(each for each in found if each.part == part and each.cell == cell)


def test_over_seeds_it_is_the_analysis_of_both_cells_scores() -> None:
    table = measured({"a": 0.6, "b": 0.5}, seeds=3, noise=0.05)
    scores = np.stack([[table.scores[cell, seed]["model"] for seed in (1, 2, 3)] for cell in ("a", "b")])
    expected = obuchowski_rockette(scores, table.groups, floor_at_cases=True).differences[0]
    effect = one(table)
    assert effect.for_the_recipe is not None
    for name in ("difference", "standard_error", "df", "p", "low", "high"):
        assert getattr(effect.for_the_recipe, name) == pytest.approx(getattr(expected, name), abs=1e-9), name
    assert effect.decisive is effect.for_the_recipe
    assert effect.by_seed[2] == pytest.approx(float((scores[0, 1] - scores[1, 1]).mean()))


def test_with_one_seed_it_is_the_clustered_paired_t_test() -> None:
    table = measured({"a": 0.7, "b": 0.5}, seeds=1)
    rows = table.closed
    groups = [group for group, kept in zip(table.groups, rows, strict=True) if kept]
    expected = paired_t(table.scores["a", 1]["model"][rows], table.scores["b", 1]["model"][rows], groups)
    effect = one(table, part="closed")
    assert effect.for_the_recipe is None
    assert (effect.for_these_models.difference, effect.for_these_models.p) == (expected.difference, expected.p)
    assert effect.questions == int(rows.sum())


def test_seeds_that_differ_widen_what_is_said_of_the_recipe() -> None:
    effect = one(measured({"a": 0.6, "b": 0.5}, seeds=4, noise=0.15))
    assert effect.for_the_recipe is not None
    narrow, wide = effect.for_these_models, effect.for_the_recipe
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_only_seeds_of_both_cells_are_paired() -> None:
    table = measured({"a": 0.6, "b": 0.5}, seeds=3)
    without = {key: value for key, value in table.scores.items() if key != ("b", 2)}
    effect = one(Measured(**{**_fields(table), "scores": without}))
    assert effect.seeds == (1, 3)
    assert effects([Measured(**{**_fields(table), "scores": {}})], ["a", "b"], reference="b") == []


def test_p_values_are_adjusted_over_the_cells_and_splits_of_a_part() -> None:
    rates = {"a": 0.6, "b": 0.5, "c": 0.55}
    tables = [measured(rates, seeds=2), measured(rates, seeds=2, where="vqa_rad val")]
    found = [each for each in effects(tables, ["a", "b", "c"], reference="b") if each.part == "open"]
    assert len(found) == 4
    smallest = min(found, key=lambda each: each.decisive.p)
    assert smallest.adjusted_p == pytest.approx(min(4 * smallest.decisive.p, 1.0))
    assert all(each.adjusted_p >= each.decisive.p for each in found)


def test_the_interval_of_a_cell_covers_that_over_images_alone() -> None:
    table = measured({"a": 0.6, "b": 0.5}, seeds=3, noise=0.1)
    level = next(each for each in levels(table, ["a"]) if each.part == "all")
    mean = np.mean([table.scores["a", seed]["model"] for seed in (1, 2, 3)], axis=0)
    narrow = score_interval(mean, table.groups)
    assert level.mean == pytest.approx(narrow.mean)
    assert level.low < narrow.low
    assert level.high > narrow.high
    perfect = measured({"a": 2.0, "b": 0.5}, seeds=2)
    assert next(each for each in levels(perfect, ["a"])).low < 1.0


def test_the_slope_is_the_change_over_the_whole_range() -> None:
    table = measured({"a": 0.3, "b": 0.5, "c": 0.7}, seeds=4)
    at = {"a": 0.0, "b": 50.0, "c": 100.0}
    slope = next(each for each in slopes(table, at) if each.part == "all")
    means = [np.mean([table.scores[cell, seed]["model"].mean() for seed in (1, 2, 3, 4)]) for cell in at]
    assert slope.change.difference == pytest.approx(100 * np.polyfit(list(at.values()), means, 1)[0])
    assert slope.change.low > 0
    assert "rises" in trend_sentence(slope, "share")
    assert slopes(table, {"a": 0.0, "missing": 1.0}) == []


def test_reliance_is_the_gain_over_shuffled_images() -> None:
    found = reliance(measured({"a": 0.8, "b": 0.5}, seeds=2), "a", "shuffled")
    assert found is not None
    assert 0.5 < found.difference < 0.7
    assert reliance(measured({"a": 0.8, "b": 0.5}, seeds=2), "a", "blank") is None


def test_the_words_follow_the_interval() -> None:
    clear = one(measured({"a": 0.8, "b": 0.4}, seeds=3), margin=0.05)
    said = conclusion(clear, margin=0.05, comparisons=1)
    assert clear.shown
    assert "a is better here" in said
    assert "It is larger than the margin of 5 points" in said
    alike = one(measured({"a": 0.5, "b": 0.5}, seeds=3), margin=0.05)
    said = conclusion(alike, margin=0.05, comparisons=1)
    assert not alike.shown
    assert "No difference is shown; that is no proof of sameness" in said
    assert "better" not in said
    assert "worse" not in said
    assert f"from {100 * alike.detectable:.1f} points on" in said


def test_one_seed_is_said_to_be_one() -> None:
    said = conclusion(one(measured({"a": 0.9, "b": 0.3}, seeds=1)), margin=None, comparisons=1)
    assert "One seed: this is about these two trained models" in said


def test_a_hint_is_no_finding() -> None:
    base = one(measured({"a": 0.6, "b": 0.5}, seeds=1))
    found = base.for_these_models._replace(p=0.03, low=0.01, high=0.2)
    hint = Effect(**{**_fields(base), "for_these_models": found, "adjusted_p": 0.15})
    assert not hint.shown
    assert "this is a hint, no finding" in conclusion(hint, margin=None, comparisons=5)


def test_equal_cells_within_a_margin_are_said_to_be_so() -> None:
    table = measured({"a": 0.5, "b": 0.5}, seeds=2)
    twin = Measured(**{**_fields(table), "scores": {(c, s): table.scores["b", s] for c in "ab" for s in (1, 2)}})
    effect = one(twin, margin=0.05)
    assert effect.decisive.difference == 0
    assert effect.within_margin
    assert math.isnan(effect.detectable)
    assert "5 points or more is ruled out" in conclusion(effect, margin=0.05, comparisons=1)


def _fields(value: Measured | Effect) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}
