"""Order bias: "A or B?" must be answered as "B or A?" is."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from radvqa.evaluate.metrics import accuracy
from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.probes.result import Ask, ProbeResult, example, result
from radvqa.sample import Prediction, VqaSample

_LIST = re.compile(r"(?P<stem>[^?]*[,:]\s*)(?P<options>[^:?]*?\sor\s[^,:?]*?)\s*\?\s*")
_TWO_WORDS = re.compile(
    r"(?P<stem>[^?]*?\b)(?P<one>[\w-]+)(?P<same> [\w-]+)? or "
    r"(?P<other>(?!not\b)[\w-]+)(?(same)(?P=same))(?P<tail>[^?]*)\?\s*"
)

_ARTICLE = re.compile(r"\b(?:a|an) $", re.IGNORECASE)


class Options(NamedTuple):
    """What a question offers, in its order, and the question with the order turned round."""

    names: tuple[str, ...]
    turned: str


def options(question: str, answer: str) -> Options | None:
    """The alternatives of a question and its reverse, or None where it is not clear what they are.

    Known are lists at the end ("..., MRI, CT or X-Ray?"), and two words one of which is the answer, alone or with the
    same word behind them ("hyperdense or hypodense", "T1 weighted or T2 weighted").

    >>> options("Which is bigger, liver or spleen?", "Liver").turned
    'Which is bigger, spleen or liver?'
    """
    answer = normalise_answer(answer)
    found = _LIST.fullmatch(question)
    if found is not None:
        stem, names = _offered(found["stem"], found["options"])
        if answer in map(normalise_answer, names) and len(set(names)) == len(names):
            first, *rest = reversed(names)
            separator = ", " if len(rest) > 1 else ""
            turned = f"{first}{separator}{', '.join(rest[:-1])} or {rest[-1]}"
            return Options(names, f"{stem.rstrip()} {turned}?")
    found = _TWO_WORDS.fullmatch(question)
    if found is not None and answer in (normalise_answer(found["one"]), normalise_answer(found["other"])):
        if _ARTICLE.search(found["stem"]) and _is_vowel(found["one"]) != _is_vowel(found["other"]):
            return None  # "a CT or MRI" cannot be turned round without another article
        same = found["same"] or ""
        turned = f"{found['stem']}{found['other']}{same} or {found['one']}{same}{found['tail']}?"
        return Options((found["one"], found["other"]), turned)
    return None


def _is_vowel(word: str) -> bool:
    return word[0].lower() in "aeiou"


def _offered(stem: str, text: str) -> tuple[str, tuple[str, ...]]:
    """The stem before a list and its members. A list of three reaches over commas, so the stem ends at the first."""
    head, _, middle = stem.rstrip().rstrip(",:").partition(",")
    if middle and len(middle.split()) <= 3:
        stem, text = f"{head},", f"{middle}, {text}"
    names = [part.strip() for part in re.split(r",|\sor\s", text)]
    return stem, tuple(name for name in names if name)


def order(samples: Sequence[VqaSample], predictions: Sequence[Prediction], ask: Ask) -> ProbeResult:
    """Ask questions that offer alternatives with these in reverse order.

    Source: Zheng et al., Large Language Models Are Not Robust Multiple Choice Selectors, ICLR 2024, for the bias; the
    questions are those of the data set.
    """
    left_out: Counter[str] = Counter()
    pairs: list[tuple[Prediction, VqaSample, Options]] = []
    for sample, prediction in zip(samples, predictions, strict=True):
        offered = options(sample.question, sample.answers[0])
        if offered is None:
            left_out["no_clear_alternatives"] += 1
        else:
            pairs.append((prediction, replace(sample, question=offered.turned), offered))
    answers = ask([sample for _, sample, _ in pairs], False)
    groups = [sample.group_id for _, sample, _ in pairs]
    same, first, first_turned, examples = [], [], [], []
    for (before, _, offered), after in zip(pairs, answers, strict=True):
        said, said_turned = normalise_answer(before.text), normalise_answer(after.text)
        same.append(float(said == said_turned))
        first.append(float(said == normalise_answer(offered.names[0])))
        first_turned.append(float(said_turned == normalise_answer(offered.names[-1])))
        examples.append(example(before, after, held=said == said_turned))
    shares = {
        "same_answer": same,
        "right": [accuracy(before) for before, _, _ in pairs],
        "right_turned": [accuracy(after) for after in answers],
        "took_first": first,
        "took_first_turned": first_turned,
    }
    return result(
        tests="Does the answer depend on the order in which the alternatives are named?",
        questions=len(pairs),
        left_out=left_out,
        shares={name: (scores, groups) for name, scores in shares.items()},
        meanings={
            "same_answer": "the same answer in both orders (higher is better)",
            "right": "right in the order of the data set",
            "right_turned": "right in reverse order",
            "took_first": "the alternative that was named first, order of the data set",
            "took_first_turned": "the alternative that was named first, reverse order",
        },
        examples=examples,
    )
