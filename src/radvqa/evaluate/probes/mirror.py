"""Side flips: in a mirrored picture, left is right. An answer that stays does not come from the picture."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from radvqa.evaluate.metrics import accuracy
from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.probes.result import Ask, ProbeResult, example, result
from radvqa.sample import Prediction, VqaSample

_PAIRS = (("left", "right"), ("lul", "rul"), ("lll", "rll"), ("luq", "ruq"), ("llq", "rlq"))
_SWAP = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_SIDE = re.compile(rf"\b(?:{'|'.join(_SWAP)})(?=\b|sided)", re.I)
_OFFERED = re.compile(r"\b(?:left|right)(?: side)?,? or (?:the )?(?:left|right)\b(?! \w+ of)", re.I)
# Parts that carry a side in their name and keep it wherever they lie.
_NAMED_PART = re.compile(r"\b(?:atri|ventric|hepatic|colon|flexure)|\blobes? of the liver|\bliver lobe", re.I)


def swap_sides(text: str) -> str:
    """The text with left and right exchanged, abbreviations of lobes and quadrants (RUL, LLQ) too.

    >>> swap_sides("Left lung, upper right; RLL")
    'Right lung, upper left; LLL'
    """
    return _SIDE.sub(_swapped, text)


def _swapped(match: re.Match[str]) -> str:
    word = match[0]
    other = _SWAP[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def has_side(text: str) -> bool:
    """Whether a side is named."""
    return _SIDE.search(text) is not None


def mirror(samples: Sequence[VqaSample], predictions: Sequence[Prediction], ask: Ask) -> ProbeResult:
    """Ask questions with a side in them, or in their answer, about the mirrored picture.

    Sides in the reference are exchanged, and sides in the question, unless it offers them ("left or right?"). Parts
    with a side in their name are left out (chambers of the heart, lobes of the liver, colon): they keep it. A mirrored
    picture shows a patient that hardly exists, and letters burned into it are mirrored as well, so a model may also
    fail for being cautious.
    """
    left_out: Counter[str] = Counter()
    pairs: list[tuple[Prediction, VqaSample]] = []
    for sample, prediction in zip(samples, predictions, strict=True):
        if not has_side(sample.question) and not any(map(has_side, sample.answers)):
            left_out["no_side"] += 1
        elif _NAMED_PART.search(" ".join((sample.question, *sample.answers))):
            left_out["side_is_part_of_a_name"] += 1
        else:
            question = sample.question if _OFFERED.search(sample.question) else swap_sides(sample.question)
            swapped = tuple(swap_sides(answer) for answer in sample.answers)
            pairs.append((prediction, replace(sample, question=question, answers=swapped)))
    answers = ask([sample for _, sample in pairs], True)
    examples, followed, right, right_mirrored, unmoved, unmoved_groups = [], [], [], [], [], []
    for (before, sample), after in zip(pairs, answers, strict=True):
        said = normalise_answer(after.text)
        holds = bool(said) and said == normalise_answer(swap_sides(before.text))
        followed.append(float(holds))
        right.append(accuracy(before))
        right_mirrored.append(accuracy(after))
        if has_side(before.text) and sample.question == before.question:
            unmoved.append(float(normalise_answer(after.text) == normalise_answer(before.text)))
            unmoved_groups.append(sample.group_id)
        examples.append(example(before, after, held=holds))
    groups = [sample.group_id for _, sample in pairs]
    return result(
        tests="Do answers about sides follow when the picture is mirrored?",
        questions=len(pairs),
        left_out=left_out,
        shares={
            "both_right": ([one * other for one, other in zip(right, right_mirrored, strict=True)], groups),
            "right": (right, groups),
            "right_mirrored": (right_mirrored, groups),
            "followed": (followed, groups),
            "unmoved": (unmoved, unmoved_groups),
        },
        meanings={
            "both_right": "right about the picture and about its mirror image (higher is better)",
            "right": "right about the picture",
            "right_mirrored": "right about the mirrored picture",
            "followed": "the answer to the mirrored picture is the first one with sides exchanged (higher is better)",
            "unmoved": "of answers that name a side to the very same question: the same side again (lower is better)",
        },
        examples=examples,
    )
