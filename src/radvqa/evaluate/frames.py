"""Sentence frames: what is left of an answer when the words that only repeat the question are taken away.

What is taken away stands on a list or in the question, every word of it, so that an unknown word ("unlikely",
"except", "more") always stays and makes the answer another one. The reference is never looked at.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.synonyms import canonical, kinds_named, members_named

Narrowed = tuple[str, tuple[int, int]]
"""Rule and span."""

_WORD = re.compile(r"most likely\b|[^\W_]+(?:['’][^\W_]+)*", re.I)
_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bDr)(?<!\bFig)[.!?](?=\s)|\n", re.I)
_REASON = re.compile(r"[,;]?\s(?:because|since|due to the fact|as (?:shown|indicated|evidenced) by)\b", re.I)
_EXPLANATION = re.compile(r"\W{0,9}(?:explanation|reason|reasoning|rationale|justification)\W{0,5}:", re.I)
_QUOTED = re.compile(
    r"\s{0,9}\"([^\"]{1,400})\"\s{0,9}"
    r"(?:,\s{0,9}\"(?:confidence|probability|score|explanation|reason|reasoning|rationale)\"\s{0,9}:|\}\W{0,9}$)",
    re.I,
)
_OPTION = re.compile(r"\s{0,9}\(?(?:option\s)?[A-H][).:]\s{1,5}(?=\w)")
_TAKES_BACK = re.compile(
    r"\b(?:no|not|none|never|neither|nor|without|cannot|\w{1,9}n['’]t|or|but|however|alternatively|although|though|yet"
    r"|actually|correction|wait|instead|rather|maybe|perhaps|possibl[ye]|possibility|might|may|could|also|too|as well"
    r"|equally|another|others?|either|both are|candidates?|alternatives?|unsure|un(?:clear|certain|likely)|doubt\w{0,4}"
    r"|guess|false|wrong|incorrect|mistaken?|excluded?|except|yes)(?![\w'’])|\?",
    re.I,
)
"""Not to be found in what explains an answer."""
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|does|do|shows?|appears?|seems?|looks?|lies|contains?|displays?|depicts?"
    r"|demonstrates?|reveals?|indicates?|suggests?|supports?|confirms?)\b",
    re.I,
)
_CONTRAST = re.compile(r",\s(?:and )?not (?:an? |the )?((?:[\w-]{1,30} ){0,3}[\w-]{1,30})\W{0,3}$", re.I)
_PARENTHESIS = re.compile(r"\s\(([^()]{1,60})\)\W{0,3}$")
_ASKED = re.compile(
    r"\b(?:which|what)(?:\s(?:is|are)\sthe)?(?:\s(?:side|part|type|kind)\sof)?((?:\s[^\W_]+){1,2})", re.I
)
_HOW_MANY = re.compile(r"\bhow many\b", re.I)
_NUMBER = re.compile(r"(?:\d+|zero|one|two|three|four|five|six|seven|eight|nine|ten)", re.I)
_MODALITY = re.compile(r"\bmodality\b|\bhow was\b|\btype of (?:image|scan|medical image)\b", re.I)
_BENIGN = re.compile(r"""[\s,.;:!"“”'‘’*()]*""")
"""What may stand between the words of a frame; anything else ("<", "-", "?") belongs to the answer."""

_FRAME = frozenset(
    "the a an this that these those of in on at by for to with from as it its i there here so thus therefore hence well"
    " ok okay sure certainly clearly think believe say would be being been is are was were it's that's has have shows"
    " depicts demonstrates displays contains reveals appear appears appearing seem seems looks based according probably"
    " likely image images picture scan figure photo slice study shown seen visible present depicted displayed used using"
    " located situated found taken acquired obtained performed given provided which answer final organ modality plane"
    " weighting diagnosis finding".split()
) | {"most likely"}
"""Words that say nothing about the matter; "normal", "above" and "than" are not among them."""
_HEDGES = frozenset({"most likely", "likely", "probably"})
_POLAR = frozenset("not no least never without neither nor except excluding exclude excluded absent other".split())
_SIDES = frozenset("left right above below top bottom upper lower between behind under over than before after".split())
_BODY = frozenset("chest thorax thoracic abdomen abdominal brain head pelvis pelvic neck cranial medical".split())
_LONGEST = 400
"""Characters of a sentence in which frames are looked for."""


class _Asked(NamedTuple):
    """What a question lends to the frames of its answers: ``nouns`` it asks for, ``words`` in order, ``polar`` ones."""

    words: tuple[str, ...]
    frame: frozenset[str]
    nouns: frozenset[str]
    options: frozenset[str]
    polar: frozenset[str]


def narrow(text: str, question: str) -> Iterator[Narrowed]:
    """The reading of ``text`` as an answer, with the rules that led there; nothing where no rule applies.

    A second reading differs from the first only by a word that the question itself gives to it: the noun that it asks
    for ("left lung" and "left" to "Which lung?"), or the part of the body before a modality ("chest X-ray").
    """
    start, end = 0, len(text)
    rules: list[str] = []
    quoted = _QUOTED.match(text)
    if quoted is not None:
        rules.append("quoted")
        start, end = quoted.span(1)
    stop = _end_of_leading_sentence(text, start, end)
    if stop is not None:
        rules.append("leading_sentence")
        end = stop
    if end - start <= _LONGEST and text.find("?", start, end) < 0:
        reason = _REASON.search(text, start, end)
        if reason is not None and not _TAKES_BACK.search(text, reason.end(), end):
            rules.append("without_reason")
            end = reason.start()
        option = _OPTION.match(text, start, end)
        if option is not None:
            rules.append("option_letter")
            start = option.end()
        asked = _asked(question)
        contrast = _CONTRAST.search(text, start, end)
        if contrast is not None and _is_contrast(text[start : contrast.start()], contrast[1], asked):
            rules.append("contrast")
            end = contrast.start()
        start, end = yield from _without_frame(text, start, end, question, rules)
        yield from _with_given_words(text, start, end, question, rules)
    elif rules:
        yield "+".join(rules), (start, end)


def _without_frame(
    text: str, start: int, end: int, question: str, rules: list[str]
) -> Iterator[Narrowed]:
    ...
