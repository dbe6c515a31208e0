"""Answers as adapters take them, and what kind of question one belongs to where a data set does not say."""

from radvqa.sample import AnswerType

_YES_NO = frozenset(
    (
        "yes",
        "no",
        "是",
        "不是",
        "是的",
        "否",
        "有",
        "没有",
        "包含",
        "不包含",
        "可以",
        "不可以",
        "存在",
        "不存在",
        "会",
        "不会",
    )
)


def is_yes_no(answer: str) -> bool:
    """Whether an answer is a bare yes or no, in English or in one of the Chinese forms that SLAKE uses."""
    return answer.strip().rstrip(".!。").casefold() in _YES_NO


def collapsed(text: str) -> str:
    """The text without outer white space and with one blank for every run inside: all that adapters do to answers."""
    return " ".join(text.split())


def inferred_answer_type(answer: str) -> AnswerType:
    """``closed`` for yes and no, else ``open``. A choice ("left or right?") cannot be told from its answer alone."""
    return "closed" if is_yes_no(answer) else "open"
