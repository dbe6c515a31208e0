"""Contradictory pairs: whoever says that X is there must deny that X is absent."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from radvqa.data.answers import is_yes_no
from radvqa.evaluate.metrics import accuracy, score_answer
from radvqa.evaluate.probes.result import Ask, ProbeResult, example, result
from radvqa.sample import Prediction, VqaSample

_NEGATED = re.compile(
    r"\b(?:no|not|never|without|absent|absence|free of|lack|lacks|missing|neither|nor|or)\b", re.IGNORECASE
)
# Amounts, comparisons and participles: "more than 8 ribs shown" is not opposed by "absent".
_NOT_A_THING = re.compile(
    r"[\d<>]|\b(?:all|both|located|more|less|one|only|same|number of|with)\b"
    r"|\b(?:shown|seen|visible|given|used|noted)$",
    re.IGNORECASE,
)
_NOT_A_STATE = re.compile(r"\b(?:than|of|and|image|like|as) $", re.IGNORECASE)
_OPPOSITES = {"normal": "abnormal", "abnormal": "normal", "healthy": "unhealthy", "unhealthy": "healthy"}
_STATE = "|".join(_OPPOSITES)
_WHERE = r"(?P<tail>(?: in (?:this|the) [^?]+)?)"
_SOME = r"(?:any )?(?:evidence of )?(?:any )?"
# Whole questions without their mark, and the opposite; of those with a state, the state is exchanged.
_RULES = (
    (rf"(?P<head>(?:is|are) (?:the|this) [^,?]+? )(?P<state>{_STATE}){_WHERE}", "{head}{opposite}{tail}"),
    (rf"(?P<head>(?:do|does) [^,?]+? look )(?P<state>{_STATE}){_WHERE}", "{head}{opposite}{tail}"),
    (r"(?P<be>is|are) (?P<x>(?!there\b)[^,?]+?) present(?P<tail>(?: [^?]+)?)", "{be} {x} absent{tail}"),
    (rf"(?P<be>is|are) there {_SOME}(?P<x>[^,?]+?) present(?P<tail>(?: [^?]+)?)", "{be} {x} absent{tail}"),
    (rf"(?P<be>is|are) there {_SOME}(?P<x>[^,?]+?){_WHERE}", "{be} {x} absent{tail}"),
    (r"does the (?P<view>picture|image) contain (?P<x>[^,?]+)", "is {x} absent from the {view}"),
    (r"does the (?P<x>[^,?]+?) (?:exist|appear) in (?P<view>(?:this|the) \w+)", "is the {x} absent from {view}"),
    (r"can (?P<x>[^,?]+?) be (?:observed|seen)(?P<tail>(?: [^?]+)?)", "is {x} absent{tail}"),
    (rf"(?:do|can) you see {_SOME}(?P<x>[^,?]+?){_WHERE}", "is {x} absent{tail}"),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), form) for pattern, form in _RULES)


def opposite(question: str) -> str | None:
    """The question that has the opposite answer, or None where no rule is sure of it.

    Negations inside are avoided ("Is there no effusion?" can be answered both ways in English): the opposite asks
    whether something is absent, or swaps normal and abnormal, healthy and unhealthy.

    >>> opposite("Is there a pleural effusion?")
    'Is a pleural effusion absent?'
    """
    text = " ".join(question.split()).removesuffix("?").rstrip()
    if _NEGATED.search(text):
        return None
    for pattern, form in _COMPILED:
        if found := pattern.fullmatch(text):
            parts = found.groupdict()
            if _NOT_A_THING.search(parts.get("x", "")) or _NOT_A_STATE.search(parts.get("head", "")):
                return None
            made = form.format_map({**parts, "opposite": _OPPOSITES.get(parts.get("state", "").lower(), "")})
            return f"{made[0].upper()}{made[1:]}?"
    return None


def contradiction(samples: Sequence[VqaSample], predictions: Sequence[Prediction], ask: Ask) -> ProbeResult:
    """Ask the opposite of yes/no questions; see ``opposite``. Both answers must be right, as in ProbMed.

    Source: Yan et al., Worse than Random? (ProbMed), arXiv 2405.20421, 2024.
    """
    left_out: Counter[str] = Counter()
    pairs: list[tuple[Prediction, VqaSample]] = []
    for sample, prediction in zip(samples, predictions, strict=True):
        made = opposite(sample.question) if is_yes_no(sample.answers[0]) and sample.language == "en" else None
        if not is_yes_no(sample.answers[0]):
            left_out["answer_not_yes_or_no"] += 1
        elif made is None:
            left_out["no_sure_opposite"] += 1
        else:
            flipped = "No" if sample.answers[0].strip().lower().startswith("yes") else "Yes"
            pairs.append((prediction, replace(sample, question=made, answers=(flipped,))))
    answers = ask([sample for _, sample in pairs], False)
    groups = [sample.group_id for _, sample in pairs]
    before_right = [accuracy(before) for before, _ in pairs]
    after_right = [accuracy(after) for after in answers]
    verdicts, examples = [], []
    for (before, _), after in zip(pairs, answers, strict=True):
        said = score_answer(before).verdict, score_answer(after).verdict
        verdicts.append(said)
        examples.append(example(before, after, held=set(said) == {"yes", "no"}))
    shares = {
        "both_right": [one * other for one, other in zip(before_right, after_right, strict=True)],
        "question_right": before_right,
        "opposite_right": after_right,
        "opposed": [float(set(said) == {"yes", "no"}) for said in verdicts],
        "both_yes": [float(set(said) == {"yes"}) for said in verdicts],
        "both_no": [float(set(said) == {"no"}) for said in verdicts],
    }
    return result(
        tests="Is a question answered with the opposite of the answer to its opposite?",
        questions=len(pairs),
        left_out=left_out,
        shares={name: (scores, groups) for name, scores in shares.items()},
        meanings={
            "both_right": "question and opposite both right (higher is better; always yes, or always no, gives 0)",
            "question_right": "the question of the data set right",
            "opposite_right": "its opposite right",
            "opposed": "one yes and one no, right or wrong (higher is better)",
            "both_yes": "yes to both: leans to yes",
            "both_no": "no to both: leans to no",
        },
        examples=examples,
    )
