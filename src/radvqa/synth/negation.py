"""What a sentence says of a span in it: that it is denied, uncertain, or of the past.

Words that deny ("no evidence of") reach forwards, others ("is not seen") backwards, up to the end of the sentence or a
word that ends their reach ("but"): NegEx (Chapman et al., J Biomed Inform 2001), with uncertainty and history as in
ConText (Harkema et al., J Biomed Inform 2009). The lists of words are our own, for captions instead of clinical notes,
and every finite verb ends a reach, since captions string clauses together without marks.

The libraries that do this (medspaCy, negspaCy) need spaCy and a pipeline of its models, for what are a few word lists.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

Kind = Literal[
    "pseudo", "ends", "denies", "denied", "doubts", "doubted", "past", "passed", "next_denied", "next_doubted"
]

_SEEN = (
    r"(?:(?:clearly|well|definitely|readily|yet|otherwise)\s+)*(?:seen|visuali[sz]ed|identified|evident|present|noted|"
    r"demonstrated|appreciated|detected|found|observed|visible|shown|apparent|confirmed)"
)
_PERSON = r"(?:patient|man|woman|male|female|boy|girl|child|infant|neonate|newborn|individual|adult)s?"

# Tried in this order at each place: what comes first shields its words from the later kinds.
_WORDS: dict[Kind, tuple[str, ...]] = {
    "pseudo": (
        r"no(?:\s+(?:significant|interval|definite|appreciable|major|further))*\s+(?:change|increase|decrease|progression|"
        r"growth)s?",
        r"not\s+(?:only|necessarily|certain)",
        r"nos?\.?\s*\d+",
        r"without\s+(?:any\s+)?(?:change|(?:(?:the\s+)?(?:use|administration)\s+of\s+)?(?:iv\s+|i\.v\.\s+|intravenous\s+|"
        r"oral\s+)*(?:contrast|gadolinium)(?!\s+(?:enhancement|uptake|extravasation|leak\w*|filling)))",
        r"with\s+and\s+without",
        r"no\s+(?:contrast|sedation|prior)(?!\s+(?:enhancement|uptake|extravasation|leak\w*))",
        r"prior\s+to|previous\s+to",
        r"(?:previously|not\s+previously)\s+un\w+",
    ),
    "doubted": (
        r"(?:can\s?not|could\s+not|can't|couldn't)\s+be\s+(?:entirely\s+|completely\s+|fully\s+)?(?:excluded|ruled\s+out)",
        r"(?:is|are|was|were)?\s*not\s+(?:entirely\s+|completely\s+)?(?:excluded|ruled\s+out)",
        r"(?:is|are|was|were)\s+(?:suspected|possible|probable|likely|questionable|favou?red|suggested|questioned)"
        r"(?=\s*(?:[.,;)]|$))",
    ),
    "doubts": (
        r"(?:can\s?not|could\s+not|can't|couldn't)\s+(?:exclude|rule\s+out)",
        r"(?:rule|exclude|evaluate|assess|look)\s+(?:out|for)",
        r"(?:may|might|could|can)\s+(?:also\s+)?(?:represent|be(?:\s+(?:due|related|secondary)\s+to)?|"
        r"reflect|indicate|suggest|correspond\s+to|mimic|simulate)",
        r"possibl[ey]|probabl[ey]|presumed|presumabl[ey]|questionabl[ey]|perhaps|likely|potential(?:ly)?|putative",
        r"suspicio(?:us|n)\s+(?:for|of)|suspect(?:ed|ing)?|concern(?:ing)?\s+(?:for|of)|worrisome\s+for|question\s+of",
        r"suggest(?:s|ed|ing|ive)?(?:\s+of)?|indeterminate|equivocal(?:\s+for)?|favou?r(?:s|ing|ed)?",
        r"differential(?:\s+diagnos[ie]s)?(?:\s+(?:includes?|of))?|versus|vs\.?|either",
        r"mimic(?:s|king|ked)?|simulat(?:es|ing)|resembl(?:es|ing)|as\s+if|if|risk\s+of|prone\s+to",
    ),
    "denied": (
        r"(?:is|are|was|were|has|have|had|be|been|being)\s+(?:completely\s+|entirely\s+)?(?:absent|negative(?!\s+(?:for|of))|ruled\s+out|"
        r"excluded|resolved|disappeared|unlikely|gone|lacking)",
        r"(?:(?:is|are|was|were|has|have|had|could|can|does|do)\s*)?(?:not|n't)\s+(?:be\s+|been\s+)?" + _SEEN,
        r"(?:can\s?not|could\s+not)\s+be\s+" + _SEEN,
        r"(?:(?:is|are|was|were)\s+)?no\s+longer\s+" + _SEEN,
        r"(?:ruled\s+out|disappeared|resolved|unlikely)(?=\s*(?:[.,;)]|$|after|by|on|with|complete))",
    ),
    "denies": (
        r"no\s+evidence\s+that\s+there\s+(?:is|are|was|were)",
        r"(?:no|without|lacks?|lacking)(?:\s+(?:any|clear|definite|obvious|other|radiographic|imaging))*\s+(?:evidence|signs?|"
        r"indication|suggestion|features?|findings?|presence)\s+(?:of|for|to\s+suggest|suggest(?:ing|ive\s+of))",
        r"(?:does|do|did|has|have|could|can|is|are|was|were)\s*(?:not|n't)\s+(?:\w+ly\s+)?(?:\w+\s+)?(?:show|demonstrate|reveal|"
        r"exhibit|contain|enhance|have|had|showing|demonstrating|involve|suggest|represent|support)",
        r"(?:fail(?:s|ed)?|failure)\s+to\s+(?:show|demonstrate|reveal)",
        r"(?:complete\s+)?(?:absence|lack|resolution|disappearance|clearance)\s+of",
        r"negative\s+(?:for|of)|free\s+(?:of|from)|devoid\s+of|clear\s+of|den(?:y|ies|ied)|unlikely(?:\s+to\s+be)?",
        r"rather\s+than|instead\s+of|as\s+opposed\s+to|exclud(?:es|ing)|rul(?:es|ing)\s+out|lacks|lacking",
        r"no|not|without|never|neither|nor|w/o",
    ),
    "next_denied": (r"non|absent",),
    "past": (
        r"(?:known\s+|past\s+|previous\s+|remote\s+|prior\s+|medical\s+)*history\s+(?:of|for)|h/o|status[\s-]+post|s/p",
        r"prior|previous(?:ly)?|known|formerly|former|initially",
        r"(?:after|following|post|since|before)\s+(?:\w+\s+){0,3}?(?:removal|resection|excision|treatment|drainage|repair|"
        r"embolization|surgery|evacuation|reduction|correction|therapy|operation|aspiration|closure)(?:\s+(?:of|for))?",
        rf"{_PERSON}\s+(?:\w+\s+){{0,2}}?(?:with|has|had|having|suffering\s+from|treated\s+for|affected\s+by|for)",
        r"(?:diagnosed|presented|presenting|admitted|referred|treated|operated)\s+(?:with|for|as)",
        r"diagnosis\s+of|(?:secondary|due)\s+to\s+(?:prior|previous)",
    ),
    "passed": (
        r"(?:was|were|had\s+been|has\s+been)\s+(?:removed|resected|excised|drained|repaired|evacuated|treated|operated)",
    ),
    "ends": (
        r"but|however|although|though|except(?:\s+for)?|aside\s+from|apart\s+from|other\s+than|besides|yet|still|otherwise|"
        r"while|whereas|because|since|therefore|which|who|whose|that|where|despite|with|due\s+to|secondary\s+to|"
        r"caus(?:es|ed|ing)|result(?:s|ed|ing)|consistent|compatible|represent(?:s|ed|ing)?|indicat(?:es|ed|ing|ive)|now",
        r"is|are|was|were|has|have|had|does|do|did|will|can|could|may|might|should|be|been",
        r"show(?:s|n|ed|ing)?|demonstrat(?:es|ed|ing)|reveal(?:s|ed|ing)?|depict(?:s|ed|ing)?|illustrat(?:es|ed|ing)|seen|"
        r"noted|note|see|confirm(?:s|ed|ing)|display(?:s|ed|ing)|appears?|extends?|extending|involv(?:es|ing)|contains?|"
        r"measur(?:es|ing)|exhibit(?:s|ed|ing)|identif(?:y|ies|ied)|arrows?|asterisks?",
    ),
}
_KINDS = "|".join(f"(?P<{kind}>{'|'.join(phrases)})" for kind, phrases in _WORDS.items())
_ANY = re.compile(rf"(?<![\w-])(?:{_KINDS})(?!\w)|(?P<asked>\?)")
_STOP = re.compile(r"[.!;\n](?=\s|$)|\.(?=[A-Z])|\?(?=\s+[A-Z])")
_ABBREVIATION = re.compile(r"(?:\b(?:vs|fig|figs|e\.g|i\.e|approx|ca|dr|no|cf|al|ant|post|st)|\b[A-Z])$", re.IGNORECASE)
_LIST_MARK = re.compile(r"[,:(]")
_NEXT_NOUN_ENDS = re.compile(r"[,:(]|\b(?:and|or)\b")
_NEXT = 40
"""Characters that ``absent`` reaches at most: to the noun that it stands before. ``non`` reaches one word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is said of a span."""

    negated: bool = False
    uncertain: bool = False
    historical: bool = False


def scope_of(text: str, start: int, end: int) -> Scope:
    """What the sentence around ``text[start:end]`` says of it.

    >>> scope_of("No effusion, but a possible mass.", 3, 11)
    Scope(negated=True, uncertain=False, historical=False)
    >>> scope_of("No effusion, but a possible mass.", 28, 32)
    Scope(negated=False, uncertain=True, historical=False)
    """
    return Scopes(text).of(start, end)


@dataclass(frozen=True, slots=True)
class _Trigger:
    kind: Kind
    start: int
    end: int


class Scopes:
    """The triggers of one text, read once for all the spans in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sentences = _sentences_of(text)

    def of(self, start: int, end: int) -> Scope:
        """What the sentence around the span from ``start`` to ``end`` says of it."""
        triggers = next((found for first, last, found in self._sentences if first <= start < last), ())
        kinds = {trigger.kind for trigger in triggers if self._reaches(trigger, start, end, triggers)}
        return Scope(
            negated=bool(kinds & {"denies", "denied", "next_denied"}),
            uncertain=bool(kinds & {"doubts", "doubted"}),
            historical=bool(kinds & {"past", "passed"}),
        )

    def _reaches(self, trigger: _Trigger, start: int, end: int, triggers: tuple[_Trigger, ...]) -> bool:
        forwards = trigger.kind in ("denies", "doubts", "past", "next_denied") and trigger.end <= start
        both_ways = self._text[trigger.start : trigger.end].lower().startswith(("vs", "versus"))
        backwards = (trigger.kind in ("denied", "doubted", "passed") or both_ways) and trigger.start >= end
        if not forwards and not backwards:
            return False
        first, last = (trigger.end, start) if forwards else (end, trigger.start)
        if any(one.kind == "ends" and first <= one.start and one.end <= last for one in triggers):
            return False
        between = self._text[first:last]
        if trigger.kind in ("past", "passed") and _LIST_MARK.search(between):
            return False
        if trigger.kind == "next_denied":
            absent = trigger.end - trigger.start == len("absent")
            return not between.strip(" -") or (absent and len(between) <= _NEXT and not _NEXT_NOUN_ENDS.search(between))
        return True


@lru_cache(maxsize=4096)
def _sentences_of(text: str) -> tuple[tuple[int, int, tuple[_Trigger, ...]], ...]:
    return tuple((first, last, tuple(_triggers(text, first, last))) for first, last in _bounds(text))


def _bounds(text: str) -> Iterator[tuple[int, int]]:
    first = 0
    for stop in _STOP.finditer(text):
        if stop[0] == "." and _ABBREVIATION.search(text, max(0, stop.start() - 8), stop.start()):
            continue
        yield first, stop.end()
        first = stop.end()
    yield first, len(text) + 1


def _triggers(text: str, first: int, last: int) -> Iterator[_Trigger]:
    # Lower-casing one character at a time keeps every place where it is.
    lower = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    for found in _ANY.finditer(lower, first, min(last, len(text))):
        yield _Trigger(
            cast(Kind, found.lastgroup) if found.lastgroup != "asked" else "doubted", found.start(), found.end()
        )
