"""What a statement says to a yes/no question when it holds neither "yes" nor "no".

"There is no evidence of effusion" answers "Is there effusion?" with no and says nothing to "Is the chest clear?".
Question and statement become sets of word stems with a sign; an assertion must cover what is asked, a denial must deny
no more than what is asked, sides must agree. A clause with any word of meaning that is neither in the question nor
known to be harmless (``statement_words.yaml``: degrees, anatomy, ...) decides nothing.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Literal, NamedTuple

from radvqa.evaluate.statements import (
    EXISTENCE,
    NEGATIONS,
    PLACES,
    PRONOUNS,
    SIDES,
    WORDS,
    Clause,
    clauses,
    content_of,
    exclusive_kinds,
    stem,
)

Answer = Literal["yes", "no"]
_DETERMINERS = WORDS["determiners"]
_HEDGES = WORDS["hedges"]
_BE = {
    **dict.fromkeys(("is", "are", "was", "were"), "be"),
    **dict.fromkeys(("do", "does", "did"), "do"),
    **dict.fromkeys(("has", "have", "had"), "have"),
    **dict.fromkeys(("can", "could"), "can"),
}
_FILLERS = WORDS["fillers"]
_VERBS = WORDS["verbs"]
_NOT_POLAR = WORDS["not_polar"]
_REQUESTS = WORDS["requests"]
_ARTICLES = frozenset(["a", "an", "the", "any", "of", "in", "on", "this", "and", "image", "picture", "with", ","])
_FRAMES = (
    ("i", "would", "say", "that"), ("i", "would", "say"), ("i", "think", "that"),
    ("i", "think"), ("i", "believe", "that"),
    ("i", "believe"), ("it", "appears", "that"), ("it", "seems", "that"), ("undoubtedly", "that"),
    ("there", "is", "undoubtedly", "that"),
)  # fmt: skip
"""What may stand in front of a statement and leave it as it is."""
_BARE = {
    **dict.fromkeys(("present", "visible", "seen", "positive"), True),
    **dict.fromkeys(("absent", "none", "negative"), False),
}


class Decision(NamedTuple):
    """A verdict with the rule and the clause that gave it."""

    verdict: Answer
    rule: str
    span: tuple[int, int]


class _Question(NamedTuple):
    polar: bool
    existence: bool
    there: bool
    auxiliary: str
    focus: frozenset[str]
    head: str
    places: frozenset[str]
    sides: frozenset[str]
    concepts: frozenset[str]
    side_is_place: bool
    abnormality: bool
    sign: int
    negated: bool


def decide(question: str, text: str) -> list[Decision]:
    """The decisions of the clauses of ``text``, in order; none where no clause decides."""
    asked = _read_question(question)
    if not asked.polar:
        return []
    found: list[Decision] = []
    on_topic = True
    known = asked.focus | asked.places | asked.sides | _stems_of("degrees")
    for clause in clauses(text):
        words = _without_frame(clause.words)
        decision = _decide(asked, clause._replace(words=words), on_topic=on_topic)
        if decision is not None and (decision.rule == "ellipsis" or not _says_more(asked, words)):
            found.append(decision)
        # "It" after a clause about something else stands for that.
        on_topic = on_topic and content_of(words)[0] <= known
    return found


def covers(label: str, question: str) -> bool:
    """Whether a label ("Pleural effusion", "fracture present") names what the yes/no question asks and no more."""
    asked = _read_question(question)
    words = [word for clause in clauses(label.replace("_", " ")) for word in clause.words]
    content = content_of(words)[0]
    if not asked.polar or not asked.focus or set(words) & (NEGATIONS | _HEDGES):
        return False
    return asked.focus <= content <= asked.focus | asked.places | asked.sides and content & SIDES <= asked.sides


def _without_frame(words: tuple[str, ...]) -> tuple[str, ...]:
    for frame in _FRAMES:
        if words[: len(frame)] == frame and len(words) > len(frame):
            return words[len(frame) :]
    return words


@cache
def _stems_of(name: str) -> frozenset[str]:
    return frozenset(stem(word) for word in WORDS[name]) | content_of(sorted(WORDS[name]))[0]


def _unknown(asked: _Question, words: Sequence[str]) -> frozenset[str]:
    """The stems of a clause that are neither asked about nor known to be harmless."""
    known = asked.focus | asked.places | asked.sides | _stems_of("degrees") | _stems_of("anatomy")
    unknown = content_of(words)[0] - known
    if not unknown & _stems_of("findings") or not asked.existence:
        return unknown
    unknown = frozenset()
    for part in _parts(words):
        content = content_of(part)[0]
        rest = content - known
        if rest and not content & asked.focus:
            rest -= _stems_of("findings")
        unknown |= rest
    return unknown


def _parts(words: Sequence[str]) -> list[list[str]]:
    """The words between the commas and the words that join a list."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word in {",", "and", "with", "or", "nor"}:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _decide(asked: _Question, clause: Clause, *, on_topic: bool) -> Decision | None:  # noqa: PLR0911
    words = clause.words
    if "used to be" in " ".join(words):
        return None
    if words[0] in _REQUESTS and not (asked.auxiliary == "" and words[0] == "use"):
        return None
    if any(word in _HEDGES for word in words) and not _can_be_seen(words):
        return None

    def decision(says: bool, rule: str) -> Decision:
        return Decision("yes" if says == (asked.sign > 0) else "no", rule, clause.span)

    short = _ellipsis(asked, words) if on_topic else None
    if short is not None:
        return decision(short, "ellipsis")
    negations = [at for at, word in enumerate(words) if word in NEGATIONS]
    negations = [at for at in negations if words[at] != "nor"] or negations
    if len(negations) > 1 and not _is_not_absent(words, negations):
        return None
    explicit = -1 if len(negations) == 1 else 1
    content, sign = content_of(words)
    if explicit < 0 and {"that", "which", "who"} & set(words[1 : negations[0]]):
        # "There is a line that is not visible" denies the line no more than it states it.
        return None
    exclusive = _other_member(asked, content, words) if explicit > 0 else None
    if exclusive:
        return Decision("no" if not asked.negated else "yes", "other_of_its_kind", clause.span)
    if not on_topic and (
        words[0] in PRONOUNS - {"there"} or not (asked.focus <= content or (asked.existence and explicit * sign < 0))
    ):
        return None
    if explicit * sign < 0:
        if explicit < 0 and sign > 0 and words[negations[0]] in _DETERMINERS and content_of(words[negations[0] :])[0]:
            items = _items(words[negations[0] + 1 :])
        else:
            items = [content]
        return decision(False, "denied") if any(_denies(asked, item, words) for item in items) else None
    return decision(True, "asserted") if _asserts(asked, content, words, denied=sign < 0) else None


def _says_more(asked: _Question, words: Sequence[str]) -> bool:
    """Whether the clause holds a word that might change what it says."""
    unknown = _unknown(asked, words)
    kinds = frozenset[str]().union(*exclusive_kinds())
    if unknown <= kinds:
        return False
    denied = next((at for at, word in enumerate(words) if word in _DETERMINERS), None)
    if denied is None:
        return True
    # In a list of what is denied each item stands for itself.
    return not set(words[denied:]) & {"or", "nor", ","} or bool(_unknown(asked, words[:denied]))


def _can_be_seen(words: Sequence[str]) -> bool:
    hedges = [at for at, word in enumerate(words) if word in _HEDGES]
    return all(words[at] == "could" and "be" in words[at : at + 3] and "not" not in words for at in hedges)


def _is_not_absent(words: Sequence[str], negations: Sequence[int]) -> bool:
    first, second = negations[0], negations[1]
    return (
        len(negations) == 2
        and words[first] == "not"
        and second == first + 1
        and words[second] in {"absent", "unlikely"}
    )


def _ellipsis(asked: _Question, words: Sequence[str]) -> bool | None:
    """Whether a reply without a statement of its own ("It is.", "None.") affirms; without the sign of the question."""
    plain = [word for word in words if word != ","]
    if not plain or asked.negated or {"yes", "no"} & set(plain):
        return None
    if plain[0] in PRONOUNS:
        return _pronoun_reply(asked, plain)
    if len(plain) == 1 and (asked.existence or asked.sign < 0) and plain[0] in _BARE:
        return _BARE[plain[0]]
    short = len(plain) <= 6 and set(plain) != {"not"} and all(word in _FILLERS | EXISTENCE for word in plain)
    if plain[0] == "not" and short:
        return not asked.existence and asked.sign < 0
    return None


def _pronoun_reply(asked: _Question, plain: Sequence[str]) -> bool | None:
    """As in "It is" or "there isn't any": the verb of the question, and "there" only where the question has it."""
    verb = _BE.get(plain[1]) if len(plain) > 1 else None
    if verb is None or verb != asked.auxiliary or (plain[0] == "there") != asked.there:
        return None
    if not all(word in _FILLERS for word in plain[2:]):
        return None
    # "It is" repeats the predicate of the question with its sign.
    return ("not" not in plain[2:]) == (asked.sign > 0)


def _denies(asked: _Question, item: frozenset[str], words: Sequence[str]) -> bool:
    """A denial must name the head of what is asked and nothing that is not asked."""
    if not item <= asked.focus | asked.places | asked.sides:
        return False
    if not item & SIDES <= asked.sides:
        return False
    if asked.head in item:
        return True
    # "No brain tumour" to "tumour in the brain?" is covered above; "it is normal" leaves the subject out.
    return bool(item) and item == asked.focus


def _asserts(asked: _Question, content: frozenset[str], words: Sequence[str], *, denied: bool) -> bool:  # noqa: PLR0911
    """An assertion must cover all that is asked and name no other side."""
    sides = content & SIDES
    if asked.sides and sides and sides != asked.sides:
        return False
    if not asked.sides and sides and not asked.existence:
        return False
    if any(asked.concepts & kind and len(content & kind) > 1 for kind in exclusive_kinds()):
        return False
    if _is_bare(asked, content, words):
        return False
    missing = asked.focus - content
    if (
        missing
        and not (words[0] in {"it", "they", "this"} and asked.head in content)
        and not (len(content) == 1 and asked.head in content and not set(words) & _VERBS and not asked.existence)
    ):
        return False
    if asked.existence and not asked.abnormality and not denied:
        exists = any(word in EXISTENCE for word in words) or not any(word in _VERBS for word in words)
        if not exists:
            return False
    if asked.existence and asked.places:
        named = (asked.places | SIDES) & content or any(word in PLACES for word in words)
        if named and not asked.places <= content and not _only_function_after_place(words):
            return False
    return True


def _is_bare(asked: _Question, content: frozenset[str], words: Sequence[str]) -> bool:
    """Whether the clause only repeats the noun phrase of the question, like a label."""
    if set(words) & (_VERBS | EXISTENCE - {"any"}) or asked.concepts - SIDES or not asked.focus <= content:
        return False
    names = {word for word in words if content_of([word])[0]}
    return content <= asked.focus | asked.places | asked.sides and set(words) <= names | _ARTICLES and len(names) > 0


def _only_function_after_place(words: Sequence[str]) -> bool:
    at = next((at for at, word in enumerate(words) if word in PLACES), None)
    return at is not None and not content_of(words[at + 1 :])[0]


def _other_member(asked: _Question, content: frozenset[str], words: Sequence[str]) -> bool:
    """Whether the statement names another modality, plane, weighting or side than the one that is asked for."""
    if asked.existence or not asked.concepts:
        return False
    if asked.concepts & SIDES and not (asked.side_is_place and any(word in PLACES for word in words)):
        return False
    if not asked.focus - asked.concepts <= content:
        return False
    for kind in exclusive_kinds():
        ours, theirs = asked.concepts & kind, content & kind
        if len(ours) == 1 and len(theirs) == 1 and ours != theirs:
            return True
    return False


def _items(words: Sequence[str]) -> list[frozenset[str]]:
    """What a "no" in front of the words denies: "midline shift or hemorrhage" are two things.

    A list goes on only as far as its last "or": in "no mass, small effusion" the effusion is not denied.
    """
    items: list[list[str]] = [[]]
    ends = [at for at, word in enumerate(words) if word in {"or", "nor"}]
    for at, word in enumerate(words):
        if word == "and" or (word == "," and not any(end > at for end in ends)):
            break
        if word in {",", "or", "nor"}:
            items.append([])
        else:
            items[-1].append(word)
    read = [content_of(item) for item in items]
    return [content for content, sign in read if content and sign > 0]


@lru_cache(maxsize=4096)
def _read_question(question: str) -> _Question:
    words = [word for clause in clauses(question.replace("/", " ").replace("?", ".")) for word in clause.words]
    while words and words[0] in PLACES and "," in words:
        words = words[words.index(",") + 1 :]
    polar = bool(words) and not set(words) & _NOT_POLAR and not ("or" in words and not {"evidence", "any"} & set(words))
    auxiliary = _BE.get(words[0], "") if words else ""
    if len(words) > 1 and auxiliary and words[1] == "not":
        words = [words[0], *words[2:]]
    plain = [word for word in words if word != ","]
    appears = [at for at, word in enumerate(plain) if word in {"appear", "appears"}]
    existence = any(word in EXISTENCE for word in plain[:1] + plain[1:]) or any(
        at + 1 == len(plain) or plain[at + 1] in PLACES for at in appears
    )
    negations = [word for word in plain if word in NEGATIONS]
    at = next((at for at, word in enumerate(plain) if word in PLACES and at > 1), None) if existence else None
    main, place = (plain, []) if at is None else (plain[:at], plain[at:])
    (focus, sign), (places, _) = content_of(main), content_of(place)
    if not focus:
        focus, places = places, frozenset()
    if "absent" in negations or "absence" in negations:
        existence = True
    named = _before_of(main) if existence else main
    head = next((stem for stem in map(_last_stem, reversed(named)) if stem in focus), "")
    sides_at = [at for at, word in enumerate(plain) if word in SIDES]
    kinds = frozenset[str]().union(*exclusive_kinds())
    return _Question(
        polar=polar and bool(focus) and len(negations) <= 1,
        existence=existence,
        there="there" in plain[:2],
        auxiliary=auxiliary,
        focus=focus,
        head=head,
        places=places - focus,
        sides=(focus | places) & SIDES,
        concepts=focus & kinds,
        side_is_place=any(at and plain[at - 1] in PLACES | {"the"} for at in sides_at)
        and any(word in PLACES for word in plain[: min(sides_at, default=0)]),
        abnormality=stem("abnormal") in focus,
        sign=-sign if negations else sign,
        negated=bool(set(negations) - {"absent", "absence"}),
    )


def _before_of(words: Sequence[str]) -> Sequence[str]:
    """The head of "fracture of the femur" stands before "of"; that of "evidence of a fracture" does not."""
    for at, word in enumerate(words):
        if word == "of" and content_of(words[:at])[0]:
            return words[:at]
    return words


def _last_stem(word: str) -> str:
    content = content_of([word])[0]
    return next(iter(content)) if len(content) == 1 else ""
