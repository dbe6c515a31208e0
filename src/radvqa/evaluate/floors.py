"""Floors: what answers score that never looked at the image. A model is worth what it adds to them."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import sparse

from radvqa.errors import DataError
from radvqa.sample import Prediction, VqaSample

FOLDS = 5

Floor = Callable[[Sequence[VqaSample], Sequence[VqaSample]], list[Prediction]]
"""Predictions for the second samples from the answers to the first."""


def majority(train: Sequence[VqaSample], samples: Sequence[VqaSample]) -> list[Prediction]:
    """Predictions that give each sample the most frequent training answer of its answer type.

    A type that training lacks gets the most frequent answer of all. Answers are counted as one when their words are
    equal (see ``words``); of equally frequent ones the first in training wins, in its first spelling.

    Raises:
        DataError: there are no training samples.
    """
    _require_training(train)
    by_type: dict[str, list[VqaSample]] = defaultdict(list)
    for sample in train:
        by_type[sample.answer_type].append(sample)
    best = {answer_type: _most_frequent(members) for answer_type, members in by_type.items()}
    overall = _most_frequent(train)
    return [
        _prediction(sample, best.get(sample.answer_type, overall), prompt_id="floor:majority") for sample in samples
    ]


def question_only(train: Sequence[VqaSample], samples: Sequence[VqaSample]) -> list[Prediction]:
    """Predictions from the question alone: the most frequent training answer to the same question.

    Questions are the same if their words are (see ``words``). Of equally frequent answers the one seen first in
    training wins. A question never asked in training takes the answer of the training row whose question is nearest by
    Jaccard similarity of the word sets, the first such row in file order. The answer type is not used: it is a label
    that a model does not see either.

    Source: the "per Q-type prior" baseline of Antol et al., VQA, ICCV 2015, taken down from the type of question to the
    single question.

    Raises:
        DataError: there are no training samples.
    """
    _require_training(train)
    by_question: dict[tuple[str, ...], list[VqaSample]] = defaultdict(list)
    for sample in train:
        by_question[words(sample.question)].append(sample)
    nearest = _NearestQuestions(list(by_question))
    best: dict[tuple[str, ...], str] = {}
    for sample in samples:
        question = words(sample.question)
        if question not in best:
            known = by_question.get(question)
            best[question] = _most_frequent(known) if known else by_question[nearest.of(question)][0].answers[0]
    return [_prediction(sample, best[words(sample.question)], prompt_id="floor:question_only") for sample in samples]


def constant(samples: Sequence[VqaSample], answer: str) -> list[Prediction]:
    """Predictions that give every sample the same answer, such as "Yes"."""
    return [_prediction(sample, answer, prompt_id=f"floor:always_{answer.lower()}") for sample in samples]


def cross_fitted(floor: Floor, samples: Sequence[VqaSample], *, seed: int = 0) -> list[Prediction]:
    """A floor where there is no training split: groups are dealt into five folds, and each learns from the others.

    Raises:
        DataError: all samples are of one group.
    """
    groups = sorted({sample.group_id for sample in samples})
    if len(groups) < 2:
        raise DataError(
            "a floor without a training split needs two groups at least",
            expected="several patients, cases or images",
            got=f"{len(groups)} group",
            fix="evaluate more images",
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    fold_of = {groups[place]: number % FOLDS for number, place in enumerate(order)}
    found: dict[str, Prediction] = {}
    for fold in range(min(FOLDS, len(groups))):
        inside = [sample for sample in samples if fold_of[sample.group_id] == fold]
        others = [sample for sample in samples if fold_of[sample.group_id] != fold]
        found |= {one.sample_id: one for one in floor(others, inside)}
    return [found[sample.sample_id] for sample in samples]


def words(text: str) -> tuple[str, ...]:
    """The lower-case runs of letters and digits of a text, in their order."""
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def _most_frequent(samples: Iterable[VqaSample]) -> str:
    """The most frequent first answer in its first spelling; of equally frequent ones the first seen."""
    count: Counter[tuple[str, ...]] = Counter()
    spelling: dict[tuple[str, ...], str] = {}
    for sample in samples:
        answer = words(sample.answers[0])
        count[answer] += 1
        spelling.setdefault(answer, sample.answers[0])
    return spelling[max(count, key=lambda answer: count[answer])]


def _require_training(train: Sequence[VqaSample]) -> None:
    if not train:
        raise DataError(
            "floors need training samples",
            where="the train split",
            expected="at least one sample",
            got="none",
            fix="check the train split of the data set that is evaluated",
        )


class _NearestQuestions:
    """Finds the known question whose word set is most like that of a new one."""

    def __init__(self, questions: Sequence[tuple[str, ...]]) -> None:
        self._questions = questions
        word_sets = [sorted(set(question)) for question in questions]
        self._column = {word: i for i, word in enumerate(sorted({w for some in word_sets for w in some}))}
        self._sizes = np.array([len(some) for some in word_sets], dtype=np.int64)
        columns = np.array([self._column[word] for some in word_sets for word in some], dtype=np.int64)
        starts = np.concatenate(([0], np.cumsum(self._sizes)))
        self._has_word = sparse.csr_array(
            (np.ones(columns.size, dtype=np.int64), columns, starts), shape=(len(questions), len(self._column))
        )

    def of(self, question: tuple[str, ...]) -> tuple[str, ...]:
        """The known question at the greatest Jaccard similarity to ``question``, the first of equals."""
        wanted_words = set(question)
        wanted = np.zeros(len(self._column), dtype=np.int64)
        wanted[[self._column[word] for word in wanted_words if word in self._column]] = 1
        shared = self._has_word @ wanted
        # A union of nothing means that both word sets are empty; they share nothing, hence similarity 0.
        similarity = shared / np.maximum(self._sizes + len(wanted_words) - shared, 1)
        return self._questions[int(similarity.argmax())]


def _prediction(sample: VqaSample, answer: str, *, prompt_id: str) -> Prediction:
    return Prediction(
        sample_id=sample.sample_id,
        group_id=sample.group_id,
        image_id=sample.image_id,
        question=sample.question,
        references=sample.answers,
        answer_type=sample.answer_type,
        text=answer,
        prompt_id=prompt_id,
        finished=True,
        token_ids=(),
        logprob=None,
        link_id=sample.link_id,
        dialogue_id=sample.dialogue_id,
        turn=sample.turn,
        tags=sample.tags,
    )
