import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from review_pairs import captions_of, made_pair, made_pairs
from statsmodels.stats import inter_rater
from statsmodels.stats.proportion import proportion_confint

from radvqa.synth.review import open_review
from radvqa.synth.review.decisions import Decision
from radvqa.synth.review.figures import cohen_kappa, figures, gwet_ac1, stratified, wilson

TABLE = [[40, 5], [4, 1]]


@pytest.fixture
def review(tmp_path):
    pairs = made_pairs()
    return open_review(tmp_path, pairs, captions_of(pairs), size=40, seed=0)


def decide(review, reader, judge):
    """One decision of a reader for every item of which ``judge`` gives a verdict."""
    for item in review.queue.items:
        verdict = judge(review.pairs[item.sample_id])
        if verdict:
            review.decisions.append(
                Decision(
                    sample_id=item.sample_id,
                    reader=reader,
                    verdict=verdict,
                    reasons=("not_visible",) if verdict == "reject" else (),
                    question="q" if verdict == "edit" else "",
                    answer="a" if verdict == "edit" else "",
                    seconds=10.0,
                )
            )


def tables(least=1):
    return (
        st.integers(2, 4)
        .flatmap(lambda n: st.lists(st.lists(st.integers(0, 40), min_size=n, max_size=n), min_size=n, max_size=n))
        .filter(lambda table: sum(map(sum, table)) >= least)
    )


def test_no_figures_before_the_first_decision(review):
    assert figures(review) is None
    item = review.queue.items[0]
    review.decisions.append(Decision(sample_id=item.sample_id, reader="ana", verdict="accept"))
    assert figures(review).decided == 1
    review.decisions.append(Decision(sample_id=item.sample_id, reader="ana", verdict="withdraw"))
    assert figures(review) is None


def test_ac1_by_hand():
    # Agreed 41 / 50; the first verdict's mean share (45 + 44) / 100; chance 2 * 0.89 * 0.11 = 0.1958.
    assert gwet_ac1(TABLE).value == pytest.approx((0.82 - 0.1958) / (1 - 0.1958), abs=1e-12)
    assert cohen_kappa(TABLE).value == pytest.approx(0.0816, abs=1e-4)  # the same table: prevalence undoes kappa


@given(tables(least=5))
def test_ac1_interval_is_that_of_its_linearised_terms(table):
    # Gwet's handbook (4th ed., 2014) sums squares of one term per item, over n (n - 1); the paper of 2008 has n^2.
    found = gwet_ac1(table)
    counts = np.asarray(table, dtype=float)
    n, q = counts.sum(), len(counts)
    share = (counts.sum(0) + counts.sum(1)) / (2 * n)
    chance = (share * (1 - share)).sum() / (q - 1)
    terms = []
    for row in range(q):
        for column in range(q):
            agreed = (float(row == column) - chance) / (1 - chance)
            own = ((1 - share[row]) + (1 - share[column])) / 2 / (q - 1)
            terms += [agreed - 2 * (1 - found.value) * (own - chance) / (1 - chance)] * int(counts[row, column])
    error = math.sqrt(np.square(np.asarray(terms) - found.value).sum()) / n
    if found.low is None:
        assert error < 1e-6
    else:
        assert found.high == pytest.approx(min(found.value + 1.959964 * error, 1.0), abs=1e-6)
        assert found.low == pytest.approx(max(found.value - 1.959964 * error, -1.0), abs=1e-6)


@given(tables())
def test_kappa_is_that_of_statsmodels(table):
    found = cohen_kappa(table)
    if found.value is None:
        assert sum(bool(sum(row)) for row in table) == 1
        return
    with np.errstate(all="ignore"):
        theirs = inter_rater.cohens_kappa(np.asarray(table))
    assert found.value == pytest.approx(theirs.kappa, abs=1e-9)
    if found.low is None:
        assert theirs.var_kappa < 1e-9
    else:
        assert found.low == pytest.approx(max(theirs.kappa_low, -1), abs=1e-6)
        assert found.high == pytest.approx(min(theirs.kappa_upp, 1), abs=1e-6)


def test_undefined_agreement_is_none_and_says_why():
    for table in ([[0, 0], [0, 0]], [[30, 0], [0, 0]]):
        kappa = cohen_kappa(table)
        assert (kappa.value, kappa.low, kappa.high) == (None, None, None)
        assert kappa.note
    assert gwet_ac1([[0, 0], [0, 0]]).value is None
    full = gwet_ac1([[30, 0], [0, 0]])
    assert (full.value, full.low) == (1.0, None)
    assert "no spread" in full.note


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_that_of_statsmodels(counts):
    assert wilson(*counts) == pytest.approx(proportion_confint(*counts, method="wilson"), abs=1e-9)


def test_stratified_by_hand():
    value, low, high = stratified([900, 100], [18, 5], [20, 10])
    assert value == pytest.approx(0.9 * 0.9 + 0.1 * 0.5)
    variance = 0.81 * 0.9 * 0.1 / 19 + 0.01 * 0.25 / 9
    effective = value * (1 - value) / variance * (2.045230 / 2.048407) ** 2  # t of 29 and 28 degrees of freedom
    from_statsmodels = proportion_confint(value * effective, effective, method="beta")
    assert (low, high) == pytest.approx(from_statsmodels, abs=1e-4)


def test_stratified_says_when_it_does_not_know():
    value, low, high = stratified([10, 30], [1, 0], [1, 1])
    assert value == 0.25
    assert math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="judged"):
        stratified([10, 30], [1, 0], [1, 0])


@pytest.mark.parametrize(("hits", "value"), [((20, 10), 1.0), ((0, 0), 0.0)])
def test_all_alike_is_not_certainty(hits, value):
    found, low, high = stratified([900, 100], hits, [20, 10])
    assert found == pytest.approx(value)
    assert low < high
    assert high - low > 0.05
    assert (high if value else low) == pytest.approx(value)
    # Kish: most weight lies on the 20 items, so 30 count as 1 / (0.9^2 / 20 + 0.1^2 / 10) = 24.1 only.
    effective = 24.096386 * (2.045230 / 2.048407) ** 2
    limit = 0.025 ** (1 / effective)
    assert (low if value else 1 - high) == pytest.approx(limit, abs=1e-4)


@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(1, 30), st.floats(0, 1)), min_size=2, max_size=8),
)
def test_stratified_limits_hold_the_value(strata):
    sizes, decided = [one[0] for one in strata], [one[1] for one in strata]
    value, low, high = stratified(sizes, [round(one[1] * one[2]) for one in strata], decided)
    assert 0 <= value <= 1
    assert math.isnan(low) or -1e-9 <= low <= value + 1e-9 <= high + 2e-9 <= 1 + 3e-9


def test_coverage_of_the_stratified_interval():
    rng = np.random.default_rng(5)
    sizes, decided, true = [800, 150, 50], [30, 12, 8], np.array([0.9, 0.7, 0.3])
    target = float((np.array(sizes) / 1000 * true).sum())
    covered = values = 0.0
    for _ in range(400):
        value, low, high = stratified(
            sizes, [int(rng.binomial(n, p)) for n, p in zip(decided, true, strict=True)], decided
        )
        covered += low <= target <= high
        values += value
    assert values / 400 == pytest.approx(target, abs=0.01)
    assert covered / 400 > 0.93


def test_the_overall_rate_weighs_the_strata(review):
    decide(review, "ana", lambda pair: "reject" if pair.slot == "no" or pair.reason else "accept")
    found = figures(review)
    # 6 of 60 kept pairs are of slot "no", although a larger part of the queue is.
    assert found.kept.accepted.value == pytest.approx(0.9)
    queue_share = found.kept.accepted.hits / found.kept.accepted.decided
    assert queue_share == 25 / 28  # 3 of 28, where 2.8 would be in proportion
    assert found.everything.accepted.value == pytest.approx(54 / 90)
    assert found.removed.accepted.value == 0.0
    assert found.kept.accepted.low < 0.9 < found.kept.accepted.high


def test_screens_that_are_too_strict(review):
    decide(review, "ana", lambda pair: "edit" if pair.reason == "licence" else "reject")
    found = {one.name: one for one in figures(review).screens}
    assert set(found) == {"licence", "leak"}
    assert (found["licence"].usable.value, found["licence"].accepted.value) == (1.0, 0.0)
    assert found["leak"].usable.value == 0.0
    rate = found["licence"].usable
    assert (rate.method, (rate.low, rate.high)) == ("Wilson", wilson(rate.decided, rate.decided))
    assert found["licence"].size == 23 and found["licence"].drawn == rate.decided


def test_rates_by_slot_and_basis(review):
    decide(review, "ana", lambda pair: "accept" if pair.basis == "fact" else "reject")
    found = figures(review)
    assert {one.name: one.accepted.value for one in found.slots} == {"modality": 1.0, "finding": 0.0, "no": 0.0}
    assert {one.name: one.accepted.value for one in found.bases} == {"fact": 1.0, "caption": 0.0, "absent": 0.0}
    assert all(one.accepted.decided == one.drawn for one in found.slots)


def test_a_slot_of_several_strata_is_weighted(tmp_path):
    pairs = [made_pair(number, basis="caption" if number < 90 else "model") for number in range(100)]
    review = open_review(tmp_path, pairs, captions_of(pairs), size=12, seed=0, rejected_share=0)
    decide(review, "ana", lambda pair: "accept" if pair.basis == "caption" else "reject")
    (slot,) = figures(review).slots
    assert slot.accepted.value == pytest.approx(0.9)
    assert slot.accepted.hits / slot.accepted.decided != pytest.approx(0.9)
    assert "Korn-Graubard" in slot.accepted.method


def test_what_is_not_known_is_none(review):
    decide(review, "ana", lambda pair: "accept" if pair.slot == "modality" and not pair.reason else None)
    found = figures(review)
    assert (found.removed.accepted.value, found.removed.accepted.low) == (None, None)
    assert found.removed.accepted.note == "no such pair was judged yet"
    assert found.kept.accepted.covered == pytest.approx(0.6)
    assert {one.name: one.accepted.value for one in found.slots} == {"modality": 1.0, "finding": None, "no": None}
    assert found.agreements == ()
    assert any("one reader only" in note for note in found.notes)
    assert any("not judged yet" in note for note in found.notes)


def test_no_removed_pairs_at_all(tmp_path):
    pairs = made_pairs(removed=0)
    review = open_review(tmp_path, pairs, captions_of(pairs), size=20)
    decide(review, "ana", lambda _: "accept")
    removed = figures(review).removed
    assert (removed.accepted.value, removed.accepted.covered) == (None, None)
    assert removed.accepted.note == "there is no such pair"


def test_kinds_that_were_not_to_be_drawn(tmp_path):
    pairs = made_pairs()
    review = open_review(tmp_path, pairs, captions_of(pairs), size=20, rejected_share=0)
    decide(review, "ana", lambda _: "accept")
    found = figures(review)
    assert found.everything.accepted.covered == pytest.approx(60 / 90)
    assert any("30 pairs" in note for note in found.notes)


def test_an_item_counts_if_all_readers_agree_to_it(review):
    decide(review, "ana", lambda _: "accept")
    decide(review, "ben", lambda pair: "reject" if pair.slot == "modality" and not pair.reason else "edit")
    found = figures(review)
    assert found.kept.accepted.value == 0.0
    assert found.kept.usable.value == pytest.approx(0.4)
    ana, ben = found.readers
    assert (ana.accepted.value, ben.accepted.value, ben.usable.value) == (1.0, 0.0, pytest.approx(0.4))
    assert ben.verdicts == {"accept": 0, "edit": ben.decided - found.reasons["not_visible"], "reject": 17}
    assert ana.median_seconds == 10.0


def test_agreement_and_disagreements(review):
    flips = iter(range(1000))
    decide(review, "ana", lambda pair: "reject" if pair.reason else "accept")
    decide(review, "ben", lambda pair: ("reject", "edit", "accept", "accept")[next(flips) % 4])
    verdict, usable = figures(review).agreements
    assert (verdict.readers, verdict.scale, usable.scale) == (("ana", "ben"), "verdict", "usable")
    assert sum(map(sum, verdict.table)) == verdict.items == 40
    assert [sum(column) for column in zip(*verdict.table, strict=True)] == [20, 10, 10]
    assert [sum(row) for row in verdict.table] == [28, 0, 12]
    agreed = sum(verdict.table[place][place] for place in range(3))
    assert verdict.percent.value == agreed / 40
    assert usable.table == (
        (sum(verdict.table[0][:2]) + sum(verdict.table[1][:2]), verdict.table[0][2] + verdict.table[1][2]),
        (sum(verdict.table[2][:2]), verdict.table[2][2]),
    )
    disagreements = figures(review).disagreements
    assert len(disagreements) == 40 - agreed
    assert all(one.verdicts["ana"] != one.verdicts["ben"] for one in disagreements)


def test_three_readers_give_three_pairs(review):
    for reader in ("ana", "ben", "cem"):
        decide(review, reader, lambda _: "accept")
    found = figures(review)
    assert [one.readers for one in found.agreements[::2]] == [("ana", "ben"), ("ana", "cem"), ("ben", "cem")]
    assert {one.kappa.value for one in found.agreements} == {None}
    assert {one.ac1.value for one in found.agreements} == {1.0}


def test_a_superseded_decision_does_not_count(review):
    decide(review, "ana", lambda _: "reject")
    decide(review, "ana", lambda _: "accept")
    found = figures(review)
    assert found.everything.accepted.value == 1.0
    assert found.readers[0].reasons == {}


def test_decisions_about_other_pairs_are_left_out_and_told(review):
    review.decisions.append(Decision(sample_id="elsewhere", reader="ana", verdict="reject", reasons=("leaks_answer",)))
    assert figures(review) is None
    decide(review, "ana", lambda _: "accept")
    found = figures(review)
    assert (found.decided, found.reasons) == (40, {})
    assert any("1 pairs that are not in the queue" in note for note in found.notes)


def test_the_figures_are_json(review):
    decide(review, "ana", lambda _: "accept")
    decide(review, "ben", lambda _: "edit")
    again = json.loads(json.dumps(figures(review).as_dict(), allow_nan=False))
    assert again["kept"]["accepted"]["value"] == 0.0
    assert again["agreements"][0]["categories"] == ["accept", "edit", "reject"]
