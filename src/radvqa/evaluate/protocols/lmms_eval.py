"""The SLAKE task of lmms-eval: equality after a normaliser of its own, English and Chinese."""

import string
from collections.abc import Sequence
from functools import lru_cache

from radvqa.evaluate.protocols.answer_types import by_answer_type
from radvqa.evaluate.protocols.protocol import Metric, Protocol
from radvqa.sample import Prediction

_BRACKETS = (("(", ")"), ("\N{FULLWIDTH LEFT PARENTHESIS}", "\N{FULLWIDTH RIGHT PARENTHESIS}"))
_FULL_WIDTH = "".join(chr(ord(mark) - ord("!") + ord("\N{FULLWIDTH EXCLAMATION MARK}")) for mark in string.punctuation)
_CHINESE_PUNCTUATION = _FULL_WIDTH.replace("\N{FULLWIDTH FULL STOP}", "") + "｡、。《》【】"
_TO_BLANK = str.maketrans(dict.fromkeys(string.punctuation + _CHINESE_PUNCTUATION, " "))
_WHOLE_TEXT = {
    "x ray": "xray",
    **dict.fromkeys(("yes", "yeah", "yep", "true"), "yes"),
    **dict.fromkeys(("no", "nope", "false"), "no"),
    **dict.fromkeys(("是", "是的", "有", "包含", "可以", "能", "会", "正常"), "yes"),
    **dict.fromkeys(("否", "不是", "没有", "无", "不包含", "不能", "不会", "不可以", "不正常", "异常"), "no"),
}


@lru_cache(maxsize=1 << 12)
def normalise_lmms_eval(text: str) -> str:
    """Lower case without groups in round brackets; ASCII and Chinese punctuation become blanks; then whole texts map.

    >>> normalise_lmms_eval("Nope."), normalise_lmms_eval("X-Ray (chest)"), normalise_lmms_eval("3.5")
    ('no', 'xray', '3 5')
    """
    text = text.strip().lower()
    for opening, closing in _BRACKETS:
        text = _without_groups(text, opening, closing)
    text = " ".join(text.translate(_TO_BLANK).split())
    return _WHOLE_TEXT.get(text, text)


def _without_groups(text: str, opening: str, closing: str) -> str:
    """A blank in place of each stretch from an opening bracket to the next closing one, in one pass."""
    kept, at = [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        kept.append(text[at:start])
        at = end + 1
    return " ".join([*kept, text[at:]])


def _score(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    items = [float(normalise_lmms_eval(one.text) == normalise_lmms_eval(one.references[0])) for one in predictions]
    return by_answer_type(predictions, items)


LMMS_EVAL_SLAKE = Protocol(
    name="lmms_eval_slake",
    title="lmms-eval SLAKE",
    source="github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/slake/utils.py (65ef07d)",
    closed="Equality of prediction and gold after its own normaliser.",
    open=(
        "The same. Closed and open are as the data set labels them; its accuracies by modality and content type are "
        "the same items in slices."
    ),
    defects=(
        "A sentence or a tag around a right answer makes it wrong.",
        "All punctuation becomes blanks: '3.5' equals '3 5' and '-50' equals '50'.",
        "Text in round brackets is ignored.",
        "'true' is yes and 'false' is no; in Chinese 'normal' is yes and 'abnormal' is no, whatever was asked.",
    ),
    headline=("closed_accuracy", "open_accuracy", "overall_accuracy"),
    score=_score,
)
