"""Splits by group: no patient, case or image on both sides, the same for the same seed on every machine."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.errors import DataError
from radvqa.sample import SPLITS, CaptionedImage, Defect, Region, Split, VqaSample

Record = VqaSample | CaptionedImage


def group_splits(
    records: Iterable[Record],
    fractions: Mapping[Split, float],
    *,
    seed: int,
    stratify_by: str | None = None,
    where: str = "the records",
) -> dict[str, Split]:
    """The split of every group, so that splits hold about ``fractions`` of the records and share no group.

    Groups are taken in the order of a hash of seed and group id, so the order of the rows does not matter. Each goes
    to the split that is furthest below its share: of its stratum first, then of everything. A stratum is the most
    frequent value of the tag ``stratify_by`` among the group's records. With few groups the shares are met only
    roughly, and a stratum with one group is in one split.

    Args:
        records: of one data set.
        fractions: wanted share of the records per split; they sum to 1.
        seed: of the draw.
        stratify_by: name of a tag; its absence is a stratum of its own.
        where: names the records in messages.

    Raises:
        DataError: fractions are negative or do not sum to 1, or there are fewer groups than splits.
    """
    if any(not 0 < share <= 1 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DataError(
            "the fractions of a split are wrong",
            where=where,
            expected="shares above 0 that sum to 1",
            got=", ".join(f"{split} {share}" for split, share in fractions.items()),
            fix="correct fractions, for example {train: 0.85, val: 0.15}",
        )
    size: Counter[str] = Counter()
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        size[record.group_id] += 1
        values[record.group_id][record.tags.get(stratify_by, "") if stratify_by else ""] += 1
    if stratify_by and not any(value for found in values.values() for value in found):
        raise DataError(
            f"no row has the tag {stratify_by!r} to stratify by",
            where=where,
            expected="a tag of this data set",
            got="it on no row",
            fix="correct splits.stratify_by; samples/*.jsonl of a run shows the tags",
        )
    if len(size) < len(fractions):
        raise DataError(
            "there are too few groups for these splits",
            where=where,
            expected=f"at least {len(fractions)} patients, cases or images",
            got=str(len(size)),
            fix="use fewer splits",
        )
    stratum = {group: min(found, key=lambda value: (-found[value], value)) for group, found in values.items()}
    wanted = [split for split in SPLITS if split in fractions]
    taken: dict[str, Counter[Split]] = defaultdict(Counter)
    overall: Counter[Split] = Counter()
    groups_in: Counter[Split] = Counter()
    result: dict[str, Split] = {}
    order = sorted(size, key=lambda group: _draw(seed, group))
    for number, group in enumerate(order):
        inside = taken[stratum[group]]
        empty = [split for split in wanted if not groups_in[split]]
        choice = empty if len(order) - number <= len(empty) else wanted
        split = max(
            choice,
            key=lambda one: (
                fractions[one] * (inside.total() + size[group]) - inside[one],
                fractions[one] * (overall.total() + size[group]) - overall[one],
                -wanted.index(one),
            ),
        )
        inside[split] += size[group]
        overall[split] += size[group]
        groups_in[split] += 1
        result[group] = split
    return dict(sorted(result.items()))


@final
class RegroupedDataset(DatasetAdapter):
    """A data set with new splits, drawn by group from the published ones in ``pool``.

    The draw is over all rows, also those whose image is missing, so completing the images moves no group. Each reject
    and defect of the pool is told with one of the new splits, so that their share is about the same in all.
    """

    licence: ClassVar[str] = "that of the data set inside"
    citation: ClassVar[str] = "that of the data set inside"
    homepage: ClassVar[str] = "that of the data set inside"

    def __init__(
        self,
        adapter: DatasetAdapter,
        *,
        pool: Sequence[Split],
        fractions: Mapping[Split, float],
        seed: int,
        stratify_by: str | None = None,
        where: str = "the data set",
    ) -> None:
        """Put new splits in place of the published ones; see ``group_splits``.

        Raises:
            DataError: a published split of the pool is not there, or one outside the pool would be replaced.
        """
        present = adapter.splits()
        if absent := [split for split in pool if split not in present]:
            raise DataError(
                f"the published split {absent[0]!r} is not there, so nothing can be drawn from it",
                where=where,
                expected=f"some of {', '.join(present)}",
                got=", ".join(pool),
                fix="correct splits.pool of this data set in the recipe",
            )
        if lost := [split for split in present if split not in pool and split in fractions]:
            raise DataError(
                f"the published split {lost[0]!r} would be replaced without being in the pool",
                where=where,
                expected="new splits only in place of those in the pool, or of those that are not published",
                got=f"pool {', '.join(pool)}, fractions for {', '.join(fractions)}",
                fix=f"add {lost[0]} to splits.pool, or take it out of splits.fractions",
            )
        self.inner, self._pool, self._fractions = adapter, tuple(pool), dict(fractions)
        self._seed, self._stratify_by, self._where = seed, stratify_by, where

    def splits(self) -> tuple[Split, ...]:
        """The new splits and the published ones outside the pool."""
        kept = {split for split in self.inner.splits() if split not in self._pool}
        return tuple(split for split in SPLITS if split in self._fractions or split in kept)

    def rows(self, split: Split) -> Iterator[Item]:
        """The pool's rows whose group is in this split, or a published split outside the pool."""
        if split not in self._fractions:
            yield from self.inner.records(split)
            return
        told: set[tuple[str, str]] = set()
        for published in self._pool:
            for item in self.inner.records(published):
                if isinstance(item, VqaSample | CaptionedImage):
                    if self.split_of_group[item.group_id] == split:
                        yield replace(item, split=split)
                elif isinstance(item, Defect):
                    if self._split_of_remark(item.subject) == split:
                        yield item
                # A row of another published split is read with that one; one of unknown split is told by each of them.
                elif item.reason != "other_split" and (item.where, item.reason) not in told:
                    told.add((item.where, item.reason))
                    if self._split_of_remark(item.sample_id) == split:
                        yield item

    def _split_of_remark(self, subject: str) -> Split:
        """The split that tells of a reject or defect: each is told once, and in proportion to the splits."""
        place = int(_draw(self._seed, subject)[:12], 16) / 16**12
        total = 0.0
        for split, share in self._fractions.items():
            total += share
            if place < total:
                return split
        return next(reversed(self._fractions))

    @cached_property
    def split_of_group(self) -> dict[str, Split]:
        """The new split of every group in the pool."""
        records = (
            item
            for published in self._pool
            for item in self.inner.records(published, missing=set())
            if isinstance(item, VqaSample | CaptionedImage)
        )
        return group_splits(records, self._fractions, seed=self._seed, stratify_by=self._stratify_by, where=self._where)

    def sources(self) -> tuple[Path, ...]:
        """Those of the data set inside."""
        return self.inner.sources()

    def regions(self, image_id: str) -> tuple[Region, ...]:
        """Those of the data set inside."""
        return self.inner.regions(image_id)

    def defects(self) -> Iterator[Defect]:
        """Those of the data set inside."""
        return self.inner.defects()


def splits_digest(split_of: Mapping[str, Split]) -> str:
    """SHA-256 over groups and their splits, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(split_of.items())).encode()).hexdigest()


def _draw(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogatepass")).hexdigest()
