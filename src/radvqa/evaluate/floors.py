"""Floors: what answers score that never looked at the image. A model is worth what it adds to them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from radvqa.errors import DataError
from radvqa.evaluate.normalise import answer_parts, normalise_answer
from radvqa.sample import Prediction, VqaSample


def majority(train: Sequence[VqaSample], samples: Sequence[VqaSample]) -> list[Prediction]:
    """Predictions that give each sample the most frequent training answer of its answer type.

    A type that training lacks gets the most frequent answer of all. See ``_Answers`` for what counts as one answer and
    how ties fall.

    Raises:
        DataError: there are no training samples.
    """
    answers = _Answers(train)
    by_type: dict[str, list[VqaSample]] = defaultdict(list)
    for sample in train:
        by_type[sample.answer_type].append(sample)
    best = {answer_type: answers.most_frequent(members) for answer_type, members in by_type.items()}
    overall = answers.most_frequent(train)
    return [
        _prediction(sample, best.get(sample.answer_type, overall), prompt_id="floor:majority") for sample in samples
    ]


def question_only(train: Sequence[VqaSample], samples: Sequence[VqaSample]) -> list[Prediction]:
    """Predictions from the question alone: the most frequent training answer to the same question.

    Questions are the same if their normalised texts are. A question never asked in training takes the answer of the
    nearest one by Jaccard similarity of the token sets; the answers to several equally near questions are counted
    together, so the order of the rows does not matter, and a question without any known word gets the most frequent
    answer of all. The answer type is not used: it is a label that a model does not see either.

    Source: the "per Q-type prior" baseline of Antol et al., VQA, ICCV 2015, taken down from the type of question to the
    single question.

    Raises:
        DataError: there are no training samples.
    """
    answers = _Answers(train)
    by_question: dict[str, list[VqaSample]] = defaultdict(list)
    for sample in train:
        by_question[normalise_answer(sample.question)].append(sample)
    nearest = _NearestQuestions(sorted(by_question))
    best: dict[str, str] = {}
    for sample in samples:
        question = normalise_answer(sample.question)
        if question not in best:
            sources = [question] if question in by_question else nearest.of(question)
            best[question] = answers.most_frequent(member for source in sources for member in by_question[source])
    return [
        _prediction(sample, best[normalise_answer(sample.question)], prompt_id="floor:question_only")
        for sample in samples
    ]


class _Answers:
    """Training answers (the first of each sample), counted as one when exact match holds them equal.

    The more frequent answer wins; ties fall to the more frequent in the whole training set, then to the alphabet. An
    answer is given in its most frequent spelling.
    """

    def __init__(self, train: Sequence[VqaSample]) -> None:
        if not train:
            raise DataError(
                "floors need training samples",
                where="the train split",
                expected="at least one sample",
                got="none",
                fix="check the train split of the data set that is evaluated",
            )
        self._frequency = Counter(answer_parts(sample.answers[0]) for sample in train)
        spellings: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for sample in train:
            spellings[answer_parts(sample.answers[0])][sample.answers[0]] += 1
        self._spelling = {
            answer: min(found, key=lambda text: (-found[text], text)) for answer, found in spellings.items()
        }

    def most_frequent(self, samples: Iterable[VqaSample]) -> str:
        """The most frequent answer among ``samples``, which are part of the training set."""
        found = Counter(answer_parts(sample.answers[0]) for sample in samples)
        return self._spelling[min(found, key=lambda answer: (-found[answer], -self._frequency[answer], answer))]


class _NearestQuestions:
    """Finds the known questions whose token sets are most like that of a new one."""

    def __init__(self, questions: Sequence[str]) -> None:
        self._questions = questions
        token_sets = [sorted(set(question.split())) for question in questions]
        self._column = {token: i for i, token in enumerate(sorted({t for tokens in token_sets for t in tokens}))}
        self._sizes = np.array([len(tokens) for tokens in token_sets], dtype=np.int64)
        columns = np.array([self._column[token] for tokens in token_sets for token in tokens], dtype=np.int64)
        starts = np.concatenate(([0], np.cumsum(self._sizes)))
        self._has_token = sparse.csr_array(
            (np.ones(columns.size, dtype=np.int64), columns, starts), shape=(len(questions), len(self._column))
        )

    def of(self, question: str) -> list[str]:
        """All known questions at the greatest Jaccard similarity to ``question``, in alphabetical order."""
        tokens = set(question.split())
        wanted = np.zeros(len(self._column), dtype=np.int64)
        wanted[[self._column[token] for token in tokens if token in self._column]] = 1
        shared = self._has_token @ wanted
        # A union of nothing means that both token sets are empty; they share nothing, hence similarity 0.
        similarity = shared / np.maximum(self._sizes + len(tokens) - shared, 1)
        return [self._questions[int(i)] for i in np.flatnonzero(similarity == similarity.max())]


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
        tags=sample.tags,
    )
