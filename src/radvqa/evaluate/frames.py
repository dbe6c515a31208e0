"""Sentence frames: what is left of an answer when the words that only repeat the question are taken away.

What is taken away stands on a list or in the question, every word of it, so that an unknown word ("unlikely",
"except", "more") always stays and makes the answer another one. The reference is never looked at.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.synonyms import canonical, members_named

Narrowed = tuple[str, tuple[int, int]]
"""Rule and span."""


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD = re.compile(r"most likely\b|(?:looks|seems|appears) like\b|[^\W_]+(?:['’][^\W_]+)*", re.I)
_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bDr)(?<!\bFig)[.!?](?=\s)|\n", re.I)
_REASON = re.compile(r"[,;]?\s(?:because|since|due to the fact|as (?:shown|indicated|evidenced) by)\b|,\sas\b", re.I)
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
_NUMBER = re.compile(r"(?:\d+|zero|one|two|three|four|five|six|seven|eight|nine|ten)", re.I)
_MODALITY = re.compile(r"\bmodality\b|\bhow was\b|\btype of (?:image|scan|medical image)\b", re.I)
_BENIGN = re.compile(r"""[ \t,.;:!"“”'‘’*()]*""")
"""What may stand between the words of a frame; anything else ("<", "-", "?") belongs to the answer."""

_FRAME = _listed(
    "the a an this that these those of in on at by for to with from as it its i there here so thus therefore hence"
    " ok okay sure certainly clearly think believe say would be being been is are was were it's that's has have shows"
    " depicts demonstrates displays contains reveals appear appears appearing seem seems looks based according probably"
    " likely image images picture scan figure photo slice study shown seen visible present depicted displayed used"
    " using located situated found taken acquired obtained performed given provided which answer final organ modality"
    " plane weighting diagnosis finding"
) | {"most likely", "looks like", "seems like", "appears like"}
"""Words that say nothing about the matter; "normal", "above" and "than" are not among them."""
_IMAGES = _listed("image images picture scan figure photo slice study")
_HEDGES = frozenset({"most likely", "likely", "probably"})
_POLAR = _listed("not no least never without neither nor except excluding exclude excluded absent other")
_SIDES = _listed("left right above below top bottom upper lower between behind under over than before after")
_BODY = _listed("chest thorax thoracic abdomen abdominal brain head pelvis pelvic neck cranial medical")
_PRONOUNS = frozenset({"it", "it'", "thi", "these", "they"})
"""Stems."""
_LONGEST = 400
"""Characters of a sentence in which frames are looked for."""


class _Asked(NamedTuple):
    """What a question lends to its answers: ``nouns`` it asks for, ``options`` it offers, ``polar`` words."""

    words: tuple[str, ...]
    nouns: frozenset[str]
    options: frozenset[str]
    polar: frozenset[str]


def narrow(text: str, question: str) -> Iterator[Narrowed]:
    """The reading of ``text`` as an answer, with the rules that led there; nothing where no rule applies.

    A second reading differs from the first only by a word that the question itself gives to it: the noun that it asks
    for ("left lung" and "left" to "Which lung?"), or the part of the body before a modality ("chest X-ray").
    """
    asked = _asked(question)
    rules: list[str] = []
    span = 0, len(text)
    for rule, step in (("quoted", _in_quotes), ("leading_sentence", _leading_sentence)):
        found = step(text, *span, asked)
        if found is not None:
            rules.append(rule)
            span = found
    if span[1] - span[0] <= _LONGEST and text.find("?", *span) < 0:
        for rule, step in _STEPS:
            found = step(text, *span, asked)
            if found is not None and _WORD.search(text, *found):
                rules.append(rule)
                span = found
    if rules:
        yield "+".join(rules), span
    given = _without_given(text, *span, question) if span[1] - span[0] <= _LONGEST else None
    if given is not None:
        yield "+".join([*rules, "asked_noun"]), given


def _in_quotes(text: str, start: int, end: int, asked: _Asked) -> tuple[int, int] | None:
    """The first value of a JSON object that goes on with nothing but a confidence or an explanation."""
    quoted = _QUOTED.match(text, start, end)
    return None if quoted is None else quoted.span(1)


def _leading_sentence(text: str, start: int, end: int, asked: _Asked) -> tuple[int, int] | None:
    """The first sentence, if what follows are sentences that explain it, take nothing back and add nothing."""
    first = _WORD.search(text, start, end)
    stop = None if first is None else _SENTENCE.search(text, first.end(), end)
    if stop is None or stop[0] == "?" or end - stop.end() > 2000:
        return None
    said, rest = text[start : stop.start()], text[stop.end() : end]
    if not _WORD.search(rest) or _TAKES_BACK.search(rest):
        return None
    named, named_later = members_named(normalise_answer(said)), members_named(normalise_answer(rest))
    if any(named_later.get(kind, members) - members for kind, members in named.items()):
        return None
    labelled = _EXPLANATION.match(rest) is not None
    told = {_stem(word) for word in _words(said)} - _FRAME
    predicate = {_stem(word) for word in asked.words} - _FRAME - told
    for sentence in _SENTENCE.split(rest):
        words = [_stem(word) for word in _words(sentence)]
        if not words or labelled:
            continue
        if not _VERB.search(sentence):
            return None
        if words[0] not in _PRONOUNS and not told.intersection(words) and predicate.intersection(words):
            return None
    return start, stop.start()


def _without_reason(text: str, start: int, end: int, asked: _Asked) -> tuple[int, int] | None:
    """So that "Lung because ..." is "Lung"."""
    reason = _REASON.search(text, start, end)
    return None if reason is None or _TAKES_BACK.search(text, reason.start(), end) else (start, reason.start())


def _after_option_letter(text: str, start: int, end: int, asked: _Asked) -> tuple[int, int] | None:
    """So that "B) Lung" is "Lung"."""
    option = _OPTION.match(text, start, end)
    return None if option is None else (option.end(), end)


def _before_contrast(text: str, start: int, end: int, asked: _Asked) -> tuple[int, int] | None:
    """So that "MRI, not a CT" is "MRI": what is denied is another thing of the same kind, or another option."""
    contrast = _CONTRAST.search(text, start, end)
    if contrast is None:
        return None
    kept, denied = (members_named(normalise_answer(part)) for part in (text[start : contrast.start()], contrast[1]))
    offered = _words(contrast[1])
    is_other = any(denied.get(kind, members).isdisjoint(members) for kind, members in kept.items() if kind in denied)
    is_option = set(offered) <= asked.options and set(offered).isdisjoint(_words(text[start : contrast.start()]))
    return (start, contrast.start()) if is_other or is_option else None


def _without_frame(text: str, start: int, end: int, asked: _Asked) -> tuple[int, int] | None:
    """Without the words at both ends that stand in the question or on the list, up to one on the list or a colon."""
    words = list(_WORD.finditer(text, start, end))
    if not words:
        return None
    lower = [word[0].lower() for word in words]
    bounds = [start, *(edge for word in words for edge in word.span()), end]
    gaps = [text[a:b] for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
    gaps[0], gaps[-1] = gaps[0].lstrip(), gaps[-1].rstrip()
    benign = [_BENIGN.fullmatch(gap) is not None for gap in gaps]
    framing = _framing(lower, asked)
    first, last = 0, len(words)
    while first < last and framing[first] and benign[first]:
        first += 1
    # "Axial plane, axial plane": its noun belongs to the answer.
    if lower[-1] not in lower[first:-1]:
        framing = _framing(lower, asked, compared=True)
        while last > first and framing[last - 1] and benign[last]:
            last -= 1
    if first == last:
        return None
    is_count = "many" in asked.words and last - first == 1 and _NUMBER.fullmatch(lower[first]) is not None
    while first and not (lower[first - 1] in _FRAME or ":" in gaps[first]):
        first -= 1
    while last < len(words) and not (lower[last] in _FRAME or "(" in gaps[last] or is_count):
        last += 1
    if first and _NUMBER.fullmatch(lower[first]) and (lower[first - 1] in _IMAGES or gaps[first].endswith(".")):
        return None
    first, last = first if benign[first] else 0, last if benign[last] else len(words)
    if (first, last) == (0, len(words)) or not _agrees(lower[:first] + lower[last:], asked):
        return None
    begin, stop = words[first].start() if first else start, words[last - 1].end() if last < len(words) else end
    # "transverse (axial) plane"
    return begin, stop + (text.count("(", begin, stop) > text.count(")", begin, stop) and text[stop : stop + 1] == ")")


def _framing(lower: Sequence[str], asked: _Asked, *, compared: bool = False) -> list[bool]:
    """Which words may be a frame: on the list or in the question, but no option; an option after "larger than"."""
    vocabulary = {_stem(word) for word in asked.words} | ({"number"} if "many" in asked.words else set())
    known = [word in _FRAME or _stem(word) in vocabulary for word in lower]
    if all(known) and asked.options.isdisjoint(lower):
        return [word in _FRAME for word in lower]
    framing = [is_known and word not in asked.options for word, is_known in zip(lower, known, strict=True)]
    if compared and "than" in lower[1:]:
        than = len(lower) - 1 - lower[::-1].index("than")
        if _stem(lower[than - 1]) in vocabulary:
            framing[than:] = [True, *known[than + 1 :]]
    return framing


def _agrees(frame: Sequence[str], asked: _Asked) -> bool:
    """Whether the words of a frame can mean what is asked: no lost "not" or "least", and sides in the same order."""
    order = [_stem(word) for word in asked.words]
    content = [_stem(word) for word in frame if word not in _FRAME and _stem(word) in order]
    if asked.polar and (content or _HEDGES.intersection(frame)) and not asked.polar <= set(frame):
        return False
    if _SIDES.isdisjoint(content):
        return True
    rest = iter(order)
    return all(word in rest for word in content)


def _without_parenthesis(text: str, start: int, end: int, asked: _Asked) -> tuple[int, int] | None:
    """So that "MRI (magnetic resonance imaging)" is "MRI"; only for another name of the same thing."""
    note = _PARENTHESIS.search(text, start, end)
    if note is None:
        return None
    one, other = (canonical(normalise_answer(part)) for part in (text[start : note.start()], note[1]))
    return (start, note.start()) if one == other else None


def _without_given(text: str, start: int, end: int, question: str) -> tuple[int, int] | None:
    """Without the noun that the question asks for, or the part of the body before a modality."""
    words = list(_WORD.finditer(text, start, end))
    if len(words) < 2 or "?" in text[start:end]:
        return None
    said = [word[0].lower() for word in words]
    if (
        said[-1] in _asked(question).nouns
        and said.count(said[-1]) == 1
        and _BENIGN.fullmatch(text, words[-2].end(), words[-1].start())
    ):
        return start, words[-2].end()
    if _MODALITY.search(question) and said[0] in _BODY and text[words[0].end()].isspace():
        return words[1].start(), end
    return None


_STEPS = (
    ("without_reason", _without_reason),
    ("option_letter", _after_option_letter),
    ("contrast", _before_contrast),
    ("frame", _without_frame),
    ("parenthesis", _without_parenthesis),
)


@lru_cache(maxsize=4096)
def _asked(question: str) -> _Asked:
    words = tuple(_words(question))
    nouns = {word for found in _ASKED.finditer(question) for word in found[1].lower().split()} - _FRAME
    return _Asked(words, frozenset(nouns), _options(question), _POLAR.intersection(words))


def _options(question: str) -> frozenset[str]:
    """The words between which a question with "or" lets choose, without those that several options share."""
    before, found, after = question.lower().rpartition(" or ")
    if not found:
        return frozenset()
    _, comma, listed = before.partition(",")
    pieces = [_words(piece) for piece in (listed if comma else before).split(",")] + [_words(after)]
    if not comma:
        pieces[0] = pieces[0][-2:]
    words = [word for piece in pieces for word in set(piece)]
    return frozenset(word for word in words if words.count(word) == 1 and word not in _FRAME)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _stem(word: str) -> str:
    """Singular and plural, third person and infinitive as one."""
    return word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")
