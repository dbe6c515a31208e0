"""Floors on the English part of real SLAKE, in the variant whose statistics are published as reference values.

Question-only: the most frequent training answer to the same question (first seen wins ties); for a new question that of
the training row whose question has the highest Jaccard similarity of token sets (first in the file wins ties).
Majority: the most frequent training answer of the answer type. Answers are right if their lower-case alphanumeric
tokens are equal. Rows whose picture is missing count as well.
"""

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

SLAKE = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0"


@dataclass(frozen=True)
class Floors:
    question_only: np.ndarray
    majority: np.ndarray
    closed: np.ndarray
    images: np.ndarray


def tokens(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", str(text).lower()))


def rows(name: str) -> list[dict[str, object]]:
    found = json.loads((SLAKE / f"{name}.json").read_text(encoding="utf-8"))
    return [row for row in found if row["q_lang"] == "en"]


@cache
def floors() -> Floors:
    by_question, by_type = defaultdict(Counter), defaultdict(Counter)
    first = {}
    for row in rows("train"):
        by_question[tokens(row["question"])][tokens(row["answer"])] += 1
        first.setdefault(tokens(row["question"]), tokens(row["answer"]))
        by_type[row["answer_type"].strip()][tokens(row["answer"])] += 1
    sets = [(set(question), answer) for question, answer in first.items()]

    def from_nearest(question: tuple[str, ...]) -> tuple[str, ...]:
        wanted = set(question)
        return max(sets, key=lambda known: len(wanted & known[0]) / len(wanted | known[0]))[1]

    val = rows("validate")
    right = []
    for row in val:
        question, answer = tokens(row["question"]), tokens(row["answer"])
        known = question in by_question
        guess = by_question[question].most_common(1)[0][0] if known else from_nearest(question)
        right.append((guess == answer, by_type[row["answer_type"].strip()].most_common(1)[0][0] == answer))
    both = np.array(right, dtype=float)
    return Floors(
        question_only=both[:, 0],
        majority=both[:, 1],
        closed=np.array([row["answer_type"].strip() == "CLOSED" for row in val]),
        images=np.array([row["img_id"] for row in val]),
    )
