"""Splits by group: no patient, case or image on both sides, the same for the same seed on every machine."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from radvqa.errors import DataError
from radvqa.sample import SPLITS, CaptionedImage, Split, VqaSample

Record = VqaSample | CaptionedImage


def group_splits(
    records: Iterable[Record], fractions: Mapping[Split, float], *, seed: int, stratify_by: str | None = None
) -> dict[str, Split]:
    """The split of every group, so that splits hold about ``fractions`` of the records and share no group.

    Groups are taken in the order of a hash of seed and group id, so the order of the rows does not matter. Each goes to the split that is furthest below its share: of its stratum first, then
    of everything. A stratum is the most frequent value of the tag ``stratify_by`` among the group's records. With few
    groups the shares are met only roughly, and a stratum with one group is in one split.

    Args:
        records: of one data set.
        fractions: wanted share of the records per split; they sum to 1.
        seed: of the draw.
        stratify_by: name of a tag; its absence is a stratum of its own.

    Raises:
        DataError: fractions are negative or do not sum to 1, or there are fewer groups than splits.
    """
    if any(not 0 < share <= 1 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DataError(
            "the fractions of a split are wrong",
            expected="shares above 0 that sum to 1",
            got=", ".join(f"{split} {share}" for split, share in fractions.items()),
            fix="correct fractions, for example {train: 0.85, val: 0.15}",
        )
    size: Counter[str] = Counter()
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        size[record.group_id] += 1
        values[record.group_id][record.tags.get(stratify_by, "") if stratify_by else ""] += 1
    if len(size) < len(fractions):
        raise DataError(
            "there are too few groups for these splits",
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


def splits_digest(split_of: Mapping[str, Split]) -> str:
    """SHA-256 over groups and their splits, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(split_of.items())).encode()).hexdigest()


def shared_groups(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    """The group ids that both sides hold, sorted."""
    return sorted({one.group_id for one in first} & {one.group_id for one in second})


def _draw(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogatepass")).hexdigest()
