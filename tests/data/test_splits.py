from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.splits import RegroupedDataset, group_splits, splits_digest
from radvqa.errors import DataError
from radvqa.sample import Defect, Reject, Split, VqaSample


def sample(number: int, group: str, *, split: Split = "train", **tags: str) -> VqaSample:
    return VqaSample(
        sample_id=f"s{number}",
        image_id=group,
        image=Path(__file__),
        question="q",
        answers=("a",),
        answer_type="open",
        group_id=group,
        split=split,
        tags=tags,
    )


def samples(groups: list[int], **tags: str) -> list[VqaSample]:
    """One group for each number, with so many samples."""
    return [sample(100 * g + i, f"g{g}", **tags) for g, size in enumerate(groups) for i in range(size)]


@given(
    sizes=st.lists(st.integers(1, 6), min_size=3, max_size=60),
    share=st.floats(0.1, 0.8),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_group_is_in_one_split_and_no_split_is_empty(sizes: list[int], share: float, seed: int) -> None:
    fractions: dict[Split, float] = {"train": share, "val": (1 - share) / 2, "test": (1 - share) / 2}
    some = samples(sizes)
    found = group_splits(some, fractions, seed=seed)
    assert set(found) == {one.group_id for one in some}
    assert set(found.values()) == set(fractions)


@given(seed=st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    some = samples([3, 1, 2, 5, 4, 1, 1])
    fractions: dict[Split, float] = {"train": 0.7, "val": 0.3}
    assert group_splits(some, fractions, seed=seed) == group_splits(some[::-1], fractions, seed=seed)


def test_another_seed_gives_other_splits_and_the_shares_are_met() -> None:
    some = samples([2] * 200)
    fractions: dict[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
    one, other = (group_splits(some, fractions, seed=seed) for seed in (0, 1))
    assert Counter(one.values()) == {"train": 160, "val": 20, "test": 20}
    assert one != other
    assert splits_digest(one) != splits_digest(other)
    assert splits_digest(one) == splits_digest(dict(reversed(one.items())))


def test_strata_are_spread_over_the_splits_alike() -> None:
    some = [*samples([1] * 90, modality="CT")]
    some += [sample(9000 + i, f"m{i}", modality="MR") for i in range(10)]
    found = group_splits(some, {"train": 0.8, "val": 0.2}, seed=4, stratify_by="modality")
    assert Counter(found[f"m{i}"] for i in range(10)) == {"train": 8, "val": 2}
    assert Counter(found[f"g{i}"] for i in range(90)) == {"train": 72, "val": 18}


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.2, "val": -0.2}])
def test_shares_must_sum_to_one(fractions: dict[Split, float]) -> None:
    with pytest.raises(DataError, match="fractions of a split are wrong"):
        group_splits(samples([1, 1, 1]), fractions, seed=0)


def test_fewer_groups_than_splits_are_refused() -> None:
    with pytest.raises(DataError, match="too few groups"):
        group_splits(samples([5]), {"train": 0.5, "val": 0.5}, seed=0)


class Published(DatasetAdapter):
    licence: ClassVar[str] = "l"
    citation: ClassVar[str] = "c"
    homepage: ClassVar[str] = "h"

    def splits(self) -> tuple[Split, ...]:
        return "train", "test"

    def rows(self, split: Split) -> Iterator[Item]:
        yield Reject(sample_id="r", reason="bad", where="row 1", detail="d", malformed=True)
        yield Defect(subject="s0", reason="odd", where="row 2", detail="d")
        for number in range(40 if split == "train" else 4):
            yield sample(number, f"{split}-{number // 2}", split=split)

    def sources(self) -> tuple[Path, ...]:
        return (Path(__file__),)


def regrouped(**changes: object) -> RegroupedDataset:
    options: dict[str, object] = {"pool": ("train",), "fractions": {"train": 0.75, "val": 0.25}, "seed": 3, **changes}
    return RegroupedDataset(Published(), **options)  # type: ignore[arg-type]


def test_a_pool_is_drawn_into_new_splits_and_the_rest_stays() -> None:
    data = regrouped()
    assert data.splits() == ("train", "val", "test")
    train, val, test = (data.read(split) for split in data.splits())
    assert [len(one.samples) for one in (train, val, test)] == [30, 10, 4]
    assert {one.split for one in val.samples} == {"val"}
    assert not {one.group_id for one in train.samples} & {one.group_id for one in val.samples}
    assert data.sources() == (Path(__file__),)


def test_rejects_and_defects_of_the_pool_are_told_once() -> None:
    data = regrouped()
    drawn = [data.read(split) for split in ("train", "val")]
    assert sum(len(one.rejects) for one in drawn) == 1
    assert sum(len(one.defects) for one in drawn) == 1
    assert len(data.read("test").rejects) == 1


def test_a_tag_that_no_row_has_cannot_stratify() -> None:
    with pytest.raises(DataError, match="no row has the tag 'modallity'"):
        group_splits(samples([1, 1, 1]), {"train": 0.5, "val": 0.5}, seed=0, stratify_by="modallity")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": ("val",)}, "'val' is not there"),
        ({"fractions": {"train": 0.5, "test": 0.5}}, "'test' would be replaced without being in the pool"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        regrouped(**changes)
