"""Whether a caption, with the facts stated beside it, licenses a question and its answer.

An answer may say what the source says, in its words, in synonyms or in broader terms, and no more. What the source
denies or reports of the past licenses nothing, what it only suspects does not license a yes, and a question may
presuppose only what its answer could have said. Captions that are silent license no answer, except the no of a question
that was made from their silence (``basis`` is ``absent``).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import snowballstemmer

from radvqa.data.answers import is_yes_no
from radvqa.synth.negation import Scopes
from radvqa.synth.pair import Candidate, Source
from radvqa.synth.vocabulary import Mention, alike, broader, find_terms, term_named, terms

Support = Literal["sure", "doubted"]

_TOKEN = re.compile(r"[^\W_]+")
_CLAUSE_END = re.compile(r"[.;:,()\n]|\b(?:with|but|while|whereas|although)\b", re.IGNORECASE)
_SIDED_CLAUSE_END = re.compile(rf"{_CLAUSE_END.pattern}|\band\b", re.IGNORECASE)
_STEMMER = snowballstemmer.stemmer("english")

_FUNCTION_WORDS = """
no nor not without
a an and any are as at be been being but by can could did do does each either for from had has have having he her here
his how if in into is it its itself just like may might more most much many of off on one ones only onto or other our
out over own shall she should so some such than that the their them there these they this those through to toward
towards up upon us very was we were what when where whether which while who whose why will with within would you your
"""
_SAYING_NOTHING = """
additional additionally due because thus also approximately respectively notable mainly overall well primarily mostly
abnormal abnormality acquire aspect anatomical anatomy apparent appear appearance area arise arising associate body
captured case certain characteristic consistent contain define demonstrate depict describe detect diagnosis direction
display distribution evaluate evidence evident examination exam examine exhibit extent feature field film find finding
following general give given grade identify illustrate image imaging include indicate involve involvement issue kind
level lie locate location made main major modality name nature note noted notice observe obtain obvious occupy occur
organ orient orientation part particular pathology pathological patient perform picture place plane position possible
present presence primary principal problem procedure projection radiological radiologic reflect region represent
result reveal say scan scanned section see seen serve show side sign site situated slice specific specify state
structure study suggest surround take taken technique test there type use used view viewed visible visualise visualize
visualised visualized correspond shown found took lay lain look meant condition change degree
"""
_SIDE_WORDS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("left", "leftward", "lt", "lul", "lll"), frozenset({"left"})),
    **dict.fromkeys(("right", "rightward", "rt", "rul", "rll", "rml"), frozenset({"right"})),
    **dict.fromkeys(("bilateral", "bilaterally", "both"), frozenset({"left", "right"})),
}
_FLIPS = re.compile(r"\b(?:absent|absence|free of|free from|lack(?:s|ing)?|ruled out|excluded|spared)\b", re.IGNORECASE)
_FLIPPING_WORDS = "absent absence free lack lacking ruled excluded spared"
_SOUND = frozenset({"normal", "unremarkable", "intact", "clear", "preserved"})
_NOTHING = frozenset({"none", "nothing", "no"})
_LARGEST_CACHE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One content word: its stem and its place in the text."""

    stem: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a source says. Names are of vocabulary terms, broader ones included; words are stems.

    ``sure`` is affirmed, ``doubted`` affirmed with doubt, ``denied`` denied (as named, without broader terms), and
    ``mentioned`` any of these or past. ``clauses`` hold the words that are neither denied nor past, the flag tells
    those without doubt. ``sides``: the sides of each such word; ``""`` has all sides of the text.
    """

    sure: frozenset[str]
    doubted: frozenset[str]
    denied: frozenset[str]
    mentioned: frozenset[str]
    regions: frozenset[str]
    clauses: tuple[tuple[frozenset[str], bool], ...]
    denied_clauses: tuple[frozenset[str], ...]
    words: frozenset[str]
    sure_words: frozenset[str]
    all_words: frozenset[str]
    sides: Mapping[str, frozenset[str]]


def unlicensed(candidate: Candidate, source: Source) -> str | None:
    """Why the source does not license the pair; None where it does."""
    stated = statement(source)
    answer = candidate.answer.strip().rstrip(".!").casefold()
    if is_yes_no(candidate.answer) and answer in ("yes", "no"):
        return _unlicensed_yes_no(candidate, stated, yes=answer == "yes")
    return _unlicensed_premise(candidate, stated) or _unlicensed_answer(candidate, stated)


def statement(source: Source) -> Statement:
    """What the source says: its caption, and the facts beside it as if the caption affirmed them."""
    return _statement(source.text, tuple(sorted(source.facts.values())))


@lru_cache(maxsize=_LARGEST_CACHE)
def content_words(text: str) -> tuple[Word, ...]:
    """The words of a text that say something; function words and words such as "image" or "shows" are left out."""
    return tuple(word for word in _words(text) if word.stem not in _EMPTY)


def content_stems(text: str) -> frozenset[str]:
    """The stems of ``content_words``."""
    return frozenset(word.stem for word in content_words(text))


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of one word, so that "calcified" and "calcification" are the same.

    Source: the English stemmer of Snowball (Porter, 2001); a final "i" that it leaves ("calcifi") is dropped.
    """
    found = str(_STEMMER.stemWord(word.casefold()))
    return found[:-1] if len(found) > 3 and found.endswith("i") else found


_SIDES: Mapping[str, frozenset[str]] = {stem(word): sides for word, sides in _SIDE_WORDS.items()}
_EMPTY = frozenset(stem(word) for word in f"{_FUNCTION_WORDS} {_SAYING_NOTHING}".split()) | {"s", "t"}


def _words(text: str) -> Iterator[Word]:
    for match in _TOKEN.finditer(text):
        yield Word(stem=stem(match[0]), start=match.start(), end=match.end())


@lru_cache(maxsize=_LARGEST_CACHE)
def _statement(text: str, facts: tuple[str, ...]) -> Statement:
    fact_text = ". ".join(facts)
    found = [*find_terms(text), *find_terms(fact_text)]
    present = [one for one in found if not (one.negated or one.historical)]
    clauses, denied_clauses = _clauses(text)
    clauses += [(content_stems(fact), True) for fact in facts]
    inner = frozenset(name for one in present for name in _inner_names(one.text))
    return Statement(
        sure=_names(one for one in present if not one.uncertain) | inner,
        doubted=_names(one for one in present if one.uncertain),
        denied=frozenset(one.term.name for one in found if one.negated and not one.historical),
        mentioned=_names(found),
        regions=frozenset(region for one in present for region in one.term.regions),
        clauses=tuple(clauses),
        denied_clauses=tuple(denied_clauses),
        words=frozenset(word for clause, _ in clauses for word in clause),
        sure_words=frozenset(word for clause, sure in clauses for word in clause if sure),
        all_words=content_stems(text) | content_stems(fact_text),
        sides=_sides(text),
    )


def _names(found: Iterable[Mention]) -> frozenset[str]:
    return frozenset(name for one in found for name in broader(one.term))


@lru_cache(maxsize=_LARGEST_CACHE)
def _inner_names(text: str) -> frozenset[str]:
    """The organs, modalities and planes inside a longer term, which hides them: "hepatic cyst", "frontal radiograph".

    No findings: there is no mass in "mass effect".
    """
    places = [match.start() for match in _TOKEN.finditer(text)][1:]
    parts = [part for place in places for part in (text[:place], text[place:])]
    inner = [one for part in parts for one in find_terms(part) if one.term.category in ("organ", "modality", "plane")]
    return _names(inner)


def _clauses(text: str) -> tuple[list[tuple[frozenset[str], bool]], list[frozenset[str]]]:
    """By clause: the words that are neither denied nor past, those without doubt apart; and the words denied."""
    scopes_of_text = Scopes(text)
    present, denied = [], []
    for words in _split(content_words(text), text, _CLAUSE_END):
        scopes = [(word.stem, scopes_of_text.of(word.start, word.end)) for word in words]
        here = [(word, scope) for word, scope in scopes if not (scope.negated or scope.historical)]
        sure = frozenset(word for word, scope in here if not scope.uncertain)
        present += [(frozenset(word for word, _ in here), False), (sure, True)]
        denied.append(frozenset(word for word, scope in scopes if scope.negated and not scope.historical))
    return present, [clause for clause in denied if clause]


def _split(words: Sequence[Word], text: str, end: re.Pattern[str]) -> Iterator[list[Word]]:
    ends = [match.start() for match in end.finditer(text)]
    groups: dict[int, list[Word]] = defaultdict(list)
    place = 0
    for word in words:
        while place < len(ends) and ends[place] < word.start:
            place += 1
        groups[place].append(word)
    yield from groups.values()


def _sides(text: str) -> dict[str, frozenset[str]]:
    """The sides of each word: that named before it in its clause, else that named after it."""
    found: dict[str, set[str]] = defaultdict(set)
    scopes = Scopes(text)
    for words in _split(tuple(_words(text)), text, _SIDED_CLAUSE_END):
        named = [(place, _SIDES[one.stem]) for place, one in enumerate(words) if one.stem in _SIDES]
        named = [(place, side) for place, side in named if not scopes.of(words[place].start, words[place].end).negated]
        for place, word in enumerate(words):
            before = [side for where, side in named if where < place]
            side = before[-1] if before else named[0][1] if named else frozenset()
            if side and word.stem not in _EMPTY and word.stem not in _SIDES:
                found[word.stem] |= side
        found[""] |= {one for _, side in named for one in side}
    return {word: frozenset(sides) for word, sides in found.items()}


def _unlicensed_answer(candidate: Candidate, stated: Statement) -> str | None:
    answer = candidate.answer
    if normalised_nothing(answer):
        return None if stated.denied_clauses or _SOUND_STEMS & stated.words else "the caption denies nothing"
    for mention in _telling(answer):
        problem = _unlicensed_mention(mention, stated, sure=False)
        if problem:
            return problem
    scopes = Scopes(answer)
    for word in _beside_mentions(answer):
        written = answer[word.start : word.end]
        if word.stem.isdigit():
            continue
        if scopes.of(word.start, word.end).negated:
            if not any(word.stem in clause for clause in stated.denied_clauses):
                return f"{written!r} is not denied in the caption"
        elif word.stem not in stated.words:
            return f"{written!r} is not in the caption"
    return _wrong_side(answer, candidate.question, stated)


def normalised_nothing(answer: str) -> bool:
    """Whether an answer says that there is nothing to name."""
    return answer.strip().rstrip(".").casefold() in _NOTHING


def _unlicensed_premise(candidate: Candidate, stated: Statement) -> str | None:
    """What an open question takes for granted: its findings, modality, plane and sides must be stated."""
    for mention in _telling(candidate.question):
        problem = _unlicensed_context(mention, stated)
        if problem:
            return f"the question presupposes what is not stated: {problem}"
    return _wrong_side(candidate.question, candidate.answer, stated)


def _unlicensed_context(mention: Mention, stated: Statement) -> str | None:
    """Like ``_unlicensed_mention``; an organ may also lie in a region that the caption is about."""
    if mention.term.category == "organ" and mention.term.regions & stated.regions:
        return None
    if mention.term.category == "severity":
        return None
    return _unlicensed_mention(mention, stated, sure=False)


def _unlicensed_mention(mention: Mention, stated: Statement, *, sure: bool) -> str | None:
    # "No tumour on MRI" denies no MRI.
    if mention.negated and mention.term.category not in ("modality", "plane"):
        return None if _is_denied(mention, stated) else f"{mention.text!r} is not denied in the caption"
    names = stated.sure if sure else stated.sure | stated.doubted
    if mention.term.name in names or _in_one_clause(content_stems(mention.text), stated, sure=sure):
        return None
    if _is_denied(mention, stated):
        return f"the caption denies {mention.text!r}"
    if mention.term.name in stated.doubted:
        return f"{mention.text!r} is only suspected in the caption"
    return f"{mention.text!r} is not in the caption"


def _in_one_clause(words: frozenset[str], stated: Statement, *, sure: bool) -> bool:
    return bool(words) and any(words <= clause for clause, is_sure in stated.clauses if is_sure or not sure)


def _is_denied(mention: Mention, stated: Statement) -> bool:
    """Whether the term, or a broader one of its kind, is denied and not affirmed elsewhere."""
    term = mention.term
    kind = {name for name in broader(term) if _category(name) == term.category}
    words = content_stems(mention.text)
    denied = bool(kind & stated.denied) or (bool(words) and any(words <= clause for clause in stated.denied_clauses))
    return denied and term.name not in stated.sure | stated.doubted


def _category(name: str) -> str:
    found = term_named(name)
    return found.category if found is not None else ""


def _telling(text: str) -> list[Mention]:
    """The mentions that claim something; sides are looked at apart, and "abnormality" claims nothing."""
    return [one for one in find_terms(text) if one.term.category != "side" and content_stems(one.text)]


def _beside_mentions(text: str) -> list[Word]:
    """The content words of a text that are part of no mention and no side."""
    spans = [(one.start, one.end) for one in find_terms(text)]
    return [
        word
        for word in content_words(text)
        if word.stem not in _SIDES and not any(start < word.end and word.start < end for start, end in spans)
    ]


def _unlicensed_yes_no(candidate: Candidate, stated: Statement, *, yes: bool) -> str | None:
    flipped = bool(_FLIPS.search(candidate.question))
    found = [(one, one.negated or flipped) for one in _telling(candidate.question)]
    claims = [(one, negated) for one, negated in found if one.term.category == "finding"]
    context = [one for one, _ in found if one.term.category != "finding"]
    if yes:
        return _unlicensed_yes(candidate, stated, claims, context)
    return _unlicensed_no(candidate, stated, claims, context)


def _unlicensed_yes(
    candidate: Candidate, stated: Statement, claims: Sequence[tuple[Mention, bool]], context: Sequence[Mention]
) -> str | None:
    question = candidate.question
    denies = any(negated for _, negated in claims)
    for mention, negated in claims:
        if negated and not _is_denied(mention, stated):
            return f"yes would deny {mention.text!r}, and the caption does not"
        if not negated and (problem := _unlicensed_mention(mention, stated, sure=True)):
            return problem
    for mention in context:
        problem = _unlicensed_context(mention, stated) if claims else _unlicensed_mention(mention, stated, sure=True)
        if problem:
            return problem
    beside = [word for word in _beside_mentions(question) if not (denies and word.stem in _FLIPPING_STEMS)]
    for word in beside:
        known = stated.all_words if denies else stated.sure_words
        if word.stem not in known and not word.stem.isdigit():
            return f"{question[word.start : word.end]!r} is not affirmed in the caption"
    if not claims and not context and not beside and not _sides_in(question):
        return "the question claims nothing that could be checked"
    return None if denies else _wrong_side(question, "", stated)


def _unlicensed_no(
    candidate: Candidate, stated: Statement, claims: Sequence[tuple[Mention, bool]], context: Sequence[Mention]
) -> str | None:
    question = candidate.question
    if candidate.basis == "absent":
        return _mentioned_after_all(candidate, stated, [one for one, _ in claims])
    if _contradicts_side(question, stated):
        return None
    if not claims:
        return _unlicensed_no_without_finding(question, stated, context)
    for mention, negated in claims:
        if negated and (problem := _unlicensed_mention(_affirmed(mention), stated, sure=True)):
            return f"no would affirm {mention.text!r}: {problem}"
        if not negated and not _is_denied(mention, stated) and not _called_normal(question, stated):
            return f"the caption does not deny {mention.text!r}"
    return None


def _affirmed(mention: Mention) -> Mention:
    return Mention(term=mention.term, start=mention.start, end=mention.end, text=mention.text)


def _unlicensed_no_without_finding(question: str, stated: Statement, context: Sequence[Mention]) -> str | None:
    if any(_contradicted(one, stated) for one in context):
        return None
    if context and all(_is_denied(one, stated) for one in context):
        return None
    words = content_stems(question) - set(_SIDES)
    if words and any(words <= clause for clause in stated.denied_clauses):
        return None
    return "the caption neither denies what is asked nor states another modality, plane or side"


def _contradicted(mention: Mention, stated: Statement) -> bool:
    """Whether another modality or plane is stated, neither broader nor narrower than that asked for."""
    category = mention.term.category
    if category not in ("modality", "plane"):
        return False
    others = {term.name for term in terms(category)} & (stated.sure | stated.doubted)
    return bool(others) and not any(_related(mention.term.name, other) for other in others)


@cache
def _like(name: str) -> frozenset[str]:
    """All that cannot be called absent where the term of this name is mentioned: what it implies or is like."""
    term = term_named(name)
    return alike(term) if term is not None else frozenset()


def _related(one: str, other: str) -> bool:
    """Whether two names are the same, or one is broader than the other."""
    first, second = term_named(one), term_named(other)
    if first is None or second is None:
        return one == other
    return one in broader(second) or other in broader(first)


def _called_normal(question: str, stated: Statement) -> bool:
    """Whether a clause calls an organ of the question normal."""
    organs = [content_stems(one.text) for one in find_terms(question) if one.term.category == "organ"]
    return any(
        organ <= clause and clause & _SOUND_STEMS
        for organ in organs
        if organ
        for clause, sure in stated.clauses
        if sure
    )


_FLIPPING_STEMS = frozenset(stem(word) for word in _FLIPPING_WORDS.split())
_SOUND_STEMS = frozenset(stem(word) for word in _SOUND)


def _mentioned_after_all(candidate: Candidate, stated: Statement, claims: Sequence[Mention]) -> str | None:
    """Why silence of the caption cannot be what the no rests on: it is not silent, even if only by a related term."""
    subject = term_named(candidate.subject) if candidate.subject else None
    asked = [subject] if subject is not None else [one.term for one in claims]
    if not asked:
        return "the question asks for no finding that is known, so the caption cannot be searched for it"
    for term in asked:
        if (words := content_stems(term.name)) and words <= stated.all_words:
            return f"the caption speaks of {term.name!r}"
        if near := sorted(name for name in stated.mentioned if term.name in _like(name) or name in broader(term)):
            return f"the caption speaks of {near[0]!r}, which may be {term.name!r}"
    return None


def _sides_in(text: str) -> list[tuple[frozenset[str], int]]:
    words = list(_words(text))
    return [(_SIDES[one.stem], place) for place, one in enumerate(words) if one.stem in _SIDES]


def _anchored_sides(text: str, beside: str) -> Iterator[tuple[frozenset[str], list[str]]]:
    """Each side of a text with the words it may belong to: those after it up to the next side, else all others."""
    words = list(_words(text))
    for sides, place in _sides_in(text):
        after = []
        for word in words[place + 1 :]:
            if word.stem in _SIDES:
                break
            after.append(word.stem)
        anchors = [word for word in after if word not in _EMPTY]
        yield sides, anchors or sorted(content_stems(f"{text} {beside}") - set(_SIDES))


def _wrong_side(text: str, beside: str, stated: Statement) -> str | None:
    """Why a side named in ``text`` is not that of the caption; ``beside`` holds more words it may belong to."""
    for sides, anchors in _anchored_sides(text, beside):
        known = _known_sides(anchors, stated)
        named = " and ".join(sorted(sides))
        if not known:
            return f"the caption names no side {named}"
        if not sides <= known:
            return f"the caption says {' and '.join(sorted(known))}, not {named}"
        if len(sides) == 1 and not any(anchor in stated.sides for anchor in anchors) and known != sides:
            return f"the caption names both sides, and not which of them is {named}"
    return None


def _contradicts_side(question: str, stated: Statement) -> bool:
    """Whether the caption has what is asked for on the other side only."""
    for sides, anchors in _anchored_sides(question, ""):
        known = _known_sides(anchors, stated)
        asked = [anchor for anchor in anchors if anchor in stated.words]
        if known and not sides & known and (asked or not anchors):
            return True
    return False


def _known_sides(anchors: Sequence[str], stated: Statement) -> frozenset[str]:
    """The sides that the caption gives to the first anchor it has with a side, else all sides it names."""
    for anchor in anchors:
        if anchor in stated.sides:
            return stated.sides[anchor]
    return stated.sides.get("", frozenset())
