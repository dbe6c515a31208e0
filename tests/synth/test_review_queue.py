import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from review_pairs import captions_of, made_pair, made_pairs

from radvqa.errors import DataError, RecipeError, RunError
from radvqa.synth.review import open_review
from radvqa.synth.review.queue import allocate, draw_queue, pairs_digest


def sizes_and_total():
    return st.lists(st.integers(1, 300), min_size=1, max_size=20).flatmap(
        lambda sizes: st.tuples(st.just(sizes), st.integers(len(sizes), 400))
    )


@given(sizes_and_total())
def test_allocation(given_sizes):
    sizes, total = given_sizes
    drawn = allocate(sizes, total)
    assert sum(drawn) == min(total, sum(sizes))
    assert all(1 <= count <= size for count, size in zip(drawn, sizes, strict=True))
    if total >= 2 * len(sizes):
        assert all(count >= min(size, 2) for count, size in zip(drawn, sizes, strict=True))
    # A larger stratum never gets less than a smaller one.
    assert all(a <= b for m, a in zip(sizes, drawn, strict=True) for n, b in zip(sizes, drawn, strict=True) if m < n)


def test_allocation_is_proportional_and_keeps_the_minimum():
    assert allocate([600, 300, 100], 100) == (60, 30, 10)
    assert allocate([960, 30, 10], 50) == (46, 2, 2)
    with pytest.raises(ValueError, match="3 strata"):
        allocate([5, 5, 5], 2)


def test_weights_add_up_to_the_pairs():
    pairs = made_pairs(kept=500, removed=200)
    queue = draw_queue(pairs, size=80, seed=1)
    assert len(queue.items) == 80
    assert sum(item.weight for item in queue.items) == pytest.approx(700)
    for number, stratum in enumerate(queue.strata):
        weights = [item.weight for item in queue.items if item.stratum == number]
        assert len(weights) == stratum.drawn >= 2
        assert sum(weights) == pytest.approx(stratum.size)
    removed = sum(not queue.strata[item.stratum].kept for item in queue.items)
    assert removed == 24
    assert {one.screen: one.drawn for one in queue.strata if not one.kept} == {"licence": 18, "leak": 6}


def test_strata_are_those_of_the_pairs():
    pairs = {pair.sample.sample_id: pair for pair in made_pairs()}
    queue = draw_queue(list(pairs.values()), size=40, seed=5)
    for item in queue.items:
        pair, stratum = pairs[item.sample_id], queue.strata[item.stratum]
        assert stratum.kept == (pair.reason == "")
        expected = (pair.slot, pair.basis, "") if stratum.kept else ("", "", pair.reason)
        assert (stratum.slot, stratum.basis, stratum.screen) == expected


def test_the_draw_does_not_depend_on_the_order():
    pairs = made_pairs()
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert draw_queue(pairs, size=40, seed=3) == draw_queue(shuffled, size=40, seed=3)


def test_the_seed_decides_the_draw():
    drawn = [{item.sample_id for item in draw_queue(made_pairs(), size=40, seed=seed).items} for seed in (1, 2)]
    assert drawn[0] != drawn[1]


def test_every_pair_of_a_stratum_is_as_likely():
    pairs = [made_pair(number) for number in range(20)]
    counts = Counter(
        item.sample_id for seed in range(400) for item in draw_queue(pairs, size=5, seed=seed, rejected_share=0).items
    )
    assert len(counts) == 20
    # 100 expected each, standard deviation 8.7.
    assert 65 <= min(counts.values()) <= max(counts.values()) <= 135


def test_keys_tell_nothing_and_hide_the_order():
    queue = draw_queue(made_pairs(), size=40, seed=0)
    assert not any(item.sample_id in item.key for item in queue.items)
    assert len({item.key for item in queue.items}) == 40
    kept = [queue.strata[item.stratum].kept for item in queue.items]
    assert kept not in (sorted(kept), sorted(kept, reverse=True))


def test_readers_see_the_same_items_in_other_orders():
    queue = draw_queue(made_pairs(), size=40, seed=0)
    first, second = queue.order_for("ana"), queue.order_for("ben")
    assert set(first) == set(second) == set(queue.items)
    assert first != second
    assert first == queue.order_for("ana")


@pytest.mark.parametrize(
    ("share", "kept", "removed"), [(0.0, 20, 0), (1.0, 0, 20), (0.5, 10, 10), (0.3, 14, 6)], ids=str
)
def test_the_share_of_removed_pairs(share, kept, removed):
    queue = draw_queue(made_pairs(), size=20, seed=0, rejected_share=share)
    counts = Counter(queue.strata[item.stratum].kept for item in queue.items)
    assert (counts[True], counts[False]) == (kept, removed)


def test_one_side_fills_what_the_other_lacks():
    few_removed = draw_queue(made_pairs(kept=60, removed=4), size=40, seed=0)
    assert sum(one.drawn for one in few_removed.strata if not one.kept) == 4
    assert len(few_removed.items) == 40
    few_kept = draw_queue(made_pairs(kept=10, removed=60), size=40, seed=0)
    assert sum(one.drawn for one in few_kept.strata if one.kept) == 10
    assert len(few_kept.items) == 40
    assert len(draw_queue(made_pairs(kept=10, removed=4), size=40, seed=0).items) == 14


def test_a_queue_too_small_for_every_kind_is_refused():
    with pytest.raises(RecipeError, match="expected: about 7 or more: 3 kinds of kept pairs and 2 screens") as error:
        draw_queue(made_pairs(), size=3, seed=0)
    needed = int(error.value.expected.split()[1])
    assert all(one.drawn for one in draw_queue(made_pairs(), size=needed, seed=0).strata)


@pytest.mark.parametrize(("size", "share"), [(0, 0.3), (-1, 0.3), (10, -0.1), (10, 1.1), (10, float("nan"))])
def test_impossible_settings(size, share):
    with pytest.raises(RecipeError):
        draw_queue(made_pairs(), size=size, seed=0, rejected_share=share)


def test_no_pairs_and_equal_ids():
    with pytest.raises(DataError, match="no pairs"):
        draw_queue([], size=10, seed=0)
    with pytest.raises(DataError, match="same sample id"):
        draw_queue([made_pair(1), made_pair(1)], size=10, seed=0)


def test_the_digest_sees_what_readers_judge():
    pairs = made_pairs()
    same = pairs_digest(list(reversed(pairs)))
    assert same == pairs_digest(pairs)
    moved = replace(pairs[0], sample=replace(pairs[0].sample, image=pairs[0].sample.image / "elsewhere"))
    assert pairs_digest([moved, *pairs[1:]]) == same
    for changed in (
        replace(pairs[0], reason="leak"),
        replace(pairs[0], slot="organ"),
        replace(pairs[0], basis="model"),
        replace(pairs[0], sample=replace(pairs[0].sample, question="What?")),
        replace(pairs[0], sample=replace(pairs[0].sample, answers=("other",))),
        replace(pairs[0], origin=replace(pairs[0].origin, caption_sha256="1" * 64)),
    ):
        assert pairs_digest([changed, *pairs[1:]]) != same


def test_the_queue_is_drawn_once(tmp_path):
    pairs = made_pairs()
    first = open_review(tmp_path, pairs, captions_of(pairs), size=40, seed=7)
    content = (tmp_path / "review/queue.json").read_bytes()
    assert open_review(tmp_path, pairs, captions_of(pairs)).queue == first.queue
    assert open_review(tmp_path, list(reversed(pairs)), captions_of(pairs), size=40).queue == first.queue
    assert (tmp_path / "review/queue.json").read_bytes() == content
    assert set(first.pairs) == {item.sample_id for item in first.queue.items}


def test_a_changed_data_set_is_refused(tmp_path):
    pairs = made_pairs()
    open_review(tmp_path, pairs, captions_of(pairs), size=40)
    with pytest.raises(RunError, match="data set has changed"):
        open_review(tmp_path, pairs[1:], captions_of(pairs))


@pytest.mark.parametrize(("name", "value"), [("size", 41), ("seed", 1), ("rejected_share", 0.5)])
def test_other_settings_are_refused(tmp_path, name, value):
    pairs = made_pairs()
    open_review(tmp_path, pairs, captions_of(pairs), size=40)
    with pytest.raises(RunError, match=name.replace("_", " ")):
        open_review(tmp_path, pairs, captions_of(pairs), **{name: value})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"layout": 1', '"layout": 99'),
        lambda text: text.replace('"stratum": 0', '"stratum": 77'),
        lambda text: text.replace('"weight"', '"wait"'),
        lambda text: "",
    ],
)
def test_a_damaged_queue_is_refused(tmp_path, damage):
    pairs = made_pairs()
    open_review(tmp_path, pairs, captions_of(pairs), size=40)
    path = tmp_path / "review/queue.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(RunError, match="cannot be read"):
        open_review(tmp_path, pairs, captions_of(pairs))


def test_a_missing_caption_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="captions of drawn pairs are missing"):
        open_review(tmp_path, made_pairs(), {}, size=40)
    assert not (tmp_path / "review").exists()


def test_later_turns_come_with_those_before_them(tmp_path):
    turns = [
        made_pair(number, caption_id="c", dialogue_id="d", turn=turn, reason=reason)
        for number, (turn, reason) in enumerate([(3, ""), (1, ""), (2, "leak")])
    ]
    strangers = [made_pair(9, caption_id="other", dialogue_id="d", turn=1), made_pair(10)]
    pairs = turns + strangers
    review = open_review(tmp_path, pairs, captions_of(pairs), size=10)
    assert review.earlier[turns[0].sample.sample_id] == (turns[1], turns[2])
    assert review.earlier[turns[1].sample.sample_id] == ()
    assert strangers[1].sample.sample_id not in review.earlier
