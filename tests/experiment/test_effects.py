"""Effects between cells: two sources of variance, adjusted p values, and words that do not say more than they show."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from radvqa.evaluate.mrmc import obuchowski_rockette
from radvqa.evaluate.paired import paired_t
from radvqa.evaluate.power import minimal_detectable_effect
from radvqa.evaluate.statistics import score_interval
from radvqa.experiment.contents import Control
from radvqa.experiment.effects import effects, levels, reliance, slopes
from radvqa.experiment.estimates import Effect
from radvqa.experiment.measured import Measured
from radvqa.experiment.wording import claim_text, conclusion, floor_sentences, no_line_sentence, trend_sentence

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


def one(
    table: Measured,
    *,
    part: str = "all",
    margin: float | None = None,
    planned: Sequence[int] | None = None,
) -> Effect:
    seeds = planned or sorted({seed for _, seed in table.scores})
    found = effects([table], ["a", "b"], reference="b", seeds=seeds, splits=1, margin=margin)
    return next(each for each in found if each.part == part and each.cell == "a")


def answered(right: Mapping[tuple[str, int], Sequence[float]], groups: Sequence[str]) -> Measured:
    """Exactly these answers."""
    return Measured(
        where="slake val",
        sample_ids=tuple(f"q{i}" for i in range(len(groups))),
        groups=tuple(groups),
        closed=np.ones(len(groups), dtype=bool),
        scores={key: {"model": np.array(value, dtype=float)} for key, value in right.items()},
    )


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
    effect = one(dataclasses.replace(table, scores=without))
    assert effect.seeds == (1, 3)
    nothing = dataclasses.replace(table, scores={})
    assert effects([nothing], ["a", "b"], reference="b", seeds=[1], splits=1) == []


def test_p_values_are_adjusted_over_the_cells_and_splits_of_a_part() -> None:
    rates = {"a": 0.6, "b": 0.5, "c": 0.55}
    tables = [measured(rates, seeds=2), measured(rates, seeds=2, where="vqa_rad val")]
    found = [each for each in _all(tables, splits=2) if each.part == "open"]
    assert len(found) == 4
    smallest = min(found, key=lambda each: each.decisive.p)
    assert smallest.adjusted_p == pytest.approx(min(4 * smallest.decisive.p, 1.0))
    assert all(each.adjusted_p >= each.decisive.p for each in found)


def test_unfinished_comparisons_count_in_the_adjustment() -> None:
    table = measured({"a": 0.6, "b": 0.5}, seeds=3)
    alone = one(table)
    among = next(each for each in _all([table], splits=2) if each.part == "all")
    assert (alone.comparisons, among.comparisons) == (1, 4)
    assert among.adjusted_p == pytest.approx(min(4 * alone.adjusted_p, 1.0))


def test_power_is_that_of_the_adjusted_test() -> None:
    table = measured({"a": 0.6, "b": 0.5}, seeds=3)
    found = next(each for each in _all([table], splits=1, margin=0.05) if each.part == "all")
    error, df = found.decisive.standard_error, found.decisive.df
    assert found.detectable == pytest.approx(minimal_detectable_effect(error, df=df, level=1 - 0.05 / 2))
    alone = one(table, margin=0.05)
    assert found.detectable > alone.detectable
    assert found.power is not None
    assert alone.power is not None
    assert found.power < alone.power
    assert "At 2.5 %, for 2 comparisons, the power" in conclusion(found, margin=0.05)


def test_answers_without_spread_prove_nothing() -> None:
    keys = [(cell, seed) for cell in "ab" for seed in (1, 2)]
    two = one(answered({key: [float(key[0] == "a")] * 2 for key in keys}, ["x", "y"]), margin=0.05)
    assert two.for_the_recipe is not None
    assert two.for_the_recipe.low < 0
    assert not two.shown
    assert "it needs 6 groups (images, cases or patients), and there are 2" in conclusion(two, margin=0.05)
    groups = [f"image{i}" for i in range(40)]
    opposite = one(answered({key: [float(key[0] == "a")] * 40 for key in keys}, groups), margin=0.05)
    same = one(answered({key: [i % 2 for i in range(40)] for key in keys}, groups), margin=0.05)
    for effect in (opposite, same):
        assert effect.for_the_recipe is not None
        assert effect.for_the_recipe.high > effect.for_the_recipe.low
        assert (effect.withheld, effect.shown, effect.within_margin) == ("spread", False, None)
        assert "so there is no spread to judge it by" in conclusion(effect, margin=0.05)
        assert "ruled out" not in conclusion(effect, margin=0.05)


def test_images_and_seeds_are_never_surer_than_images_alone() -> None:
    table = measured({"a": 0.6, "b": 0.5}, seeds=1)
    thrice = dataclasses.replace(table, scores={(c, s): table.scores[c, 1] for c in "ab" for s in (1, 2, 3)})
    for part in ("all", "closed", "open"):
        effect = one(thrice, part=part)
        narrow, wide = effect.for_these_models, effect.for_the_recipe
        assert wide is not None
        assert wide.low <= narrow.low
        assert wide.high >= narrow.high
        assert wide.p >= narrow.p
        assert wide.standard_error >= narrow.standard_error


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
    slope = next(each for each in slopes(table, at, seeds=(1, 2, 3, 4)) if each.part == "all")
    means = [np.mean([table.scores[cell, seed]["model"].mean() for seed in (1, 2, 3, 4)]) for cell in at]
    assert slope.decisive.difference == pytest.approx(100 * np.polyfit(list(at.values()), means, 1)[0])
    assert slope.decisive.low > 0
    said = trend_sentence(slope, "share", at)
    assert "from a (0) to c (100). A straight line rises" in said
    assert "unadjusted p" in said


def test_a_line_names_the_cells_it_rests_on() -> None:
    table = measured({"a": 0.3, "b": 0.7}, seeds=3)
    at = {"a": 0.0, "b": 50.0, "c": 100.0}
    slope = slopes(table, at, seeds=(1, 2, 3))[0]
    said = trend_sentence(slope, "share", at)
    assert slope.withheld == "interim"
    assert "from a (0) to b (50)" in said
    assert "Interim: no claim. Cells that are not finished: c." in said
    assert "rises" not in said
    two = trend_sentence(slopes(measured({"a": 0.3, "c": 0.7}, seeds=2), {"a": 0, "c": 100}, seeds=(1, 2))[0], "x", at)
    assert "A straight line through these trained models rises" in two
    assert "Two seeds do not allow a claim about the recipe" in two


def test_why_there_is_no_line() -> None:
    table = measured({"a": 0.3, "b": 0.7}, seeds=2)
    at = {"a": 0.0, "missing": 1.0}
    assert slopes(table, at, seeds=(1, 2)) == []
    assert no_line_sentence(table, "share", at).endswith("on slake val: only a of it is finished.")
    apart = dataclasses.replace(table, scores={key: table.scores[key] for key in (("a", 1), ("b", 2))})
    at = {"a": 0.0, "b": 1.0}
    assert slopes(apart, at, seeds=(1, 2)) == []
    assert "its cells have no seed in common yet (a: 1; b: 2)" in no_line_sentence(apart, "share", at)


def test_reliance_is_the_gain_over_shuffled_images() -> None:
    found = reliance(measured({"a": 0.8, "b": 0.5}, seeds=2), "a", "shuffled", seeds=(1, 2))
    assert found is not None
    assert 0.5 < found.gain.difference < 0.7
    assert reliance(measured({"a": 0.8, "b": 0.5}, seeds=2), "a", "blank", seeds=(1, 2)) is None


def test_floors_are_told_of_all_cells() -> None:
    table = measured({"a": 0.8, "b": 0.02, "c": 0.8}, seeds=2)

    def said(cells: Sequence[str], known: Sequence[str], planned: Sequence[int] = (1, 2)) -> str:
        some = []
        for cell in known:
            found = reliance(table, cell, "shuffled", seeds=planned)
            assert found is not None
            some.append(Control(where="slake val", cell=cell, condition="shuffled", mean=0.2, found=found))
        return floor_sentences(some, cells)[1]

    assert "every cell beats it" in said("ac", "ac")
    assert "beats it: a; not measured: c" in said("ac", "a")
    assert "beats it: a; falls behind: b" in said("ab", "ab")
    assert "beats it: a, c; falls behind: b; not measured: d" in said("abcd", "abc")
    assert "every cell: interim, no claim" in said("ac", "ac", planned=(1, 2, 3))
    assert "unadjusted" in said("ac", "ac")


def test_the_words_follow_the_interval() -> None:
    clear = one(measured({"a": 0.8, "b": 0.4}, seeds=3), margin=0.05)
    said = conclusion(clear, margin=0.05)
    assert clear.shown
    assert "a is better here" in said
    assert "It is larger than the margin of 5 points" in said
    alike = one(measured({"a": 0.5, "b": 0.5}, seeds=3), margin=0.05)
    said = conclusion(alike, margin=0.05)
    assert not alike.shown
    assert "No difference is shown; that is no proof of sameness" in said
    assert "better" not in said
    assert "worse" not in said
    assert f"from {100 * alike.detectable:.1f} points on" in said


def test_one_seed_is_said_to_be_one() -> None:
    said = conclusion(one(measured({"a": 0.9, "b": 0.3}, seeds=1)), margin=None)
    assert "The one model of a is better than the one of b" in said
    assert "One seed: this is about these trained models" in said


def test_two_seeds_make_no_claim_about_the_recipe() -> None:
    effect = one(measured({"a": 0.8, "b": 0.4}, seeds=2, noise=0.02))
    said = conclusion(effect, margin=None)
    assert effect.decisive is effect.for_these_models
    assert effect.shown
    assert claim_text(effect) == "these trained models"
    assert "a is better here" not in said
    assert "The two models of a are on average better than those of b" in said
    assert "Two seeds do not allow a claim about the recipe, only about these trained models." in said
    assert "Over images and seeds: " in said
    assert f"By seed: 1: +{100 * effect.by_seed[1]:.1f}, 2: +" in said


def test_nothing_is_claimed_while_a_seed_is_missing() -> None:
    table = measured({"a": 0.8, "b": 0.4}, seeds=3)
    assert one(table).shown
    waiting = one(table, planned=(1, 2, 3, 4), margin=0.05)
    said = conclusion(waiting, margin=0.05)
    assert not waiting.shown
    assert "Interim: no claim. Seeds that are finished for both: 1, 2, 3." in said
    for word in ("better", "ruled out", "larger", "power"):
        assert word not in said


def test_a_part_is_read_by_itself() -> None:
    table = measured({"a": 0.8, "b": 0.4}, seeds=3)
    assert "not adjusted across the parts: read it by itself" in conclusion(one(table, part="open"), margin=None)
    assert "by itself" not in conclusion(one(table), margin=None)


def test_a_hint_is_no_finding() -> None:
    base = one(measured({"a": 0.6, "b": 0.5}, seeds=1))
    found = base.for_these_models._replace(p=0.03, low=0.01, high=0.2)
    hint = dataclasses.replace(base, for_these_models=found, adjusted_p=0.15)
    assert not hint.shown
    assert "this is a hint, no finding" in conclusion(hint, margin=None)


def test_nearly_equal_cells_within_a_margin_are_said_to_be_so() -> None:
    table = measured({"a": 0.5, "b": 0.5}, seeds=3)
    scores = {(cell, seed): table.scores["b", seed] for cell in "ab" for seed in (1, 2, 3)}
    for seed, place in ((1, 4), (2, 17), (3, 30)):
        column = scores["a", seed]["model"].copy()
        column[place] = 1 - column[place]
        scores["a", seed] = {"model": column}
    effect = one(dataclasses.replace(table, scores=scores), margin=0.05)
    assert effect.within_margin
    assert not math.isnan(effect.detectable)
    assert "5 points or more is ruled out (two one-sided tests at 5 %)" in conclusion(effect, margin=0.05)


def _all(tables: Sequence[Measured], *, splits: int, margin: float | None = None) -> list[Effect]:
    seeds = sorted({seed for table in tables for _, seed in table.scores})
    return effects(tables, ["a", "b", "c"], reference="b", seeds=seeds, splits=splits, margin=margin)
