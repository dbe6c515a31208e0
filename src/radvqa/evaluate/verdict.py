"""The verdict of an answer to a yes/no question: yes, no, or none. It is never invented.

By words only, never by letters within words: "normal", "know", "note" and "nodule" hold no "no".
"""

import re
from typing import Literal, NamedTuple

from radvqa.evaluate.extraction import State
from radvqa.evaluate.polarity import decide

_LOOKED_AT = 4000
"""Characters of an answer that are read for a verdict."""

_YES = r"(?:yes|yeah|yep|yup|yea|affirmative|correct|true|indeed|absolutely|definitely|certainly|of course)"
_NO = (
    r"(?:no|nope|nah|incorrect|false|(?:absolutely|definitely|certainly|of course|probably|likely|apparently|clearly)"
    r" not|not at all|no way|by no means)"
)
_HARD_YES, _HARD_NO = r"(?:yes|yeah|yep|yup)", r"(?:no|nope|nah)"
_FILLER = (
    r"(?:(?:well|so|thus|hence|therefore|hm+|ok|okay|ah|oh|sure|actually|probably|likely|most likely|in conclusion"
    r"|in summary|(?:the )?answer|verdict|i(?:['’]d| would) (?:say|go with|answer)|i (?:think|believe|say)"
    r"|i['’]m going with|in my opinion|based on (?:the|this) \w+|from (?:the|this) \w+"
    r"|(?:that|it|this)(?:['’]s| is| would be) an?)"
    r"[\s,:*\"“'‘-]{1,9}){0,3}"
)
_CLAUSE_END = (
    r"(?=[\s*\"”'’)\]}]{0,6}(?:[.,;:!?\n)—–]|--|\s-\s|$|\s(?:because|as|since|but|though|although|however)\b))"
)
_AGAIN = rf"(?=\s{{1,5}}(?(yes){_HARD_YES}|{_HARD_NO})\b)"
_SUBJECT_FOLLOWS = r"(?=\s{1,5}(?:it|there|this|that|these|those|they|the|we|i|he|she|its|in|based|not)\b)"
_OPENING = re.compile(
    rf"[^\w]{{0,20}}(?:[a-h1-9][).:]\s{{1,3}})?{_FILLER}[*\"“'‘(\[]{{0,4}}(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?![\w'’])"
    rf"(?:{_CLAUSE_END}|{_AGAIN}|(?P<runs>{_SUBJECT_FOLLOWS}))",
    re.I,
)
_YES_RUNS_ON = re.compile(rf"[^\w]{{0,20}}{_FILLER}[*\"“'‘(\[]{{0,4}}(?P<yes>{_HARD_YES})(?![\w'’])", re.I)
_STATED = re.compile(
    rf"(?:\b(?:so|therefore|thus|hence|conclude|say|with|is|be|answer|an?|:)[\s,:*\"“'‘]{{1,6}})"
    rf"(?:(?P<yes>{_HARD_YES})|(?P<no>{_HARD_NO}))(?![\w'’]){_CLAUSE_END}",
    re.I,
)
_ALONE = re.compile(
    rf"(?:^|[.,;:!?\n(])[\s*\"“'‘]{{0,6}}(?:(?P<yes>{_HARD_YES})|(?P<no>{_HARD_NO}))(?![\w'’]){_CLAUSE_END}", re.I
)
_BOTH = re.compile(
    rf"\b{_HARD_YES}\s{{0,3}}(?:or\s|and\s|/|\||\s)\s{{0,3}}{_HARD_NO}\b"
    rf"|\b{_HARD_NO}\s{{0,3}}(?:or\s|and\s|/|\||\s)\s{{0,3}}{_HARD_YES}\b",
    re.I,
)
_ALTERNATIVES = re.compile(
    rf"\W{{0,9}}(?:(?:either|both)\s)?(?:[\w-]+,?\s){{1,4}}(?:or|and/or)\s[\w-]+(?:\s[\w-]+){{0,3}}\W{{0,9}}"
    rf"|\W{{0,9}}(?:{_HARD_YES}\W{{1,3}}(?:and\s)?{_HARD_NO}|{_HARD_NO}\W{{1,3}}(?:and\s)?{_HARD_YES})\W{{0,9}}",
    re.I,
)
_EITHER_ORDER = re.compile(rf"{_HARD_YES}.*{_HARD_NO}|{_HARD_NO}.*{_HARD_YES}", re.I | re.S)
_KIND_OF_QUESTION = re.compile(r"\byes\s{0,3}(?:or|and|/|-)\s{0,3}no[\s-]{1,3}(?:question|answer)s?\b", re.I)
_CORRECTION = re.compile(
    rf"\b(?:actually|wait|correction|sorry|rather|i mean(?:t)?|on second thought|let me correct (?:that|myself)"
    rf"|scratch that|i take that back|in fact|instead)[\s,:;.—–-]{{1,6}}"
    rf"(?:it is |it's |i mean |the answer (?:is|should be) )?"
    rf"(?:(?P<yes>{_HARD_YES})|(?P<no>{_HARD_NO}))(?![\w'’]){_CLAUSE_END}",
    re.I,
)
_WITHDRAWN = re.compile(
    r"\b(?:i(?:['’]m| am) (?:not (?:entirely |really |quite )?(?:sure|certain)|unsure|uncertain)"
    r"|i (?:don['’]?t|do not|can['’]?t|cannot) (?:really )?(?:know|tell|say|determine))\b",
    re.I,
)


class Verdict(NamedTuple):
    """``verdict`` is None unless ``state`` is ``answered``; ``span`` counts from the start of the text given."""

    state: State
    verdict: Literal["yes", "no"] | None
    rule: str
    span: tuple[int, int]


def read_verdict(text: str, *, question: str) -> Verdict:
    """What ``text``, an extracted answer, says to the yes/no ``question``. Never raises.

    In this order: both words offered ("yes or no") is ambiguous; a verdict word that opens the answer, unless a later
    correction or doubt withdraws it; a verdict stated later ("..., so yes"); the polarity of the statement relative to
    the question (``radvqa.evaluate.polarity``). Nothing of these: no verdict.
    """
    part = _KIND_OF_QUESTION.sub(lambda found: "-" * len(found[0]), text[:_LOOKED_AT])
    return _both(part) or _corrected(part) or _opened(part) or _stated(part) or _by_polarity(part, question)


def offers_alternatives(text: str) -> bool:
    """Whether an answer names several things to choose from, and nothing else: "left or right", "yes/no"."""
    return len(text) <= 200 and _ALTERNATIVES.fullmatch(text) is not None


def _both(text: str) -> Verdict | None:
    both = _BOTH.search(text) or (_EITHER_ORDER.search(text) if offers_alternatives(text) else None)
    return None if both is None else Verdict("ambiguous", None, "both_verdicts", both.span())


def _corrected(text: str) -> Verdict | None:
    corrections = list(_CORRECTION.finditer(text))
    return _said(corrections[-1], "corrected") if corrections else None


def _opened(text: str) -> Verdict | None:
    found = _OPENING.match(text)
    if found is None:
        # "Yes there ..." opens with a verdict whatever follows; "No effusion" is a statement, see polarity.
        found = _YES_RUNS_ON.match(text)
        return None if found is None else _unless_withdrawn(text, _said(found, "opening"))
    if found["runs"] is not None and found["yes"] is not None and not re.fullmatch(_HARD_YES, found["yes"], re.I):
        return None
    return _unless_withdrawn(text, _said(found, "opening"))


def _stated(text: str) -> Verdict | None:
    stated = list(_STATED.finditer(text)) or list(_ALONE.finditer(text))
    if not stated:
        return None
    if len({one["yes"] is None for one in stated}) > 1:
        return Verdict("ambiguous", None, "both_verdicts", (stated[0].start(), stated[-1].end()))
    doubt = _WITHDRAWN.search(text)
    return _said(stated[-1], "stated") if doubt is None else Verdict("unsure", None, "withdrawn", doubt.span())


def _by_polarity(text: str, question: str) -> Verdict:
    decisions = decide(question, text)
    if not decisions:
        return Verdict("no_verdict", None, "no_verdict", (0, len(text)))
    if len({one.verdict for one in decisions}) > 1:
        return Verdict("ambiguous", None, "contradiction", (decisions[0].span[0], decisions[-1].span[1]))
    return Verdict("answered", decisions[0].verdict, decisions[0].rule, decisions[0].span)


def _unless_withdrawn(text: str, opening: Verdict) -> Verdict:
    others = [
        one for one in _ALONE.finditer(text, opening.span[1]) if (one["yes"] is not None) != (opening.verdict == "yes")
    ]
    if others:
        return Verdict("ambiguous", None, "both_verdicts", (opening.span[0], others[0].end()))
    doubt = _WITHDRAWN.search(text, opening.span[1])
    return opening if doubt is None else Verdict("unsure", None, "withdrawn", doubt.span())


def _said(found: re.Match[str], rule: str) -> Verdict:
    name: Literal["yes", "no"] = "yes" if found.groupdict().get("yes") is not None else "no"
    return Verdict("answered", name, rule, found.span(name))
