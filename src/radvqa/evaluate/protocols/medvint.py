"""MedVInT's rule: an answer counts as the nearest of the test set's own labels."""

import difflib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from radvqa.evaluate.protocols.answer_types import only
from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.sample import Prediction


class Labels:
    """The answers that MedVInT's rule knows, for finding whether one of them is nearest to a text.

    Nearest is the highest ``difflib.SequenceMatcher(None, label, text).ratio()``; of equal ones the first in the
    alphabet, capitals first; none where all ratios are 0. The result is that of trying all labels, but most need not be
    tried: the ratio is 2 M / (characters of both), and M, the characters matched, is at most what both have, counted
    with repetition, and at most their longest common subsequence.

    Source: Ratcliff and Metzener, Dr. Dobb's Journal, July 1988, as implemented in the standard library.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = sorted(set(labels))
        self._places = {label: place for place, label in enumerate(self._labels)}
        self._lengths = np.array([len(label) for label in self._labels], dtype=np.int32)
        chars = sorted({char for label in self._labels for char in label})
        self._columns = {char: column for column, char in enumerate(chars)}
        self._counts = np.zeros((len(chars), len(self._labels)), dtype=np.int32)
        for place, label in enumerate(self._labels):
            for char in label:
                self._counts[self._columns[char], place] += 1
        self._found: dict[tuple[str, str], bool] = {}

    def is_nearest(self, label: str, text: str) -> bool:
        """Whether ``label``, which is one of them, is the one that ``text`` counts as."""
        key = (label, text)
        if key not in self._found:
            self._found[key] = label == text if text in self._places else self._is_nearest(label, text)
        return self._found[key]

    def _is_nearest(self, label: str, text: str) -> bool:
        matcher = difflib.SequenceMatcher(None, label, text)
        reached = matcher.ratio()
        if reached == 0:
            return False
        here = self._places[label]
        masks = _masks(text)
        bounds = self._bounds(text)
        rivals = np.flatnonzero(bounds >= reached)
        for place in rivals[np.argsort(-bounds[rivals], kind="stable")].tolist():
            rival = self._labels[place]
            if place == here or 2.0 * _common_length(rival, masks, len(text)) / (len(rival) + len(text)) < reached:
                continue
            matcher.set_seq1(rival)
            ratio = matcher.ratio()
            if ratio > reached or (ratio == reached and place < here):
                return False
        return True

    def _bounds(self, text: str) -> npt.NDArray[np.float64]:
        """The highest possible ratio of each label, from the characters alone."""
        matches = np.zeros(len(self._labels), dtype=np.int32)
        for char in set(text) & self._columns.keys():
            matches += np.minimum(self._counts[self._columns[char]], text.count(char))
        # The same division as in difflib, so that a bound that is reached equals the ratio to the last bit.
        return 2.0 * matches / np.maximum(self._lengths + len(text), 1)


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
