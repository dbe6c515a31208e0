"""Which pairs people look at: a random sample, stratified so that every kind of pair and every screen is seen."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from radvqa.errors import DataError, RecipeError, RunError
from radvqa.records import write_json
from radvqa.synth.pair import SyntheticPair

LAYOUT = 1
"""Raised whenever the same pairs and settings give another queue than before."""

LEAST_DRAWN = 2
"""Of each stratum, where it holds as many and the size allows it: one item alone does not show a stratum's spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Pairs of one kind: kept ones by slot and basis, removed ones by the screen that removed them.

    ``size`` counts the pairs there are, ``drawn`` those in the queue.
    """

    kept: bool
    slot: str
    basis: str
    screen: str
    size: int
    drawn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """One pair to look at.

    ``key`` stands for it in addresses and tells nothing of it. ``stratum`` is a place in ``Queue.strata``; ``weight``
    is the number of pairs of its stratum that it stands for, size / drawn.
    """

    sample_id: str
    key: str
    stratum: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The drawn pairs, and what they were drawn from. ``digest`` is that of ``pairs_digest``."""

    layout: int
    size: int
    seed: int
    rejected_share: float
    digest: str
    strata: tuple[Stratum, ...]
    items: tuple[QueueItem, ...]

    def order_for(self, reader: str) -> tuple[QueueItem, ...]:
        """All items in the order in which one reader sees them: random, and another one for every reader."""
        return tuple(sorted(self.items, key=lambda item: _hash(self.seed, reader, item.sample_id)))


def draw_queue(pairs: Sequence[SyntheticPair], *, size: int, seed: int, rejected_share: float = 0.3) -> Queue:
    """A stratified random sample of the pairs, the same for the same pairs and seed in whatever order they come.

    Kept pairs are drawn in proportion to the size of their stratum, and so are removed ones, with ``LEAST_DRAWN`` of
    each stratum (1 if ``size`` allows no more). Within a stratum those of the lowest hash of seed and sample id are
    taken, which is a simple random sample. Every item has its weight, so that rates over all pairs can be estimated
    without bias although small strata are drawn more densely (Cochran, Sampling Techniques, 1977, chapter 5).

    Args:
        pairs: kept and removed pairs.
        size: items in the queue; fewer if there are fewer pairs.
        seed: of the draw and of the readers' orders.
        rejected_share: how much of the queue are pairs that a screen removed; what one side cannot fill the other does,
            unless the share is 0 or 1.

    Raises:
        RecipeError: a size that is not positive or too small for one of each stratum; a share outside 0 to 1.
        DataError: there are no pairs, or two have the same sample id.
    """
    _require_settings(size, rejected_share)
    strata = _strata(pairs)
    drawn = _drawn(strata, size, rejected_share)
    entries, items = [], []
    for number, (name, members) in enumerate(strata.items()):
        kept, slot, basis, screen = name
        count = drawn[name]
        entries.append(
            Stratum(kept=kept, slot=slot, basis=basis, screen=screen, size=len(members), drawn=count),
        )
        chosen = sorted(members, key=lambda sample_id: _hash(seed, "draw", sample_id))[:count]
        items += [
            QueueItem(
                sample_id=sample_id,
                key=_hash(seed, "key", sample_id)[:20],
                stratum=number,
                weight=len(members) / count,
            )
            for sample_id in chosen
        ]
    return Queue(
        layout=LAYOUT,
        size=size,
        seed=seed,
        rejected_share=rejected_share,
        digest=pairs_digest(pairs),
        strata=tuple(entries),
        items=tuple(sorted(items, key=lambda item: item.key)),
    )


def pairs_digest(pairs: Sequence[SyntheticPair]) -> str:
    """SHA-256 of what readers judge and strata rest on, whatever the order of the pairs and the place of the images."""
    lines = sorted(
        json.dumps(
            [
                pair.sample.sample_id,
                pair.sample.image_id,
                pair.sample.question,
                pair.sample.answers,
                pair.sample.dialogue_id,
                pair.sample.turn,
                pair.slot,
                pair.basis,
                pair.reason,
                pair.origin.caption_sha256,
            ]
        )
        for pair in pairs
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_queue(path: Path, queue: Queue) -> None:
    """Write the queue in one atomic step. Raises ``RunError`` if the folder is full or not writable."""
    write_json(path, asdict(queue))


def read_queue(path: Path) -> Queue:
    """The queue in a file.

    Raises:
        RunError: the file cannot be read, is no queue, or one of another layout.
    """
    try:
        queue = TypeAdapter(Queue).validate_json(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(path, f"{'.'.join(map(str, first['loc'])) or 'whole file'}: {first['msg']}") from error
    places = range(len(queue.strata))
    if queue.layout != LAYOUT or any(item.stratum not in places for item in queue.items):
        raise _unreadable(path, f"layout {queue.layout}, {len(queue.strata)} strata")
    return queue


def require_drawn_from(queue: Queue, pairs: Sequence[SyntheticPair], *, path: Path) -> None:
    """Refuse to go on with a queue that was drawn from other pairs: its verdicts would be about other questions.

    Raises:
        RunError: the pairs are not those of the queue.
    """
    if (got := pairs_digest(pairs)) != queue.digest:
        raise RunError(
            "the data set has changed since the review queue was drawn",
            where=str(path),
            expected=f"the pairs with digest {queue.digest[:12]}",
            got=f"{len(pairs)} pairs with digest {got[:12]}",
            fix="restore the pairs, or rename the folder of this review: the next start then draws a new queue",
        )


def allocate(sizes: Sequence[int], total: int) -> tuple[int, ...]:
    """How many to draw of each stratum: in proportion to its size, but ``LEAST_DRAWN`` at least, if there are as many.

    Above the minimum each further one goes where size / (2 * drawn + 1) is largest, which is the method of Webster and
    Sainte-Laguë. The sum is ``total``, or that of the sizes if they are less. The minimum is 1 where ``total`` allows
    no more.

    Raises:
        ValueError: ``total`` is less than one of each.
    """
    total = min(total, sum(sizes))
    least = LEAST_DRAWN if sum(min(size, LEAST_DRAWN) for size in sizes) <= total else 1
    drawn = [min(size, least) for size in sizes]
    if sum(drawn) > total:
        raise ValueError(f"{total} cannot be shared by {len(sizes)} strata")
    while sum(drawn) < total:
        open_ones = [place for place, size in enumerate(sizes) if drawn[place] < size]
        drawn[max(open_ones, key=lambda place: sizes[place] / (2 * drawn[place] + 1))] += 1
    return tuple(drawn)


_Name = tuple[bool, str, str, str]


def _strata(pairs: Sequence[SyntheticPair]) -> dict[_Name, list[str]]:
    """Sample ids by kept, slot, basis and screen, in that order."""
    strata: dict[_Name, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for pair in pairs:
        sample_id = pair.sample.sample_id
        if sample_id in seen:
            raise DataError(
                "two pairs have the same sample id",
                where=sample_id,
                expected="ids that name one pair each",
                fix="run the synthesis again in a fresh folder",
            )
        seen.add(sample_id)
        name = (False, "", "", pair.reason) if pair.reason else (True, pair.slot, pair.basis, "")
        strata[name].append(sample_id)
    if not strata:
        raise DataError("there are no pairs to review", expected="at least one kept or removed pair")
    return {name: strata[name] for name in sorted(strata)}


def _drawn(strata: dict[_Name, list[str]], size: int, rejected_share: float) -> dict[_Name, int]:
    kept = [len(members) for name, members in strata.items() if name[0]]
    removed = [len(members) for name, members in strata.items() if not name[0]]
    of_removed = min(sum(removed), round(size * rejected_share))
    of_kept = min(sum(kept), size - of_removed) if rejected_share < 1 else 0
    if 0 < rejected_share < 1:
        of_removed = min(sum(removed), size - of_kept)
    too_few = (rejected_share < 1 and of_kept < len(kept)) or (rejected_share > 0 and of_removed < len(removed))
    if too_few:
        needed = max(
            math.ceil(len(kept) / (1 - rejected_share)) if rejected_share < 1 else 0,
            math.ceil(len(removed) / rejected_share) if rejected_share > 0 else 0,
        )
        raise RecipeError(
            "the review queue is too small to hold one pair of every kind",
            where="size",
            expected=f"about {needed} or more: {len(kept)} kinds of kept pairs and {len(removed)} screens",
            got=str(size),
            fix=f"draw {needed} or more, or change the share of removed pairs ({rejected_share:g})",
        )
    counts = dict.fromkeys(strata, 0)
    for wanted, sizes, total in ((True, kept, of_kept), (False, removed, of_removed)):
        names = [name for name in strata if name[0] is wanted]
        if total:
            counts.update(zip(names, allocate(sizes, total), strict=True))
    return counts


def _require_settings(size: int, rejected_share: float) -> None:
    if size < 1:
        raise RecipeError("a review queue holds at least one pair", where="size", expected="1 or more", got=str(size))
    if not 0 <= rejected_share <= 1:
        raise RecipeError(
            "a share lies between 0 and 1", where="rejected_share", expected="0 to 1", got=f"{rejected_share:g}"
        )


def _hash(seed: int, purpose: str, sample_id: str) -> str:
    return hashlib.sha256(json.dumps([seed, purpose, sample_id]).encode()).hexdigest()


def _unreadable(path: Path, got: str) -> RunError:
    return RunError(
        "the review queue cannot be read",
        where=str(path),
        expected=f"a queue of layout {LAYOUT} as JSON",
        got=got,
        fix="restore the file; or rename the folder of this review, and the next start draws a new queue",
    )
