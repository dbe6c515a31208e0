"""Which source, and which of its rows, every place in every batch draws from: pure functions, nothing to replay.

Two steps. ``shares`` says what each source should get at every update; ``Plan`` turns that into draws, one random
number per slot (a place in the batch of an update). Worker processes, ranks and restarts ask for slots; none draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from jaxtyping import Float, Int

from radvqa.errors import TrainError
from radvqa.recipe import Anneal, Source

Shape = Literal["constant", "linear", "cosine", "step"]

_TOLERANCE = 1e-9  # by how much stated shares may miss 1
_CHUNK = 4096  # updates whose draws are made at once
_STRIDE = 256  # updates between two stored counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A weight over the progress of a stage, which goes from 0 at its first update to 1 at its last.

    ``linear`` and ``cosine`` go from ``start`` to ``end`` between ``after`` and ``until``; ``step`` jumps at ``after``.
    """

    shape: Shape
    start: float
    end: float
    after: float = 0.0
    until: float = 1.0

    @classmethod
    def constant(cls, weight: float) -> Self:
        """The same weight all the time."""
        return cls(shape="constant", start=weight, end=weight)

    def at(self, progress: Float[np.ndarray, " u"]) -> Float[np.ndarray, " u"]:
        """The weight at each progress (0 to 1)."""
        if self.shape == "constant":
            return np.full(progress.shape, self.start)
        if self.shape == "step":
            return np.where(progress >= self.after, self.end, self.start)
        done = np.clip((progress - self.after) / (self.until - self.after), 0.0, 1.0)
        if self.shape == "cosine":
            done = 0.5 * (1 - np.cos(np.pi * done))
        return self.start * (1 - done) + self.end * done


def share_of(source: Source) -> Share | None:
    """The weight that a recipe states for a source; None where it gets what the others leave."""
    weight = source.weight
    if isinstance(weight, Anneal):
        return Share(shape=weight.shape, start=weight.start, end=weight.end, after=weight.after, until=weight.until)
    return None if weight is None else Share.constant(weight)


def shares(weights: Sequence[Share | None], updates: int) -> Float[np.ndarray, "u s"]:
    """The share of each source at each of ``updates`` updates; every row sums to 1.

    One ``None`` stands for what the others leave of 1. Without it the weights are relative.

    Raises:
        TrainError: at some update all weights are 0, the others leave less than nothing, or a weight is negative; or
            more than one weight is ``None``.
    """
    progress = np.arange(updates) / max(1, updates - 1)
    stated: Float[np.ndarray, "u s"] = np.column_stack(
        [np.zeros(updates) if one is None else one.at(progress) for one in weights]
    )
    _refuse(stated.min(axis=1) < 0, "a weight of the mixture is negative", stated, expected="weights of at least 0")
    without = [source for source, weight in enumerate(weights) if weight is None]
    if len(without) > 1:
        raise TrainError("several sources of the mixture have no weight", expected="at most one", got=str(len(without)))
    if without:
        rest = 1 - stated.sum(axis=1)
        _refuse(
            rest < -_TOLERANCE,
            f"the weights leave nothing for source {without[0] + 1}, which gets the rest",
            stated,
            expected="weights that sum to at most 1",
        )
        stated[:, without[0]] = np.maximum(rest, 0.0)
    total = stated.sum(axis=1, keepdims=True)
    _refuse(total[:, 0] <= 0, "no source of the mixture has a weight above 0", stated, expected="at least one")
    normalised: Float[np.ndarray, "u s"] = stated / total
    return normalised


def _refuse(wrong: np.ndarray, what: str, stated: Float[np.ndarray, "u s"], *, expected: str) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        raise TrainError(
            what,
            where=f"update {first + 1} of {len(stated)}",
            expected=expected,
            got=", ".join(f"{weight:g}" for weight in stated[first]),
            fix="change the weights under mixture",
        )


class Plan:
    """The source of every slot, and the ordinal of that draw within the source (its first draw is 0).

    A pure function of its arguments. Slot n of the stage always uses random number n of a counter-based generator
    (Philox, Salmon et al., SC 2011) and compares it with the cumulated shares of its update. A source that has given as
    many rows as it may is out from the next slot on; the others share its place by their weights. With one source the
    ordinal of slot n is n.

    Takes one byte per slot beside ``planned``.
    """

    def __init__(
        self,
        planned: Float[np.ndarray, "u s"],
        *,
        sizes: Sequence[int],
        most: Sequence[int | None],
        batch_size: int,
        seed: int,
        names: Sequence[str] | None = None,
    ) -> None:
        """``sizes``: rows of each source; ``most``: draws it may give in all; ``names`` of the sources, for messages.

        Raises:
            TrainError: a source has no rows, or at some update every source with a share has given all it may.
        """
        self.planned = planned
        self.batch_size = batch_size
        self.sizes = tuple(sizes)
        self._names = tuple(names) if names is not None else tuple(f"source {one + 1}" for one in range(len(sizes)))
        for name, size in zip(self._names, sizes, strict=True):
            if size < 1:
                raise TrainError(
                    "a source of the mixture has no rows", where=name, fix="widen its filter, or remove it"
                )
        if len(sizes) > 256:
            raise TrainError("a mixture has too many sources", expected="at most 256", got=str(len(sizes)))
        limits = np.array([np.inf if limit is None else limit for limit in most])
        self._sources = np.empty(self.updates * batch_size, dtype=np.uint8)
        self._counts = np.zeros((self.updates // _STRIDE + 1, len(sizes)), dtype=np.int64)
        self._draw(limits, np.random.Generator(np.random.Philox(key=seed)))

    @property
    def updates(self) -> int:
        """How many updates it covers."""
        return len(self.planned)

    def slots(self, update: int) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Source and ordinal of every place of the batch of an update, which count from 1."""
        sources = self._between(update - 1, update).astype(np.int64)
        ordinals = np.empty(len(sources), dtype=np.int64)
        for source, given in enumerate(self.drawn(update - 1)):
            places = np.flatnonzero(sources == source)
            ordinals[places] = given + np.arange(len(places))
        return sources, ordinals

    def drawn(self, update: int) -> Int[np.ndarray, " s"]:
        """Draws of each source up to and with this update; zeros at update 0."""
        stored = update // _STRIDE
        rest = self._between(stored * _STRIDE, update)
        counts: Int[np.ndarray, " s"] = self._counts[stored] + np.bincount(rest, minlength=len(self.sizes))
        return counts

    def passes(self, update: int) -> Float[np.ndarray, " s"]:
        """Passes over each source up to and with this update."""
        passes: Float[np.ndarray, " s"] = self.drawn(update) / np.array(self.sizes)
        return passes

    def _between(self, first: int, last: int) -> np.ndarray:
        """The sources of all slots after update ``first``, up to and with ``last``."""
        if not 0 <= first <= last <= self.updates:
            raise IndexError(f"update {last} is not one of 1 to {self.updates}")
        return self._sources[first * self.batch_size : last * self.batch_size]

    def _draw(self, limits: Float[np.ndarray, " s"], generator: np.random.Generator) -> None:
        given = np.zeros(len(self.sizes), dtype=np.int64)
        for first in range(0, self.updates, _CHUNK):
            last = min(first + _CHUNK, self.updates)
            chunk = self._sources[first * self.batch_size : last * self.batch_size]
            numbers = generator.random(len(chunk))
            done = 0
            while done < len(chunk):  # again from the slot after one that took the last row a source may give
                update = first + done // self.batch_size
                place = done % self.batch_size
                found = self._chosen(update, last, numbers[done - place :], open_=given < limits)[place:]
                if not len(found):
                    raise self._exhausted(update, given, limits)
                kept = found[: _before_exhaustion(found, limits - given)]
                chunk[done : done + len(kept)] = kept
                given += np.bincount(kept, minlength=len(given))
                done += len(kept)
            self._store_counts(first, last, given)

    def _chosen(self, first: int, last: int, numbers: np.ndarray, *, open_: np.ndarray) -> Int[np.ndarray, " n"]:
        """Sources for the slots of updates after ``first``, up to the first one at which no open source has a share."""
        bounds = np.cumsum(np.where(open_, self.planned[first:last], 0.0), axis=1)
        without = np.flatnonzero(bounds[:, -1] <= 0)
        if len(without):
            bounds = bounds[: without[0]]
        # The last bound above all others becomes exactly 1, so a number below 1 never falls on a source that is out.
        bounds = np.repeat(bounds / bounds[:, -1:], self.batch_size, axis=0)
        found = np.zeros(len(bounds), dtype=np.uint8)
        for bound in bounds.T[:-1]:
            found += numbers[: len(bounds)] >= bound
        return found

    def _store_counts(self, first: int, last: int, given: Int[np.ndarray, " s"]) -> None:
        """Fill in the counts of the updates ``first`` to ``last`` that lie on the grid, backwards from ``given``."""
        counts = given.copy()
        for stored in range(last // _STRIDE, first // _STRIDE, -1):
            after = self._sources[stored * _STRIDE * self.batch_size : last * self.batch_size]
            counts -= np.bincount(after, minlength=len(given))
            self._counts[stored] = counts
            last = stored * _STRIDE

    def _exhausted(self, update: int, given: Int[np.ndarray, " s"], limits: Float[np.ndarray, " s"]) -> TrainError:
        out = [
            f"{name}: all {count:,} rows that its epochs allow"
            for name, count, limit in zip(self._names, given, limits, strict=True)
            if count >= limit
        ]
        shorter = f"train for at most {update} updates, " if update else ""
        return TrainError(
            "the mixture runs out of rows",
            where=f"update {update + 1} of {self.updates}",
            expected="a source with a share that may still give rows",
            got="given are " + "; ".join(out),
            fix=f"{shorter}raise epochs of a source, or give another one a weight at this time",
        )


def _before_exhaustion(found: Int[np.ndarray, " n"], left: Float[np.ndarray, " s"]) -> int:
    """How many slots there are up to and with the one that takes the last row of a source."""
    stop = len(found)
    for source, count in enumerate(left):
        if 0 < count <= stop:
            places = np.flatnonzero(found[:stop] == source)
            if len(places) >= count:
                stop = int(places[int(count) - 1]) + 1
    return stop


def row_order(seed: int, source: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    """The rows of a source in the order of one pass, read-only; each pass has another. The last few are kept."""
    # numpy pads entropy with zeros: source 0 has the order of (seed, epoch), that of a stage without a mixture.
    order = np.random.default_rng((seed, epoch, source)).permutation(size).astype(np.int32)
    order.flags.writeable = False
    return order


def row_of(seed: int, source: int, ordinal: int, size: int) -> int:
    """The row that a draw of a source takes: every row once per pass."""
    epoch, index = divmod(ordinal, size)
    return int(row_order(seed, source, epoch, size)[index])


def draws_allowed(size: int, epochs: float | None) -> int | None:
    """How many draws a limit of passes allows, at least one; None without a limit."""
    return None if epochs is None else max(1, math.floor(round(epochs * size, 6)))
