"""Sentence frames: what is left of a sentence when the words that only repeat the question are taken away.

A frame is taken away only by an explicit rule, and never with a negation in it: "The lung is not abnormal" is no
"lung".
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, lru_cache

from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.synonyms import canonical, table

Narrowed = tuple[str, tuple[int, int]]
"""Rule and span."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bDr)(?<!\bFig)[.!?](?=\s)|\n", re.I)
_REASON = re.compile(r"[,;]?\s+(?:because|since|due to the fact|as (?:seen|shown|indicated|evidenced) by)\b", re.I)
_HEDGED = re.compile(
    r"\b(?:or|but|however|alternatively|although|actually|correction|wait|instead|maybe|perhaps|possibly|might|may|could"
    r"|also|not sure|unsure|unclear|no,|yes,)(?!\w)",
    re.I,
)
_NEGATION = re.compile(r"\b(?:no|not|none|never|neither|nor|without|cannot|\w+n['’]t)\b", re.I)
_IMAGE = r"(?:image|picture|scan|photo|figure|x-?ray|radiograph|study|slice|film|mri|ct)"
_OPENING = re.compile(
    r"\s*(?:(?:so|thus|therefore|hence|well|ok|okay|sure|certainly)\b[,:]?\s+)?"
    r"(?:(?:based on|according to|judging from|from|in) (?:the|this|that) (?:\w+ ){0,3}?" + _IMAGE + r"s?\b[,:]\s+)?"
    r"(?:(?:i (?:think|believe|would say|'d say)|it (?:appears|seems|looks like))(?: that)?\s+)?"
    r"(?:(?:it|this|that|these|those|they|there)(?:\s+(?:is|are|was|has|have|shows|appears? to be|seems? to be)"
    r"|['’](?:s|re))\s+"
    r"|(?:the|this) (?:given |provided |above |shown |medical )?" + _IMAGE + r"\s+"
    r"(?:is|shows|depicts|demonstrates|displays|contains|reveals|appears to be)\s+"
    r"|(?:the )?(?:(?:imaging |image )?modality|(?:imaging |image )?plane|organ|diagnosis|finding|result|disease"
    r"|abnormality|weighting)(?: used| shown)?\s*(?:is|:)\s+)?",
    re.I,
)
_PLACE = re.compile(
    r"\s*(?:(?:located|situated|seen|found|shown|visible|present|taken|scanned|acquired|performed|obtained|done|made"
    r"|used)\s+)?(?:in|on|at|by|via|with|within|using|through|from|to)\s+(?=\S)|\s*(?:located|situated)\s+(?=\S)",
    re.I,
)
_IN_IMAGE = re.compile(
    r",?\s+(?:(?:that |which )?(?:is |are )?(?:clearly )?(?:shown|seen|visible|present|depicted|displayed)\s*)?"
    r"(?:(?:in|on|of|from|by)\s+(?:the|this|that)\s+(?:given |provided |above |shown )?" + _IMAGE + r"s?)?\W*$",
    re.I,
)
_OPTION = re.compile(r"\s{0,9}\(?(?:option\s)?[A-H][).:]\s{1,5}(?=\w)")
_PARENTHESIS = re.compile(r"\s\(([^()]{1,60})\)\W{0,3}$")
_OR = re.compile(r"\b(?:or|and|also|maybe|perhaps|possibly|versus|vs)\b", re.I)
_VERB = re.compile(
    r"\s+(?:is|are|was|were|can be|has been|shows?|belongs? to|includes?|contains?|has|have|looks?"
    r"|appears?(?: to be)?)(?=\s)",
    re.I,
)
_COPULA = re.compile(r"\s+(?:is|are|was|were|can be|has been)(?=\s)", re.I)
_WHICH = re.compile(r"\b(?:which|what)(?:\s+(?:is|are)\s+the)?(?:\s+(?:side|part|type|kind)\s+of)?\s+([^\W_]+)", re.I)
_HOW_MANY = re.compile(r"\bhow many\b", re.I)
_NUMBER = re.compile(r"\b(?:\d+|zero|one|two|three|four|five|six|seven|eight|nine|ten)\b", re.I)
_FREE = frozenset(
    [
        "the",
        "a",
        "an",
        "this",
        "that",
        "these",
        "those",
        "of",
        "in",
        "on",
        "at",
        "by",
        "for",
        "to",
        "with",
        "from",
        "as",
        "than",
        "it",
        "its",
        "image",
        "picture",
        "scan",
        "is",
        "are",
        "was",
        "were",
        "be",
        "being",
        "been",
        "here",
        "above",
        "given",
        "shown",
        "seen",
        "visible",
        "present",
        "depicted",
        "displayed",
        "used",
        "located",
        "there",
        "which",
        "what",
        "type",
        "kind",
        "likely",
        "probably",
        "most",
        "one",
    ]
)
_LONGEST = 400
"""Characters of a sentence in which frames are looked for."""


def narrow(text: str, question: str) -> Iterator[Narrowed]:
    """Ever narrower parts of ``text`` that may be the answer, each with the rules that led there."""
    start, end = 0, len(text)
    rules: list[str] = []
    sentence = _leading_sentence(text)
    if sentence is not None:
        rules.append("leading_sentence")
        start, end = sentence
        yield "+".join(rules), (start, end)
    if end - start > _LONGEST:
        return
    reason = _REASON.search(text, start, end)
    if reason is not None and _WORD.search(text, start, reason.start()):
        rules.append("without_reason")
        end = reason.start()
        yield "+".join(rules), (start, end)
    if _HOW_MANY.search(question):
        yield from _count(text, start, end, rules)
    base = [("option_letter", _after_option_letter)]
    whole = yield from _steps(text, question, base, rules, (start, end))
    yield from _steps(text, question, _SUBJECT_STEPS, *whole)
    yield from _steps(text, question, _PREDICATE_STEPS, *whole)
    named = _asked_kind(text, *whole[1], question)
    if named is not None:
        yield "+".join([*whole[0], "asked_kind"]), named


def _steps(
    text: str, question: str, steps: Sequence[tuple[str, "_Step"]], rules: list[str], span: tuple[int, int]
) -> Generator[Narrowed, None, tuple[list[str], tuple[int, int]]]:
    """One step after the other, each reading that is narrower than the last; returns where they ended."""
    for rule, step in steps:
        found = step(text, *span, question)
        if found is not None and found != span and _WORD.search(text, *found):
            rules, span = [*rules, rule], found
            yield "+".join(rules), span
    return rules, span


def _leading_sentence(text: str) -> tuple[int, int] | None:
    """The first sentence, if what follows explains it and takes nothing back."""
    first = _WORD.search(text)
    stop = None if first is None else _SENTENCE.search(text, first.end())
    if stop is None:
        return None
    rest = text[stop.end() : stop.end() + 2000]
    if len(_WORD.findall(rest)) < 4 or _HEDGED.search(rest):
        return None
    return 0, stop.end()


def _count(text: str, start: int, end: int, rules: list[str]) -> Iterator[Narrowed]:
    numbers = list(_NUMBER.finditer(text, start, end))
    if (
        len(numbers) == 1
        and not _NEGATION.search(text, start, end)
        and text[numbers[0].start() - 1 : numbers[0].start()] != "."
    ):
        yield "+".join([*rules, "count"]), numbers[0].span()


def _after_option_letter(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    """So that "B) Lung" is "Lung"."""
    option = _OPTION.match(text, start, end)
    return None if option is None else (option.end(), end)


def _after_question_frame(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    """What follows "<words of the question> is"."""
    copula = _VERB.search(text, start, end)
    if copula is None or not _repeats(text[start : copula.start()], question):
        return None
    # "It is" and "This is" are for the next rule: they repeat nothing.
    return copula.end(), end


def _after_opening(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    opening = _OPENING.match(text, start, end)
    return (opening.end(), end) if opening is not None and opening.end() < end else None


def _before_question_frame(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    """What precedes "is <words of the question>"."""
    for copula in _COPULA.finditer(text, start, end):
        if _repeats(text[copula.end() : end], question) and not _NEGATION.search(text, start, end):
            return start, copula.start()
    return None


def _before_parenthesis(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    """So that "MRI (magnetic resonance imaging)" is "MRI"."""
    note = _PARENTHESIS.search(text, start, end)
    if note is None or _NEGATION.search(note[1]) or _OR.search(note[1]):
        return None
    return start, note.start()


def _before_image(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    tail = _IN_IMAGE.search(text, start, end)
    return (start, tail.start()) if tail is not None and tail.start() > start else None


def _after_place(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    place = _PLACE.match(text, start, end)
    return (place.end(), end) if place is not None else None


def _before_asked_noun(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    """Without the noun that the question asks for: "left hemisphere" to "Which hemisphere?" is "left"."""
    asked = _WHICH.search(question)
    words = list(_WORD.finditer(text, start, end))
    if asked is None or len(words) < 2 or words[-1][0].lower() != asked[1].lower():
        return None
    return start, words[-2].end()


def _asked_kind(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    """The one modality, plane or weighting that the sentence names, where the question asks for such a one.

    In two spellings at most ("MRI (magnetic resonance imaging)"); saying it again and again earns nothing.
    """
    if _NEGATION.search(text, start, end) or _OR.search(text, start, end):
        return None
    for kind in ("modality", "plane", "weighting"):
        if not re.search(rf"\b{kind}\b", question, re.I):
            continue
        found = list(_names(kind).finditer(text, start, end))
        spellings = {one[0].lower() for one in found}
        if len(spellings) == len(found) and len({canonical(normalise_answer(one)) for one in spellings}) == 1:
            return found[0].span()
    return None


@cache
def _names(kind: str) -> re.Pattern[str]:
    names = [name for group in table().groups if group.kind == kind and group.exclusive for name in group.names]
    names = [re.escape(name).replace("xray", "x[ -]?ray").replace("\\ ", "[ -]") for name in names if len(name) > 1]
    return re.compile(rf"\b(?:{'|'.join(sorted(names, key=len, reverse=True))})\b", re.I)


def _repeats(part: str, question: str) -> bool:
    words = [word.lower() for word in _WORD.findall(part)]
    return (
        bool(words)
        and all(word in _FREE or word in _vocabulary(question) for word in words)
        and any(word not in _PRONOUNS for word in words)
    )


_Step = Callable[[str, int, int, str], tuple[int, int] | None]
_SUBJECT_STEPS: tuple[tuple[str, _Step], ...] = (
    ("trailing_frame", _before_question_frame),
    ("in_the_image", _before_image),
    ("asked_noun", _before_asked_noun),
)
_PREDICATE_STEPS: tuple[tuple[str, _Step], ...] = (
    ("question_frame", _after_question_frame),
    ("opening", _after_opening),
    ("parenthesis", _before_parenthesis),
    ("in_the_image", _before_image),
    ("place", _after_place),
    ("asked_noun", _before_asked_noun),
)
_PRONOUNS = frozenset({"it", "this", "that", "these", "those", "there", "which", "what"})


@lru_cache(maxsize=4096)
def _vocabulary(question: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(question))
