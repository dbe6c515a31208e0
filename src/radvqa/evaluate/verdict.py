"""The verdict of an answer to a yes/no question: yes, no, or none. It is never invented.

By words only, never by letters within words: "normal", "know", "note" and "nodule" hold no "no".
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from radvqa.evaluate.extraction import REFUSED, UNSURE, State
from radvqa.evaluate.polarity import covers, decide

_LOOKED_AT = 4000
"""Characters of an answer that are read for a verdict."""

_HARD_YES, _HARD_NO = r"(?:yes|yeah|yep|yup)", r"(?:no|nope|nah)"
_SOFT_YES = r"(?:certainly|of course|absolutely|definitely|indeed|correct|sure|true|right|exactly)"
_SOFT_NO = r"(?:incorrect|false|wrong)"
_YES = r"(?:yes|yeah|yep|yup|yea|affirmative)"
_NO = (
    r"(?:no|nope|nah|(?:absolutely|definitely|certainly|of course|probably|likely|apparently|clearly)"
    r" not|not at all|no way|by no means)"
)
_FILLER = (
    r"(?:(?:well|so|thus|hence|therefore|hm+|ok|okay|ah|oh|sure|actually|probably|likely|most likely|in conclusion"
    r"|in summary|(?:the )?answer|verdict|i(?:['’]d| would) (?:say|go with|answer)|i (?:think|believe|say)"
    r"|i['’]m going with|in my opinion|based on (?:the|this) \w+|from (?:the|this) \w+|(?:i['’]m |i am )?sorry|but"
    r"|(?:that|it|this)(?:['’]s| is) an?)"
    r"[\s,:*\"“'‘-]{1,9}){0,3}"
)
_CLAUSE_END = (
    r"(?=[\s*\"”'’)\]}]{0,6}(?:[.,;:!?\n)—–<]|--|\s-\s|$|\s(?:because|as|since|but|though|although|however|from me)\b))"
)
_AGAIN = rf"(?=\s{{1,5}}(?(yes){_HARD_YES}|{_HARD_NO})\b)"
_SUBJECT_FOLLOWS = r"(?=\s{1,5}(?:it|there|this|that|these|those|they|the|we|i|he|she|its|in|based|not)\b)"
_OPENING = re.compile(
    rf"[^\w]{{0,20}}(?:(?:option\s)?[a-h1-9][).:]\s{{1,3}})?{_FILLER}[*\"“'‘(\[]{{0,4}}(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?![\w'’])"
    rf"(?:{_CLAUSE_END}|{_AGAIN}|{_SUBJECT_FOLLOWS})",
    re.I,
)
_YES_RUNS_ON = re.compile(rf"[^\w]{{0,20}}{_FILLER}[*\"“'‘(\[]{{0,4}}(?P<yes>{_HARD_YES})(?![\w'’])", re.I)
_SOFT = re.compile(
    rf"\W{{0,20}}(?:(?P<yes>{_SOFT_YES})|(?P<no>{_SOFT_NO}))(?![\w'’])(?=\W{{0,5}}$|\s{{0,3}}[.,:;!?\n—–-]"
    rf"|\s{{1,5}}(?:there|it|this|the|yes|no|i)\b)",
    re.I,
)
_COURTESY = re.compile(
    r"\W{0,20}(?:(?:yes|yeah|sure|certainly|absolutely|of course|definitely|no problem|no worries|ok|okay)[\s,.!]{1,4}"
    r"(?:sir|madam|doctor)?[\s,.!]{0,4}){1,3}(?:(?:i|we)(?:['’](?:d|ll|m|re)| would| will| can| could| am| are)?"
    r"(?: be)?(?: (?:happy|glad|able|pleased))?(?: to)? (?:help|assist|analy[sz]e|answer|look|take a look|describe)\b"
    r"|let me\b|happy to\b|glad to\b)[^.!\n]{0,200}(?:[.!\n]|$)"
    r"|\W{0,20}no (?:problem|worries)[\s,.!]{1,4}",
    re.I,
)
_STATED = re.compile(
    rf"(?:\b(?:so|therefore|thus|hence|conclude|say|with|is|be|answer|but|an?|final)[\s,:*\"“'‘]{{1,6}})"
    rf"(?:(?P<yes>{_HARD_YES})|(?P<no>{_HARD_NO}))(?![\w'’]){_CLAUSE_END}",
    re.I,
)
_ALONE = re.compile(
    rf"(?:^|[.,;!?\n(>{{])[\s*\"“'‘]{{0,6}}(?:(?P<yes>{_HARD_YES})|(?P<no>{_HARD_NO}))(?![\w'’]){_CLAUSE_END}", re.I
)
_LABELLED = re.compile(
    rf"(?:^|(?<=[\n,;.{{(]))(?P<label>[^\n,;.:{{}}=]{{1,80}})[:=][\s*\"“'‘]{{0,6}}"
    rf"(?:(?P<yes>{_HARD_YES})|(?P<no>{_HARD_NO}))(?![\w'’]){_CLAUSE_END}",
    re.I,
)
_OWN_LABEL = re.compile(
    r"\W*(?:(?:the|my|so|thus|therefore|option|final|correct|overall)\s+)*"
    r"(?:answer|verdict|conclusion|response|result|assessment|impression|option|[a-h])?\W*$",
    re.I,
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
_OPTION_LIST = re.compile(
    rf"\W{{0,9}}[a-g1-8][).:]\s{{1,3}}(?:{_HARD_YES}\W{{1,9}}[b-h2-9][).:]\s{{1,3}}{_HARD_NO}"
    rf"|{_HARD_NO}\W{{1,9}}[b-h2-9][).:]\s{{1,3}}{_HARD_YES})\b",
    re.I,
)
_EITHER_ORDER = re.compile(rf"{_HARD_YES}.*{_HARD_NO}|{_HARD_NO}.*{_HARD_YES}", re.I | re.S)
_KIND_OF_QUESTION = re.compile(
    r"\byes\s{0,3}(?:or|and|/|-)\s{0,3}no(?:[\s-]{1,3}(?:question|answer)s?\b|\s{0,3}[?:](?=.{0,9}\w)|(?=\.\s{1,3}\w))",
    re.I | re.S,
)
_CORRECTION = re.compile(
    rf"\b(?:actually|wait|correction|sorry|rather|i mean(?:t)?|on second thoughts?|let me correct (?:that|myself)"
    rf"|scratch that|i take that back|in fact|instead|i misread|hold on)[\s,:;.—–-]{{1,6}}"
    rf"(?:it is |it's |i mean |the answer (?:is|should be) )?"
    rf"(?:(?P<yes>{_HARD_YES})|(?P<no>{_HARD_NO}))(?![\w'’]){_CLAUSE_END}",
    re.I,
)
_SECOND_THOUGHT = re.compile(
    r"\b(?:wait|hold on|correction|on second (?:thoughts?|look)|on reflection|(?:on|upon) (?:closer|further)"
    r" (?:inspection|look|review|examination)|look(?:ing)? (?:again|closer|more closely)|i misread|i was wrong"
    r"|(?:let me|i) correct (?:that|myself)|scratch that|i take that back|my mistake)\b[\s,:;.!—–-]{0,6}",
    re.I,
)
_WITHDRAWN = re.compile(
    r"\b(?:i(?:['’]m| am) (?:not (?:entirely |really |quite )?(?:sure|certain)|unsure|uncertain)"
    r"|i (?:don['’]?t|do not|can['’]?t|cannot) (?:really )?(?:know|tell|say|determine|answer))\b",
    re.I,
)
_TAKEN_BACK = re.compile(
    r"[\s*\"”'’)]{0,4}(?:\?|[\s,;(–—-]{1,4}(?:maybe|perhaps|possibly|if|only|when|unless|or|provided"
    r"|assuming|depend\w+|and no|not|would|could|may|might|is|was|can|should)\b"
    r"|\.\s{0,2}\d|\s{1,2}\d)",
    re.I,
)
_NOT_SAID = re.compile(
    r"\b(?:not|\w+n['’]t|cannot|never|wrong|incorrect|false|mistaken|doubt|doubtful|unlikely|whether|if|unless|may|might"
    r"|could|would be (?!an?\b)|were|some|others?|maybe|perhaps|possibly|either|neither|nobody|options?|choices?|choose"
    r"|possible answers|told|asked|instructed|supposed|tempt\w+|guess\w*|expected|going to"
    r"|too (?:\w+ )?to|\w+ question)\b[^.;!?\n]*$"
    r"|\b(?:dr|mr|mrs|ms|prof)\.?\s*$",
    re.I,
)
_PRONOUN = re.compile(r"\W*(?:it|they|this|that|these|those|he|she)\b", re.I)
_STOP = re.compile(r"[.;!?\n]")


class Verdict(NamedTuple):
    """``verdict`` is None unless ``state`` is ``answered``; ``span`` counts from the start of the text given."""

    state: State
    verdict: Literal["yes", "no"] | None
    rule: str
    span: tuple[int, int]


def read_verdict(text: str, *, question: str) -> Verdict:
    """What ``text``, an extracted answer, says to the yes/no ``question``. Never raises.

    Courtesies ("Certainly! I can help.") are no verdict; they count only where nothing else is said. Then, in this
    order: both words offered ("yes or no") is ambiguous; a correction; a verdict word that opens the answer, unless
    what follows takes it back; a verdict stated later ("..., so yes"); the polarity of the statement relative to the
    question (``radvqa.evaluate.polarity``). Nothing of these: no verdict.
    """
    part = _KIND_OF_QUESTION.sub(lambda found: "-" * len(found[0]), text[:_LOOKED_AT])
    courtesy = _COURTESY.match(part)
    if courtesy is not None:
        part = " " * courtesy.end() + part[courtesy.end() :]
    soft = _SOFT.match(part)
    if soft is None:
        return _read(part, question)
    rest = part[soft.end() :]
    if re.search(r"\w", rest) is None:
        return Verdict("unsure", None, "withdrawn", soft.span()) if "?" in rest else _said(soft, "opening")
    found = _read(" " * soft.end() + rest, question)
    if soft["no"] is not None and found.verdict == "yes":
        return Verdict("ambiguous", None, "contradiction", (soft.start(), found.span[1]))
    return found


def _read(part: str, question: str) -> Verdict:
    return (
        _both(part)
        or _corrected(part)
        or _opened(part, question)
        or _labelled(part, question)
        or _stated(part, question)
        or _by_polarity(part, question)
    )


def offers_alternatives(text: str) -> bool:
    """Whether an answer names several things to choose from, and nothing else: "left or right", "yes/no"."""
    return len(text) <= 200 and _ALTERNATIVES.fullmatch(text) is not None


def _both(text: str) -> Verdict | None:
    both = (
        _BOTH.search(text)
        or _OPTION_LIST.match(text)
        or (_EITHER_ORDER.search(text) if offers_alternatives(text) else None)
    )
    return None if both is None else Verdict("ambiguous", None, "both_verdicts", both.span())


def _corrected(text: str) -> Verdict | None:
    corrections = [one for one in _CORRECTION.finditer(text) if _is_said(text, one)]
    if not corrections or (corrections[-1].start() < 3 and corrections[-1][0][:5].lower() == "sorry"):
        return None
    found = _said(corrections[-1], "corrected")
    return found if _TAKEN_BACK.match(text, found.span[1]) is None else None


def _opened(text: str, question: str) -> Verdict | None:
    # "Yes there ..." opens with a verdict whatever follows; "No effusion" is a statement, see polarity.
    found = _OPENING.match(text) or _YES_RUNS_ON.match(text)
    return None if found is None else _unless_taken_back(text, question, _said(found, "opening"))


def _unless_taken_back(text: str, question: str, opening: Verdict) -> Verdict:  # noqa: PLR0911
    begin = opening.span[1]
    back = _TAKEN_BACK.match(text, begin)
    if back is not None:
        return Verdict("unsure", None, "withdrawn", (opening.span[0], back.end()))
    stop = _STOP.search(text, begin)
    sentence_end = stop.start() if stop is not None else len(text)
    refused = REFUSED.search(text, begin, sentence_end)
    if refused is not None:
        return Verdict("refused", None, "withdrawn", refused.span())
    doubt = UNSURE.search(text, begin, sentence_end) or _WITHDRAWN.search(text, begin)
    if doubt is not None:
        return Verdict("unsure", None, "withdrawn", doubt.span())
    later = [*_standing(text, question, begin), *_said_later(text, begin)]
    others = [one for one in later if _said(one, "").verdict != opening.verdict]
    if others:
        return Verdict("ambiguous", None, "both_verdicts", (opening.span[0], others[0].end()))
    again = _last_second_thought(text, begin)
    if again is not None:
        rest = _by_polarity(" " * again + text[again:], question)
        return rest._replace(rule="corrected") if rest.verdict is not None else rest
    for one in decide(question, " " * begin + text[begin:]):
        # "No, it appears normal." leaves out what is normal.
        whole = one.rule == "ellipsis" or not _PRONOUN.match(text, one.span[0])
        if one.verdict != opening.verdict and whole:
            return Verdict("ambiguous", None, "contradiction", (opening.span[0], one.span[1]))
    return opening


def _last_second_thought(text: str, begin: int) -> int | None:
    found = [one.end() for one in _SECOND_THOUGHT.finditer(text, begin)]
    return found[-1] if found and re.search(r"\w", text[found[-1] :]) else None


def _labelled(text: str, question: str) -> Verdict | None:
    """The item of a list of findings that is labelled with what is asked: "Pneumothorax: no. Effusion: yes."."""
    items = [one for one in _LABELLED.finditer(text) if covers(one["label"], question)]
    if not items:
        return None
    if len({one["yes"] is None for one in items}) > 1:
        return Verdict("ambiguous", None, "both_verdicts", (items[0].start(), items[-1].end()))
    return _not_doubted(text, _said(items[-1], "labelled"))


def _stated(text: str, question: str) -> Verdict | None:
    stated = _said_later(text, 0) or _standing(text, question, 0)
    if not stated:
        return None
    if len({one["yes"] is None for one in stated}) > 1:
        return Verdict("ambiguous", None, "both_verdicts", (stated[0].start(), stated[-1].end()))
    return _not_doubted(text, _said(stated[-1], "stated"))


def _not_doubted(text: str, found: Verdict) -> Verdict:
    doubt = _WITHDRAWN.search(text) or _TAKEN_BACK.match(text, found.span[1])
    return found if doubt is None else Verdict("unsure", None, "withdrawn", doubt.span())


def _said_later(text: str, begin: int) -> list[re.Match[str]]:
    """Verdicts behind a word that announces them, or behind a label of the answer, in order."""
    labelled = (one for one in _LABELLED.finditer(text, begin) if _OWN_LABEL.match(one["label"]))
    found = [one for one in (*_STATED.finditer(text, begin), *labelled) if _is_said(text, one)]
    return sorted(found, key=lambda one: one.end())


def _standing(text: str, question: str, begin: int) -> list[re.Match[str]]:
    """Verdict words that stand for themselves, but not as the answer to another question."""
    return [
        one
        for one in _ALONE.finditer(text, begin)
        if _is_said(text, one) and not (one[0][0] == "?" and not _asks_the_same(text, one.start(), question))
    ]


def _asks_the_same(text: str, mark: int, question: str) -> bool:
    sentence = text[max(0, mark - 200) : mark]
    return covers(_STOP.split(sentence)[-1], question)


def _is_said(text: str, found: re.Match[str]) -> bool:
    """Whether the sentence up to the verdict word neither denies, doubts nor merely offers it."""
    word = found.start("yes") if found["yes"] is not None else found.start("no")
    return _leaves_it(text[max(0, word - 200) : word])


@lru_cache(maxsize=1024)
def _leaves_it(before: str) -> bool:
    return _NOT_SAID.search(re.split(r"\bbut\b", before)[-1]) is None


def _by_polarity(text: str, question: str) -> Verdict:
    decisions = decide(question, text)
    if not decisions:
        return Verdict("no_verdict", None, "no_verdict", (0, len(text)))
    if len({one.verdict for one in decisions}) > 1:
        return Verdict("ambiguous", None, "contradiction", (decisions[0].span[0], decisions[-1].span[1]))
    return Verdict("answered", decisions[0].verdict, decisions[0].rule, decisions[0].span)


def _said(found: re.Match[str], rule: str) -> Verdict:
    name: Literal["yes", "no"] = "yes" if found.groupdict().get("yes") is not None else "no"
    return Verdict("answered", name, rule, found.span(name))
