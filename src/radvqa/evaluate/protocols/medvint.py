"""MedVInT's rule: an answer counts as the nearest of the test set's own labels."""

import difflib
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from radvqa.evaluate.protocols.answer_types import only
from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.sample import Prediction

_TRIED_FIRST = 16
"""Labels with the highest bounds that are compared before better bounds are computed: most wrong answers end here."""

_COUNTED_CHARS = 256
_WORD = 63  # bits of a word that hold places of a text; the last one holds the carry
_FEW = 24  # labels for each word of a text below which one after the other is faster


class Labels:
    """The answers that MedVInT's rule knows, for finding whether one of them is nearest to a text.

    Nearest is the highest ``difflib.SequenceMatcher(None, label, text).ratio()``; of equal ones the first in the
    alphabet, capitals first; none where all ratios are 0. The result is that of trying all labels, but most need not be
    tried: the ratio is 2 M / (characters of both), and M, the characters matched, is at most the length of the shorter
    one, at most what both have, counted with repetition, and at most their longest common subsequence.

    Source: Ratcliff and Metzener, Dr. Dobb's Journal, July 1988, as implemented in the standard library.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        alphabetical = sorted(set(labels))
        places = {label: place for place, label in enumerate(alphabetical)}
        # By length, so that the labels that are neither too short nor too long lie side by side.
        self._labels = sorted(alphabetical, key=len)
        self._rows = {label: row for row, label in enumerate(self._labels)}
        self._places = np.array([places[label] for label in self._labels], dtype=np.intp)
        self._lengths = np.array([len(label) for label in self._labels], dtype=np.int32)
        known = Counter(chain.from_iterable(self._labels))
        self._numbers = {char: number for number, char in enumerate(known)}
        self._chars = np.fromiter(map(self._numbers.__getitem__, chain.from_iterable(self._labels)), dtype=np.int32)
        self._starts = np.cumsum(self._lengths) - self._lengths
        # Rare characters are only bounded by their number in the text: thousands of rows would be mostly zeros.
        self._columns = {char: column for column, (char, _) in enumerate(known.most_common(_COUNTED_CHARS))}
        self._counts = np.zeros((len(self._columns), len(self._labels)), dtype=np.int32)
        for row, label in enumerate(self._labels):
            for char, count in Counter(label).items():
                if char in self._columns:
                    self._counts[self._columns[char], row] = count
        self._found: dict[tuple[str, str], bool] = {}

    def is_nearest(self, label: str, text: str) -> bool:
        """Whether ``label``, which is one of them, is the one that ``text`` counts as."""
        key = (label, text)
        if key not in self._found:
            self._found[key] = label == text if text in self._rows else self._is_nearest(label, text)
        return self._found[key]

    def _is_nearest(self, label: str, text: str) -> bool:
        matcher = difflib.SequenceMatcher(None, label, text)
        reached = matcher.ratio()
        if reached == 0:
            return False
        here = self._rows[label]
        rivals, bounds = self._rivals(text, reached)
        rivals = rivals[np.argsort(-bounds, kind="stable")]
        rivals = rivals[rivals != here]
        for some in (rivals[:_TRIED_FIRST], rivals[_TRIED_FIRST:]):
            bounds = self._ratios(self._common_lengths(some, text), some, text)
            nearest_first = np.argsort(-bounds, kind="stable")
            nearest_first = some[nearest_first[bounds[nearest_first] >= reached]]
            if any(self._beats(row, here, reached, matcher) for row in nearest_first.tolist()):
                return False
        return True

    def _beats(self, row: int, here: int, reached: float, matcher: "difflib.SequenceMatcher[str]") -> bool:
        matcher.set_seq1(self._labels[row])
        ratio = matcher.ratio()
        return ratio > reached or (ratio == reached and bool(self._places[row] < self._places[here]))

    def _rivals(self, text: str, reached: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Rows of the labels that may be as near as ``reached``, by length and characters alone, and their bounds."""
        shortest, longest = reached * len(text) / (2 - reached), len(text) * (2 - reached) / reached
        first, last = np.searchsorted(self._lengths, (shortest - 1, longest + 1))
        counts = Counter(text)
        rare = sum(counts[char] for char in counts.keys() & self._numbers.keys() if char not in self._columns)
        matches = np.full(last - first, rare, dtype=np.int32)
        for char, count in counts.items():
            if char in self._columns:
                matches += np.minimum(self._counts[self._columns[char], first:last], count)
        rows = np.arange(first, last)
        bounds = self._ratios(matches, rows, text)
        kept = bounds >= reached
        return rows[kept], bounds[kept]

    def _common_lengths(self, rows: npt.NDArray[np.intp], text: str) -> npt.NDArray[np.int32]:
        """Length of the longest common subsequence of each label and the text; of many labels all at once."""
        words = -(-len(text) // _WORD)
        masks = _masks(text)
        if rows.size < _FEW * words:
            each = (_common_length(self._labels[row], masks, len(text)) for row in rows.tolist())
            return np.fromiter(each, dtype=np.int32, count=rows.size)
        # The masks of a text cut into words; column 0 is that of characters it does not have.
        column_of = np.zeros(len(self._numbers), dtype=np.intp)
        table = np.zeros((words, len(masks) + 1), dtype=np.uint64)
        full = np.array([(1 << min(_WORD, len(text) - _WORD * word)) - 1 for word in range(words)], dtype=np.uint64)
        for column, char in enumerate(masks.keys() & self._numbers.keys(), start=1):
            column_of[self._numbers[char]] = column
            table[:, column] = [masks[char] >> _WORD * word & (1 << _WORD) - 1 for word in range(words)]
        rest = np.repeat(full[:, None], rows.size, axis=1)
        longest_first = np.argsort(-self._lengths[rows], kind="stable")
        starts, lengths = self._starts[rows][longest_first], self._lengths[rows][longest_first]
        steps = np.arange(lengths[0])
        for step, going_on in zip(steps, np.searchsorted(-lengths, -steps).tolist(), strict=True):
            columns = column_of[self._chars[starts[:going_on] + step]]
            carry = np.zeros(going_on, dtype=np.uint64)
            for word in range(words):
                row = rest[word, :going_on]
                shared = row & table[word].take(columns)
                total = row + shared + carry
                carry = total >> np.uint64(_WORD)
                np.bitwise_and(total | (row - shared), full[word], out=row)
        found = np.empty(rows.size, dtype=np.int32)
        found[longest_first] = len(text) - np.bitwise_count(rest).sum(axis=0, dtype=np.int32)
        return found

    def _ratios(self, matches: npt.NDArray[np.int32], rows: npt.NDArray[np.intp], text: str) -> npt.NDArray[np.float64]:
        # The same division as in difflib, so that a bound that is reached equals the ratio to the last bit.
        return 2.0 * matches / np.maximum(self._lengths[rows] + len(text), 1)


def _masks(text: str) -> dict[str, int]:
    """By character, a number whose bits are the places of that character."""
    masks: dict[str, int] = {}
    for place, char in enumerate(text):
        masks[char] = masks.get(char, 0) | 1 << place
    return masks


def _common_length(label: str, masks: dict[str, int], length: int) -> int:
    """Length of the longest common subsequence with the text of ``masks``.

    Source: Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004.
    """
    full = (1 << length) - 1
    rest = full
    for char in label:
        shared = rest & masks.get(char, 0)
        rest = ((rest + shared) | (rest - shared)) & full
    return length - rest.bit_count()


def _score(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    labels = {
        answer_type: Labels([one.references[0] for one in predictions if one.answer_type == answer_type])
        for answer_type in ("closed", "open")
    }
    hits = [float(labels[one.answer_type].is_nearest(one.references[0], one.text)) for one in predictions]
    return {
        "closed_accuracy": mean_metric(only("closed", predictions, hits)),
        "open_accuracy": mean_metric(only("open", predictions, hits)),
    }


MEDVINT = Protocol(
    name="medvint",
    title="MedVInT, nearest test label",
    source=(
        "xiaoman-zhang/PMC-VQA, test.py and issue 15; Zhang et al., PMC-VQA, arXiv 2305.10415. The ratio is that of "
        "Python's difflib"
    ),
    closed=(
        "questions the data set calls closed: the answer is replaced by the label with the most similar spelling among "
        "the golds of all closed questions that are scored here; hit if that is the gold, letter for letter"
    ),
    open="questions the data set calls open: the same among the golds of all open questions",
    defects=(
        "The labels come from the test set: a model is told which answers occur in it.",
        "Scoring a part of the test set gives other numbers, since the list of labels is another.",
        "Case counts: 'Yes' and 'yes' are two labels where the data set writes both.",
        "Among equally similar labels the first of the list wins, and how the list was ordered is not published: it is "
        "sorted here.",
        "Whatever shares a letter with a label becomes that label, so that nonsense can be right.",
        "An answer of 200 characters or more loses its frequent characters in the comparison (difflib's autojunk).",
    ),
    headline=("closed_accuracy", "open_accuracy"),
    score=_score,
)
