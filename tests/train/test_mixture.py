import tracemalloc
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from radvqa.errors import TrainError
from radvqa.recipe import parse_recipe
from radvqa.recipe.training import Anneal
from radvqa.train import mixture
from radvqa.train.mixture import Plan, Share, draws_allowed, row_of, row_order, shares

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mixtures.md"

GOLDEN = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1], [0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]]

weight = st.floats(0, 5, allow_subnormal=False)
share = st.builds(
    lambda shape, start, end, ends: Share(shape=shape, start=start, end=end, after=ends[0], until=ends[1]),
    st.sampled_from(["constant", "linear", "cosine", "step"]),
    weight,
    weight,
    st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)),
)


def linear(start, end, **ends):
    return Share(shape="linear", start=start, end=end, **ends)


def late(weight, after):
    return Share(shape="step", start=0.0, end=weight, after=after)


def plan(planned, *, most=None, sizes=None, batch_size=4, seed=0, **others):
    count = planned.shape[1]
    return Plan(
        planned,
        sizes=sizes or [50] * count,
        most=most or [None] * count,
        batch_size=batch_size,
        seed=seed,
        **others,
    )


def drawn_sources(some):
    return np.stack([some.slots(update)[0] for update in range(1, some.updates + 1)])


# Shares


@settings(deadline=None)
@given(st.lists(share, min_size=1, max_size=5), st.integers(1, 60))
def test_relative_weights_sum_to_one(weights, updates):
    assume(all(min(one.start, one.end) > 1e-6 for one in weights[:1]))
    planned = shares(weights, updates)
    assert planned.shape == (updates, len(weights))
    assert (planned >= 0).all()
    np.testing.assert_allclose(planned.sum(axis=1), 1, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(st.lists(share, min_size=1, max_size=4), st.integers(1, 60), st.data())
def test_one_source_gets_the_rest(weights, updates, data):
    most = sum(max(one.start, one.end) for one in weights) or 1.0
    scaled = [
        Share(shape=one.shape, start=one.start / most, end=one.end / most, after=one.after, until=one.until)
        for one in weights
    ]
    place = data.draw(st.integers(0, len(weights)))
    planned = shares([*scaled[:place], None, *scaled[place:]], updates)
    np.testing.assert_allclose(planned.sum(axis=1), 1, rtol=0, atol=1e-12)
    progress = np.arange(updates) / max(1, updates - 1)
    for stated, got in zip(scaled, np.delete(planned, place, axis=1).T, strict=True):
        np.testing.assert_allclose(got, stated.at(progress), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (Share.constant(0.3), [0.3, 0.3, 0.3, 0.3, 0.3]),
        (linear(0.0, 0.8), [0, 0.2, 0.4, 0.6, 0.8]),
        (linear(0.8, 0.0, after=0.5), [0.8, 0.8, 0.8, 0.4, 0]),
        (linear(0.2, 0.6, until=0.5), [0.2, 0.4, 0.6, 0.6, 0.6]),
        (Share(shape="cosine", start=0.0, end=1.0), [0, 0.1464466, 0.5, 0.8535534, 1]),
        (late(0.4, 0.75), [0, 0, 0, 0.4, 0.4]),
        (late(0.4, 0.76), [0, 0, 0, 0, 0.4]),
        (late(0.4, 0.0), [0.4, 0.4, 0.4, 0.4, 0.4]),
        (late(0.4, 1.0), [0, 0, 0, 0, 0.4]),
    ],
)
def test_shapes(one, expected):
    assert shares([one, None], 5)[:, 0] == pytest.approx(expected, abs=1e-7)


def test_a_single_update_is_at_the_start():
    assert shares([linear(0.25, 0.75), None], 1).tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize(
    ("weights", "what", "update"),
    [
        ([linear(0.1, 0.0), linear(0.2, 0.0)], "above 0", "update 5 of 5"),
        ([late(1.0, 0.5)], "above 0", "update 1 of 5"),
        ([linear(0.5, 1.0), Share.constant(0.3), None], "leave nothing for source 3", "update 3 of 5"),
        ([Share.constant(-0.1), None], "negative", "update 1 of 5"),
        ([None, None], "several sources", None),
    ],
)
def test_impossible_weights_are_refused(weights, what, update):
    with pytest.raises(TrainError, match=what) as error:
        shares(weights, 5)
    assert error.value.where == update


def test_weights_that_sum_to_one_but_for_rounding_leave_nothing():
    planned = shares([Share.constant(0.4), Share.constant(0.6 + 1e-12), None], 3)
    assert planned[:, 2].tolist() == [0, 0, 0]


# Draws


def one_by_one(planned, *, most, batch_size, seed):
    """The sources slot by slot, as the docstring of Plan tells it; None from where there is no source left."""
    numbers = np.random.Generator(np.random.Philox(key=seed)).random(len(planned) * batch_size)
    given = Counter()
    sources = []
    for slot, number in enumerate(numbers):
        row = planned[slot // batch_size]
        open_ = [
            share if limit is None or given[source] < limit else 0.0
            for source, (share, limit) in enumerate(zip(row, most, strict=True))
        ]
        if not sum(open_):
            return sources, slot
        bounds = list(accumulate(open_))
        source = bisect_right([bound / bounds[-1] for bound in bounds], number)
        given[source] += 1
        sources.append(source)
    return sources, None


@settings(deadline=None)
@given(
    st.lists(share, min_size=1, max_size=4),
    st.lists(st.one_of(st.none(), st.integers(1, 60)), min_size=4, max_size=4),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_draws_are_those_made_one_by_one(weights, most, updates, batch_size, seed):
    assume(min(weights[0].start, weights[0].end) > 1e-6)
    planned = shares(weights, updates)
    most = most[: len(weights)]
    expected, ended = one_by_one(planned, most=most, batch_size=batch_size, seed=seed)
    with mock.patch.object(mixture, "_CHUNK", 8), mock.patch.object(mixture, "_STRIDE", 4):  # borders everywhere
        if ended is not None:
            with pytest.raises(TrainError, match="runs out of rows") as error:
                plan(planned, most=most, batch_size=batch_size, seed=seed)
            assert error.value.where == f"update {ended // batch_size + 1} of {updates}"
            return
        found = plan(planned, most=most, batch_size=batch_size, seed=seed)
        assert drawn_sources(found).ravel().tolist() == expected
        given = Counter()
        for update in range(1, updates + 1):
            sources, ordinals = found.slots(update)
            for source, ordinal in zip(sources.tolist(), ordinals.tolist(), strict=True):
                assert ordinal == given[source]
                given[source] += 1
            assert found.drawn(update).tolist() == [given[source] for source in range(len(weights))]
    assert all(limit is None or given[source] <= limit for source, limit in enumerate(most))
    assert not found.drawn(0).any()


def test_draws_do_not_depend_on_how_they_are_made_up_in_parts():
    planned = shares([linear(0.9, 0.1), None, late(0.05, 0.3)], 9_000)
    most = [8_000, None, 300]
    whole = plan(planned, most=most)
    counts = [whole.drawn(update).tolist() for update in range(0, 9_001, 37)]
    with mock.patch.object(mixture, "_CHUNK", 96), mock.patch.object(mixture, "_STRIDE", 32):
        parts = plan(planned, most=most)
        assert [parts.drawn(update).tolist() for update in range(0, 9_001, 37)] == counts
    assert (parts._sources == whole._sources).all()
    assert whole.drawn(9_000)[[0, 2]].tolist() == [8_000, 300]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([1, 2, 4, 8]))
def test_any_order_and_any_split_over_ranks_gives_the_same_slots(random, ranks):
    planned = shares([linear(0.8, 0.2), None], 30)
    one, other = (plan(planned, batch_size=8) for _ in range(2))
    expected = {update: one.slots(update) for update in range(1, 31)}
    asked = [(update, rank) for update in expected for rank in range(ranks)]
    random.shuffle(asked)
    for update, rank in asked:
        part = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
        for got, all_of_it in zip(other.slots(update), expected[update], strict=True):
            assert (got[part] == all_of_it[part]).all()


def test_a_single_source_draws_its_rows_one_after_the_other():
    some = plan(shares([None], 700), batch_size=3)
    ordinals = np.concatenate([some.slots(update)[1] for update in range(1, 701)])
    assert ordinals.tolist() == list(range(2_100))
    assert some.drawn(700).tolist() == [2_100]
    assert some.passes(700).tolist() == [42.0]


def test_the_order_of_a_seed_stays_what_it_is():
    some = plan(shares([linear(0.0, 1.0), None], 4), batch_size=6, seed=5)
    assert drawn_sources(some).tolist() == GOLDEN
    assert drawn_sources(plan(some.planned, batch_size=6, seed=6)).tolist() != GOLDEN


@settings(deadline=None, max_examples=40)
@given(st.lists(share, min_size=2, max_size=4), st.integers(0, 2**32 - 1))
def test_counts_lie_within_binomial_bounds(weights, seed):
    assume(min(weights[0].start, weights[0].end) > 1e-6)
    planned = shares(weights, 1_000)
    counts = plan(planned, batch_size=8, seed=seed).drawn(1_000)
    assert counts.sum() == 8_000
    for count, expected in zip(counts, planned.mean(axis=0), strict=True):
        # Bounds so wide that none of the many examples falls outside by chance; sums of unlike draws vary even less.
        low, high = stats.binom.interval(1 - 1e-9, 8_000, min(expected, 1.0))
        assert low <= count <= high


@pytest.mark.parametrize(
    "weights",
    [
        [linear(0.9, 0.1), None],
        [Share(shape="cosine", start=0.1, end=0.6, after=0.2, until=0.7), Share.constant(0.2), None],
        [late(0.5, 0.8), Share.constant(0.25), None],
    ],
)
def test_counts_over_windows_follow_the_schedule(weights):
    planned = shares(weights, 6_000)
    some = plan(planned, batch_size=8, seed=1)
    edges = np.arange(0, 6_001, 300)
    seen = np.diff([some.drawn(edge) for edge in edges], axis=0)
    expected = np.add.reduceat(planned, edges[:-1], axis=0) * 8
    drawn = expected > 0
    statistic = ((seen - expected)[drawn] ** 2 / expected[drawn]).sum()
    free = (drawn.sum(axis=1) - 1).sum()
    assert stats.chi2.sf(statistic, free) > 0.001
    assert not seen[~drawn].any()


def test_over_many_seeds_the_counts_are_binomial():
    planned = shares([Share.constant(0.3), None], 250)
    counts = [int(plan(planned, batch_size=8, seed=seed).drawn(250)[0]) for seed in range(400)]
    assert stats.kstest(counts, stats.norm(600.0, np.sqrt(2_000 * 0.3 * 0.7)).cdf).pvalue > 0.001
    assert stats.chi2.interval(0.999, 399)[0] < np.var(counts, ddof=1) / 420 * 399 < stats.chi2.interval(0.999, 399)[1]


def test_places_of_an_update_are_drawn_apart_from_each_other():
    sources = drawn_sources(plan(shares([Share.constant(0.5), None], 4_000), batch_size=4))
    table = np.zeros((2, 2), dtype=int)
    np.add.at(table, (sources[:, :-1].ravel(), sources[:, 1:].ravel()), 1)
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_long_plan_takes_little_more_than_a_byte_per_slot():
    planned = shares([linear(0.9, 0.1), late(0.2, 0.5), None], 200_000)
    tracemalloc.start()
    try:
        some = plan(planned, most=[100_000, None, None], batch_size=8)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert some.drawn(200_000).sum() == 1_600_000
    assert kept < 1_700_000
    assert peak < 6_000_000


# Limits and rows


def test_the_others_share_the_place_of_an_exhausted_source_by_their_weights():
    planned = shares([Share.constant(0.5), Share.constant(0.3), Share.constant(0.2)], 5_000)
    some = plan(planned, most=[1_000, None, None], batch_size=4)
    assert some.drawn(5_000)[0] == 1_000
    left = some.drawn(5_000)[1:] - some.drawn(1_000)[1:]
    assert left.sum() == 16_000
    assert stats.binomtest(int(left[0]), 16_000, 0.6).pvalue > 0.001


def test_a_mixture_that_runs_out_says_what_to_do():
    planned = shares([Share.constant(0.5), Share.constant(0.5)], 100)
    with pytest.raises(TrainError) as error:
        plan(planned, most=[30, 60], batch_size=4, names=["roco", "medpix"])
    assert error.value.where == "update 23 of 100"  # after 90 draws
    assert (
        error.value.got
        == "given are roco: all 30 rows that its epochs allow; medpix: all 60 rows that its epochs allow"
    )
    assert "at most 22 updates" in error.value.fix
    plan(planned[:22], most=[30, 60], batch_size=4)


def test_an_open_source_without_a_share_does_not_step_in():
    with pytest.raises(TrainError, match="another one a weight"):
        plan(shares([Share.constant(1.0), Share.constant(0.0)], 20), most=[30, None], batch_size=4)


def test_a_source_without_rows_is_refused():
    with pytest.raises(TrainError, match="no rows") as error:
        plan(shares([Share.constant(0.5), None], 20), sizes=[5, 0], names=["roco", "medpix"])
    assert error.value.where == "medpix"


def test_too_many_sources_are_refused():
    planned = shares([Share.constant(1.0)] * 256, 3)
    assert plan(planned, batch_size=300).drawn(3).sum() == 900
    with pytest.raises(TrainError, match="too many"):
        plan(shares([Share.constant(1.0)] * 257, 3))


@pytest.mark.parametrize("update", [-1, 0, 21])
def test_updates_that_do_not_exist_have_no_slots(update):
    with pytest.raises(IndexError):
        plan(shares([None], 20)).slots(update)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 3), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_every_row_comes_once_per_pass(size, source, epoch, seed):
    ordinals = range(epoch * size, (epoch + 1) * size)
    assert sorted(row_of(seed, source, ordinal, size) for ordinal in ordinals) == list(range(size))


def test_passes_and_sources_have_orders_of_their_own():
    orders = {tuple(row_order(7, source, epoch, 30).tolist()) for source in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert not row_order(7, 0, 0, 30).flags.writeable


@pytest.mark.parametrize("seed", [0, 11, 2**32 - 1])
@pytest.mark.parametrize("epoch", [0, 1, 12])
def test_the_first_source_has_the_order_of_a_stage_without_mixture(seed, epoch):
    expected = np.random.default_rng((seed, epoch)).permutation(97)
    assert row_order(seed, 0, epoch, 97).tolist() == expected.tolist()


def test_without_replacement_inside_a_pass_of_each_source():
    some = plan(shares([linear(0.9, 0.1), None], 200), sizes=[37, 23])
    rows = {0: [], 1: []}
    for update in range(1, 201):
        for source, ordinal in zip(*(part.tolist() for part in some.slots(update)), strict=True):
            rows[source].append(row_of(3, source, ordinal, some.sizes[source]))
    for source, size in enumerate(some.sizes):
        for first in range(0, len(rows[source]) - size + 1, size):
            assert sorted(rows[source][first : first + size]) == list(range(size))


@pytest.mark.parametrize(
    ("size", "epochs", "expected"), [(10, None, None), (10, 2.0, 20), (3, 0.5, 1), (100, 0.07, 7), (2, 0.1, 1)]
)
def test_passes_allow_whole_draws(size, epochs, expected):
    assert draws_allowed(size, epochs) == expected


# What recipes ask for


@pytest.mark.parametrize("percent", [0, 10, 25, 50, 75, 100])
def test_roco_with_medpix(percent):
    planned = shares([None, Share.constant(percent / 100)], 2_000)
    roco, medpix = plan(planned, batch_size=8).drawn(2_000)
    assert roco + medpix == 16_000
    assert stats.binomtest(int(medpix), 16_000, percent / 100).pvalue > 0.001 if 0 < percent < 100 else True
    if percent in (0, 100):
        assert medpix == 160 * percent


def test_late_injection_starts_at_its_progress():
    some = plan(shares([None, late(0.5, 0.8)], 1_001), batch_size=8)
    assert some.drawn(800)[1] == 0  # update 801 has progress 0.8
    assert stats.binomtest(int(some.drawn(1_001)[1]), 201 * 8, 0.5).pvalue > 0.001


def recipes_of_the_page():
    blocks = PAGE.read_text(encoding="utf-8").split("```yaml\n")[1:]
    return [yaml.safe_load(block.split("```")[0]) for block in blocks]


def share_of(weight):
    if weight is None:
        return None
    if isinstance(weight, Anneal):
        return Share(**weight.model_dump())
    return Share.constant(weight)


def test_the_recipes_of_the_page_can_be_planned():
    found = recipes_of_the_page()
    assert len(found) >= 3
    for values in found:
        for stage in parse_recipe(values, where=str(PAGE)).stages:
            if not stage.mixture:
                continue
            planned = shares([share_of(source.weight) for source in stage.mixture.values()], 100)
            sizes = [1_000] * len(stage.mixture)
            most = [draws_allowed(1_000, source.epochs) for source in stage.mixture.values()]
            plan(planned, sizes=sizes, most=most, batch_size=stage.batch_size)
