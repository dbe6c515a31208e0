"""Question-answer pairs by rules: no model, no chance, only what a caption and the facts beside it say.

Rules rather ask too little than something wrong: where a caption names two organs, two planes or two findings of the
same rank, the question for the one is not asked. What is denied, uncertain or of the past is never a "yes".
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from radvqa.synth.pair import Candidate, Slot, Source
from radvqa.synth.vocabulary import (
    Category,
    Mention,
    Term,
    alike,
    answers_finding,
    broader,
    find_terms,
    is_asked,
    is_generic,
    names_within,
    organs_of,
    term_named,
    whole_organ,
)
from radvqa.synth.wording import presence_question, question_for

DEGREES = frozenset({"minimal", "mild", "mild to moderate", "moderate", "moderate to severe", "severe", "extensive"})
"""Words of severity that answer "how severe"; sizes and spreads ("large", "diffuse") do not."""

NEIGHBOURS: Mapping[str, frozenset[str]] = {
    "head": frozenset({"neck", "spine"}),
    "neck": frozenset({"head", "chest", "spine"}),
    "chest": frozenset({"neck", "abdomen", "spine", "breast", "limb"}),
    "abdomen": frozenset({"chest", "pelvis", "spine"}),
    "pelvis": frozenset({"abdomen", "spine", "limb"}),
    "spine": frozenset({"head", "neck", "chest", "abdomen", "pelvis"}),
    "limb": frozenset({"chest", "pelvis"}),
    "breast": frozenset({"chest"}),
}
"""Regions that one image may show beside the one that its caption speaks of."""

_GRADED = frozenset({"mass effect", "enhancement"})
_SIDES = {"right": "right side", "left": "left side", "bilateral": "both sides"}
_INTO = re.compile(
    r"^\s*(?:(?:is|are|was|were)\s+)?(?:(?:seen|noted|present|located|identified|visible|visuali[sz]ed|centered|arising)\s+)?"
    r"(?:in|within|of|at|on|involving|from)\s+(?:the\s+)?"
    r"(?P<modifiers>(?:(?:anterior|posterior|superior|inferior|medial|lateral|upper|lower|mid|proximal|distal|deep|superficial|"
    r"central|dorsal|ventral|anterolateral|posterolateral|anteromedial|posteromedial)\s+)*)$",
    re.IGNORECASE,
)
_BLANK = re.compile(r"^[\s-]*$")
_MODIFIER_AFTER_SIDE = re.compile(
    r"^\s+(?P<modifiers>(?:(?:anterior|posterior|superior|inferior|medial|lateral|upper|lower|mid|proximal|distal)\s+)*)$",
    re.IGNORECASE,
)
_ENUMERATION = re.compile(r"^\s*(?:,|and\b|or\b|as\s+well\s+as\b|/|&|to\b|through\b)", re.IGNORECASE)
_DENIED_AS_SUCH = re.compile(
    r"(?:^|[.,;:(]|\b(?:no|not|or|nor|and|without|any|of|for|show|demonstrate|reveal)\b)\s*(?:(?:evidence|signs?)\s+of\s+)?"
    r"(?:(?:definite|obvious|clear|acute|associated|surrounding|adjacent|frank|discrete|visible|appreciable|evident)\s+)*$",
    re.IGNORECASE,
)
_PLACED = re.compile(
    r"\s*(?:(?:is|are|was|were)?\s*(?:seen|noted|present|identified|visible|visuali[sz]ed|evident)\s+)?"
    r"(?:in|within|of|at|along|into|on|to|around|near|through|between|from|or\s+\w+\s+in)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?;\n](?=\s|$)")


def positive_candidates(
    source: Source, counts: Mapping[Slot, int], styles: Sequence[str], seed: int
) -> tuple[Candidate, ...]:
    """The pairs that the caption and its facts license, at most ``counts`` of each slot; the same for equal arguments.

    Facts go before the caption's words; where the two differ, the slot is left out. "No" rests here on what the caption
    denies alone: other ways to "no" must be weighed against all captions, see ``balanced_negatives``.

    Raises:
        RecipeError: an unknown style.
    """
    reading = _Reading(source)
    ask = _Asker(source, tuple(styles), seed)
    open_slots: dict[Slot, Callable[[], Iterable[Candidate]]] = {
        "modality": lambda: _stated("modality", reading.modality, ask),
        "plane": lambda: _stated("plane", reading.plane, ask),
        "organ": lambda: _named("organ", reading.organ, ask),
        "finding": lambda: _named("finding", reading.finding, ask),
        "location": lambda: _locations(reading, ask),
        "severity": lambda: _severities(reading, ask),
        "yes": lambda: _present(reading, ask),
        "no": lambda: _denied(reading, ask),
    }
    return tuple(
        candidate
        for slot, make in open_slots.items()
        if counts.get(slot, 0) > 0
        for candidate in tuple(make())[: counts[slot]]
    )


def balanced_negatives(
    sources: Sequence[Source],
    asked_yes: Mapping[str, int],
    *,
    already_no: Mapping[str, int],
    per_caption: int,
    styles: Sequence[str],
    seed: int,
    allowed: Callable[[Source, str], bool] | None = None,
) -> dict[str, tuple[Candidate, ...]]:
    """By caption, "no" questions about what is not in the image, until each term has as many "no" as "yes".

    A term that was never asked with "yes" is not asked: else its name alone would tell the answer. Where it can be:

    - findings: where the region and modality of the image make them plausible, and the caption names neither them nor a
      synonym, nor a broader or narrower term, nor a finding that looks alike;
    - modalities, planes and sides: where another one is stated;
    - organs: where the image shows a part of the body far from them.

    The result does not depend on the order of ``sources``. ``allowed`` may forbid a term for a caption; ``already_no``
    counts the "no" questions that there are; ``per_caption`` bounds what one caption gets.

    Raises:
        RecipeError: an unknown style.
    """
    readings = {source.caption_id: _Reading(source) for source in sources}
    missing = _missing(asked_yes, already_no)
    places = {term: _places(term, readings, seed, allowed) for term in missing}
    taken: dict[str, list[Term]] = defaultdict(list)
    # What has the least choice goes first, so that the common findings do not use up the captions of the rare ones.
    for term in sorted(missing, key=lambda term: (len(places[term]) - missing[term], term.name)):
        free = [caption for caption in places[term] if _has_room(taken[caption], term, per_caption)]
        for caption in free[: missing[term]]:
            taken[caption].append(term)
    return {
        caption: tuple(
            _absent(term, readings[caption], _Asker(readings[caption].source, tuple(styles), seed)) for term in terms
        )
        for caption, terms in sorted(taken.items())
        if terms
    }


class _Reading:
    """What one caption and the facts beside it say, as terms."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.mentions = find_terms(source.text)

    @cached_property
    def modality(self) -> tuple[Term, str] | None:
        """The one modality of the image and the basis of this; None where it is not certain."""
        stated, named = self._fact("modality"), _leaves(self._sure("modality"))
        if stated is not None:
            return (stated, "fact") if all(_roots(term) & _roots(stated) for term in named) else None
        roots = {root for term in named for root in _roots(term)}
        if len(named) == 1 and len(roots) > 1:
            return named[0], "caption"
        root = term_named(roots.pop()) if len(roots) == 1 else None
        return None if root is None else (root, "caption")

    @cached_property
    def plane(self) -> tuple[Term, str] | None:
        """The one plane or view of the image and the basis of this; None where it is not certain."""
        stated, named = self._fact("plane"), _leaves(self._sure("plane"))
        if stated is not None:
            related = all(stated.name in broader(term) or term.name in broader(stated) for term in named)
            return (stated, "fact") if related else None
        return (named[0], "caption") if len(named) == 1 else None

    @cached_property
    def organ(self) -> Term | None:
        """The one organ that the caption is about; None where there are several."""
        within = [organ for one in self.asserted("finding") for organ in organs_of(one.text)]
        named = [*self._named("organ"), *within]
        leaves = _leaves(term for term in named if not is_generic(term))
        wholes = {whole_organ(term) for term in leaves}
        return wholes.pop() if len(wholes) == 1 else None

    @cached_property
    def finding(self) -> Term | None:
        """The one finding that the caption is about; None where there are several or an uncertain one beside it."""
        ranked = {term: answers_finding(term) for term in _leaves(self._named("finding"))}
        best = max(ranked.values(), default=0)
        chosen = [term for term, rank in ranked.items() if rank == best]
        doubtful = [
            one.term for one in self.mentions if one.term.category == "finding" and (one.uncertain or one.historical)
        ]
        if best == 0 or len(chosen) != 1 or any(answers_finding(term) == 2 for term in doubtful):
            return None
        return chosen[0]

    @cached_property
    def sides(self) -> frozenset[str]:
        """All sides that the caption names, also as a part of an organ ("right lower lobe")."""
        return frozenset(
            name
            for one in self.mentions
            for name in broader(one.term)
            if name in ("right", "left", "bilateral", "midline")
        )

    @cached_property
    def regions(self) -> frozenset[str]:
        """The regions of the body that the caption speaks of."""
        return frozenset(region for one in self.mentions for region in one.term.regions)

    @cached_property
    def describes(self) -> bool:
        """Whether the caption says what is seen, so that what it does not name can be taken for absent."""
        return any(answers_finding(one.term) > 0 for one in self.asserted("finding"))

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all terms in the caption, denied or not, and of all that they imply."""
        terms = [term for term in map(term_named, names_within(self.source.text)) if term is not None]
        return frozenset(name for term in terms for name in broader(term))

    @cached_property
    def blocked(self) -> frozenset[str]:
        """The names of all findings whose absence the caption leaves open, because it says something like it."""
        findings = [term for term in map(term_named, self.names) if term is not None and term.category == "finding"]
        return frozenset(name for term in findings for name in alike(term)) | self.names

    def stated(self, category: Category) -> tuple[Term, str] | None:
        """The modality, plane or side that holds for the whole image, and its basis; None for others."""
        return {"modality": self.modality, "plane": self.plane, "side": _side_of_finding(self)}.get(category)

    def asserted(self, category: Category) -> tuple[Mention, ...]:
        """The mentions of this category that are neither denied nor uncertain nor of the past."""
        return tuple(
            one
            for one in self.mentions
            if one.term.category == category and not (one.negated or one.uncertain or one.historical)
        )

    def _named(self, category: Category) -> tuple[Term, ...]:
        return tuple(dict.fromkeys(one.term for one in self.asserted(category)))

    def _sure(self, category: Category) -> tuple[Term, ...]:
        return tuple(dict.fromkeys(one.term for one in self.mentions if one.term.category == category))

    def _fact(self, category: Category) -> Term | None:
        value = self.source.facts.get(category, "")
        term = term_named(value) if value else None
        return term if term is not None and term.category == category else None


@dataclass(frozen=True, slots=True)
class _Asker:
    source: Source
    styles: tuple[str, ...]
    seed: int

    def ask(self, slot: Slot, answer: str, basis: str, subject: str = "") -> Candidate:
        style, seed = self._style(slot, subject or answer)
        about = subject if slot in ("location", "severity") else ""
        question = question_for(slot, style=style, subject=about, seed=seed)
        return Candidate(
            question=question, answer=answer, slot=slot, style=style, basis=basis, subject=subject or answer
        )

    def yes(self, term: Term, basis: str) -> Candidate:
        return self._presence(term, "yes", basis)

    def no(self, term: Term, basis: str) -> Candidate:
        return self._presence(term, "no", basis)

    def rank(self, *names: str) -> int:
        return _hash(self.seed, self.source.caption_id, *names)

    def _presence(self, term: Term, answer: Slot, basis: str) -> Candidate:
        # The wording may not tell the answer: it is drawn without knowing it.
        style, seed = self._style("presence", term.name)
        question = presence_question(term.name, style=style, seed=seed, category=term.category)
        return Candidate(question=question, answer=answer, slot=answer, style=style, basis=basis, subject=term.name)

    def _style(self, *names: str) -> tuple[str, int]:
        drawn = self.rank(*names)
        return self.styles[drawn % len(self.styles)], drawn // len(self.styles)


def _stated(slot: Slot, value: tuple[Term, str] | None, ask: _Asker) -> Iterator[Candidate]:
    if value is not None:
        yield ask.ask(slot, value[0].name, value[1])


def _named(slot: Slot, term: Term | None, ask: _Asker) -> Iterator[Candidate]:
    if term is not None:
        yield ask.ask(slot, term.name, "caption")


def _locations(reading: _Reading, ask: _Asker) -> Iterator[Candidate]:
    place = _place_of_finding(reading)
    if place is not None and reading.finding is not None:
        yield ask.ask("location", place, "caption", subject=reading.finding.name)


def _severities(reading: _Reading, ask: _Asker) -> Iterator[Candidate]:
    """The degree that stands before a finding, with nothing but its side or organ between them."""
    degrees: dict[Term, set[str]] = defaultdict(set)
    for place, one in enumerate(reading.mentions):
        if one.term.category != "finding":
            continue
        before = _word_before(reading, place, {"side", "organ"})
        degrees[one.term].add(before.term.name if before is not None and before.term.category == "severity" else "")
    for one in reading.asserted("finding"):
        found = degrees.pop(one.term, set())
        if len(found) == 1 and found <= DEGREES and (is_asked(one.term) or one.term.name in _GRADED):
            yield ask.ask("severity", found.pop(), "caption", subject=one.term.name)


def _present(reading: _Reading, ask: _Asker) -> Iterator[Candidate]:
    findings = {one.term for one in reading.asserted("finding") if is_asked(one.term)}
    denied = {name for one in reading.mentions if one.negated or one.uncertain for name in broader(one.term)}
    sure = [term for term in findings if term.name not in denied]
    yield from (ask.yes(term, "caption") for term in sorted(sure, key=lambda term: ask.rank("yes", term.name)))
    stated = [reading.stated(category) for category in ("modality", "plane", "side")]
    others = [value for value in stated if value is not None]
    if reading.organ is not None:
        others.append((reading.organ, "caption"))
    others.sort(key=lambda one: ask.rank("yes", one[0].name))
    yield from (ask.yes(term, basis) for term, basis in others)


def _denied(reading: _Reading, ask: _Asker) -> Iterator[Candidate]:
    """Findings that the caption denies as such: not only large, new or other ones, and not only for one place."""
    holds = {name for one in reading.mentions if not one.negated for name in broader(one.term)}
    denied = [one for one in reading.mentions if one.term.category == "finding" and one.negated]
    terms = {one.term for one in denied if is_asked(one.term) and not (one.uncertain or one.historical)}
    for term in sorted(terms, key=lambda term: ask.rank("no", term.name)):
        if term.name not in holds and all(_is_unrestricted(reading, one) for one in denied if one.term == term):
            yield ask.no(term, "negated")


def _is_unrestricted(reading: _Reading, one: Mention) -> bool:
    before, after = reading.source.text[: one.start], reading.source.text[one.end :]
    start, _ = _sentence_around(reading, one)
    sided = {"right", "left"} & _sides_between(reading, start, one.start)
    beside = re.search(r"(?:surrounding|associated|adjacent)\s+$", before)
    return bool(_DENIED_AS_SUCH.search(before)) and not _PLACED.match(after) and (beside is not None or not sided)


def _sentence_around(reading: _Reading, one: Mention) -> tuple[int, int]:
    text = reading.source.text
    stops = [stop.end() for stop in _SENTENCE_END.finditer(text)]
    start = max((stop for stop in stops if stop <= one.start), default=0)
    return start, min((stop for stop in stops if stop >= one.end), default=len(text))


def _sides_between(reading: _Reading, start: int, end: int) -> set[str]:
    mentions = [one for one in reading.mentions if start <= one.start < end]
    return {name for one in mentions for name in broader(one.term) & {"right", "left", "bilateral"}}


def _word_before(reading: _Reading, place: int, between: set[Category]) -> Mention | None:
    """The mention just before this one, over those of the categories ``between``; None where other words stand."""
    text, at = reading.source.text, reading.mentions[place].start
    last: Mention | None = None
    for one in reversed(reading.mentions[:place]):
        if not _BLANK.match(text[one.end : at]):
            return last
        last, at = one, one.start
        if one.term.category not in between:
            return one
    return last


def _side_of_finding(reading: _Reading) -> tuple[Term, str] | None:
    """The side of the one finding, where the caption names this side alone."""
    side = term_named(next(iter(reading.sides))) if len(reading.sides) == 1 else None
    if side is None or side.name not in ("right", "left") or _place_of_finding(reading) is None:
        return None
    return side, "caption"


def _place_of_finding(reading: _Reading) -> str | None:
    """Where the one finding lies, where the caption ties it to one place that has a side."""
    if reading.finding is None:
        return None
    ours = [place for place, one in enumerate(reading.mentions) if one.term == reading.finding]
    related = [
        one for one in reading.asserted("finding") if one.term != reading.finding and answers_finding(one.term) == 2
    ]
    if len(ours) != 1 or any(
        reading.finding.name not in broader(one.term) and one.term.name not in broader(reading.finding)
        for one in related
    ):
        return None
    # "A cyst in the left lung and two in the right" names the finding once, but two places.
    if len(_sides_between(reading, *_sentence_around(reading, reading.mentions[ours[0]]))) > 1:
        return None
    before, after = _place_before(reading, ours[0]), _place_after(reading, ours[0])
    places = {place for place in (before, after) if place is not None}
    return places.pop() if len(places) == 1 else None


def _place_before(reading: _Reading, place: int) -> str | None:
    """The side and organ that stand just before the finding: "left renal mass"."""
    text, mentions = reading.source.text, reading.mentions
    at, organ, side = mentions[place].start, None, None
    for one in reversed(mentions[:place]):
        if not _BLANK.match(text[one.end : at]):
            break
        if one.term.category == "organ" and organ is None:
            organ, at = one.term, one.start
        elif one.term.category == "side":
            side = one.term
            break
        elif one.term.category == "severity" and organ is None:
            at = one.start
        else:
            break
    return _place_name(side, organ, "")


def _place_after(reading: _Reading, place: int) -> str | None:
    """The side and organ that a preposition ties to the finding: "mass in the upper left kidney"."""
    text, mentions = reading.source.text, reading.mentions
    following = mentions[place + 1 : place + 3]
    if not following:
        return None
    into = _INTO.match(text[mentions[place].end : following[0].start])
    if into is None:
        return None
    side, organ, modifiers, end = None, None, into["modifiers"], following[0].end
    if following[0].term.category == "side" and len(following) == 2:
        inner = _MODIFIER_AFTER_SIDE.match(text[following[0].end : following[1].start])
        if inner is not None and following[1].term.category == "organ":
            side, organ, end = following[0].term, following[1].term, following[1].end
            modifiers += inner["modifiers"]
    elif following[0].term.category == "organ":
        organ = following[0].term
    if organ is None or _ENUMERATION.match(text[end:]):
        return None
    return _place_name(side, organ, " ".join(modifiers.lower().split()))


def _place_name(side: Term | None, organ: Term | None, modifiers: str) -> str | None:
    if organ is None:
        return None if side is None else _SIDES.get(side.name)
    own = {"right", "left"} & broader(organ)
    if side is None and not own:
        return None
    words = [modifiers, "" if side is None or own else side.name, organ.name]
    return " ".join(word for word in words if word)


def _leaves(terms: Iterable[Term]) -> list[Term]:
    """The terms that no other of them implies."""
    distinct = list(dict.fromkeys(terms))
    implied = {name for term in distinct for name in broader(term) - {term.name}}
    return [term for term in distinct if term.name not in implied]


def _roots(term: Term) -> frozenset[str]:
    """The broadest terms that it implies."""
    named = [found for found in map(term_named, broader(term)) if found is not None]
    return frozenset(found.name for found in named if not found.implies)


def _missing(asked_yes: Mapping[str, int], already_no: Mapping[str, int]) -> dict[Term, int]:
    """By term, how many "no" are wanting; synonyms count together."""
    wanted: Counter[Term] = Counter()
    for counts, sign in ((asked_yes, 1), (already_no, -1)):
        for name, number in counts.items():
            term = term_named(name)
            if term is not None and term.category != "severity":
                wanted[term] += sign * number
    return {term: number for term, number in wanted.items() if number > 0}


def _places(
    term: Term, readings: Mapping[str, _Reading], seed: int, allowed: Callable[[Source, str], bool] | None
) -> list[str]:
    """The captions where the term may be asked with "no", in an order that is drawn for this term."""
    found = [
        caption
        for caption, reading in readings.items()
        if _is_surely_absent(term, reading) and (allowed is None or allowed(reading.source, term.name))
    ]
    return sorted(found, key=lambda caption: (_hash(seed, caption, term.name), caption))


def _absent(term: Term, reading: _Reading, ask: _Asker) -> Candidate:
    stated = reading.stated(term.category)
    return ask.no(term, "absent" if stated is None else stated[1])


def _is_surely_absent(term: Term, reading: _Reading) -> bool:
    if not reading.mentions or term.name in reading.blocked or not broader(term).isdisjoint(reading.names):
        return False
    if term.category in ("modality", "plane", "side"):
        stated = reading.stated(term.category)
        return stated is not None and not _roots(stated[0]) & _roots(term)
    if term.category == "organ":
        near = reading.regions | {near for region in reading.regions for near in NEIGHBOURS[region]}
        return bool(term.regions) and bool(reading.regions) and not term.regions & near
    # A caption that names no finding does not say that there is none.
    return reading.describes and is_asked(term) and _is_plausible(term, reading)


def _is_plausible(finding: Term, reading: _Reading) -> bool:
    """Whether region and modality of the image would let the finding be seen."""
    if finding.regions and not finding.regions & reading.regions:
        return False
    if not finding.modalities:
        return True
    return reading.modality is not None and bool(finding.modalities & broader(reading.modality[0]))


def _has_room(taken: Sequence[Term], term: Term, per_caption: int) -> bool:
    """Whether one more fits: two that imply each other would ask the same twice."""
    return len(taken) < per_caption and not any(
        broader(one) & {term.name} or broader(term) & {one.name} for one in taken
    )


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8])
