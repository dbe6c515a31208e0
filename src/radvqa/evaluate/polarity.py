"""What a statement says to a yes/no question when it holds neither "yes" nor "no".

"There is no evidence of effusion" answers "Is there effusion?" with no and says nothing to "Is the chest clear?".
Question and statement become sets of word stems with a sign; an assertion must cover what is asked, a denial must deny
no more than what is asked, sides must agree. Where that decides nothing, nothing is decided.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Literal, NamedTuple

import snowballstemmer
import yaml

from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.synonyms import PhraseTable, canonical, phrase_table, replace_phrases, table

Answer = Literal["yes", "no"]

_DENIED = "not-"
_WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in yaml.safe_load(
        resources.files(__package__).joinpath("statement_words.yaml").read_text(encoding="utf-8")
    ).items()
}
_NEGATIONS = _WORDS["negations"]
_DETERMINERS = _WORDS["determiners"]
_HEDGES = _WORDS["hedges"]
_SIDES = _WORDS["sides"]
_EXISTENCE = _WORDS["existence"]
_FUNCTION = _WORDS["function"]
_PLACES = _WORDS["places"]
_PRONOUNS = _WORDS["pronouns"]
_BE = {
    **dict.fromkeys(("is", "are", "was", "were"), "be"),
    **dict.fromkeys(("do", "does", "did"), "do"),
    **dict.fromkeys(("has", "have", "had"), "have"),
    **dict.fromkeys(("can", "could"), "can"),
}
_FILLERS = _WORDS["fillers"]
_VERBS = _WORDS["verbs"]
_NOT_POLAR = _WORDS["not_polar"]
_AUXILIARIES = _WORDS["auxiliaries"]
_CONTRACTION = re.compile(r"^(\w+?)n['’]?t$")
_CONTRACTED = {"ca": "can", "wo": "will", "sha": "shall", "ai": "is"}
_BARE_CONTRACTIONS = _WORDS["bare_contractions"]
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[.,;:!?\n]")
_BREAKS = frozenset(".;!?\n")
_TWO_WORDS = {
    ("ruled", "out"): "excluded",
    ("rules", "out"): "excluded",
    ("free", "of"): "freeof",
    ("free", "from"): "freeof",
    ("no", "longer"): "not",
}
_TURNS = frozenset(["but", "however", "although", "though", "whereas", "while", "because", "since"])
_STEMMER = snowballstemmer.stemmer("english")


class Clause(NamedTuple):
    """A clause of a statement: words in lower case, contractions opened, and its place in the text."""

    words: tuple[str, ...]
    span: tuple[int, int]


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
    found = (_decide(asked, clause) for clause in clauses(text))
    return [decision for decision in found if decision is not None]


def clauses(text: str) -> list[Clause]:
    """Clauses by stops, line ends and words that turn the statement ("but"); and by a comma before a pronoun; no questions."""
    result: list[Clause] = []
    words: list[str] = []
    start = end = 0

    def close() -> None:
        if words:
            result.append(Clause(tuple(words), (start, end)))
            words.clear()

    tokens = [(found[0].lower().replace("’", "'"), found.start(), found.end()) for found in _TOKEN.finditer(text)]
    for number, (token, begin, stop) in enumerate(tokens):
        following = tokens[number + 1][0] if number + 1 < len(tokens) else ""
        decimal = token == "." and following[:1].isdigit() and tokens[number + 1][1] == stop
        if (
            (token in _BREAKS and not decimal)
            or token in _TURNS
            or (token == "," and following in _PRONOUNS | {"the", "so"})
            or (token == "and" and following in _PRONOUNS | {"no", "not"})
        ):
            if token == "?":
                words.clear()
            close()
            continue
        if token in {",", ".", ":"}:
            if words:
                words.append(",")
            continue
        if not words:
            start = begin
        end = stop
        words.extend(_opened(token))
        if tuple(words[-2:]) in _TWO_WORDS:
            words[-2:] = [_TWO_WORDS[words[-2], words[-1]]]
    close()
    return result


def _opened(token: str) -> list[str]:
    """ "isn't" is "is not", "it's" is "it is", "cannot" is "can not"."""
    if token == "cannot":
        return ["can", "not"]
    contraction = _CONTRACTION.match(token)
    if contraction is not None and ("'" in token or token in _BARE_CONTRACTIONS):
        return [_CONTRACTED.get(contraction[1], contraction[1]), "not"]
    head, _, tail = token.partition("'")
    return (
        [head, {"s": "is", "re": "are", "m": "am", "d": "would", "ll": "will", "ve": "have"}.get(tail, tail)]
        if tail
        else [head]
    )


def _decide(asked: _Question, clause: Clause) -> Decision | None:
    words = clause.words
    if any(word in _HEDGES for word in words) and not _can_be_seen(words):
        return None

    def decision(says: bool, rule: str) -> Decision:
        return Decision("yes" if says == (asked.sign > 0) else "no", rule, clause.span)

    short = _ellipsis(asked, words)
    if short is not None:
        return decision(short, "ellipsis")
    negations = [at for at, word in enumerate(words) if word in _NEGATIONS]
    negations = [at for at in negations if words[at] != "nor"] or negations
    if len(negations) > 1 and not _is_not_absent(words, negations):
        return None
    explicit = -1 if len(negations) == 1 else 1
    content, sign = _content(words)
    exclusive = _other_member(asked, content, words) if explicit > 0 else None
    if exclusive:
        return Decision("no" if not asked.negated else "yes", "other_of_its_kind", clause.span)
    if explicit * sign < 0:
        if explicit < 0 and sign > 0 and words[negations[0]] in _DETERMINERS:
            items = _items(words[negations[0] + 1 :])
        else:
            items = [content]
        return decision(False, "denied") if any(_denies(asked, item, words) for item in items) else None
    return decision(True, "asserted") if _asserts(asked, content, words, denied=sign < 0) else None


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
    """ "It is.", "There isn't any.", "None.", "Absent.": True for what is asked for, without the sign of the question."""
    plain = [word for word in words if word != ","]
    if not plain:
        return None
    if len(plain) == 1 and asked.existence | (asked.sign < 0):
        if plain[0] in {"present", "visible", "seen", "positive"}:
            return True
        if plain[0] in {"absent", "none", "negative"}:
            return False
    if plain[0] == "not" and 2 <= len(plain) <= 6 and all(word in _FILLERS | _EXISTENCE for word in plain):
        return None if asked.negated else asked.sign < 0 if not asked.existence else False
    if plain[0] == "none" and asked.existence and not _content(plain)[0]:
        return False
    if plain[0] not in _PRONOUNS or len(plain) < 2 or plain[1] not in _BE:
        return None
    if not all(word in _FILLERS for word in plain[2:]) or asked.negated:
        return None
    if _BE[plain[1]] != asked.auxiliary or (plain[0] == "there") != asked.there:
        return None
    says = "not" not in plain[2:]
    # "It is" repeats the predicate of the question with its sign.
    return says == (asked.sign > 0)


def _denies(asked: _Question, item: frozenset[str], words: Sequence[str]) -> bool:
    """A denial must name the head of what is asked and nothing that is not asked."""
    if not item <= asked.focus | asked.places | asked.sides:
        return False
    if not item & _SIDES <= asked.sides:
        return False
    if asked.head in item:
        return True
    # "No brain tumour" to "tumour in the brain?" is covered above; "it is normal" leaves the subject out.
    return bool(item) and item == asked.focus


def _asserts(asked: _Question, content: frozenset[str], words: Sequence[str], *, denied: bool) -> bool:
    """An assertion must cover all that is asked and name no other side."""
    sides = content & _SIDES
    if asked.sides and sides and sides != asked.sides:
        return False
    missing = asked.focus - content
    if (
        missing
        and not (words[0] in {"it", "they", "this"} and asked.head in content)
        and not (len(content) == 1 and asked.head in content and not set(words) & _VERBS and not asked.existence)
    ):
        return False
    if asked.existence and not asked.abnormality and not denied:
        exists = any(word in _EXISTENCE for word in words) or not any(word in _VERBS for word in words)
        if not exists:
            return False
    if asked.existence and asked.places:
        named = (asked.places | _SIDES) & content or any(word in _PLACES for word in words)
        if named and not asked.places <= content and not _only_function_after_place(words):
            return False
    return True


def _only_function_after_place(words: Sequence[str]) -> bool:
    at = next((at for at, word in enumerate(words) if word in _PLACES), None)
    return at is not None and not _content(words[at + 1 :])[0]


def _other_member(asked: _Question, content: frozenset[str], words: Sequence[str]) -> bool:
    """Whether the statement names another modality, plane, weighting or side than the one that is asked for."""
    if asked.existence or not asked.concepts:
        return False
    if asked.concepts & _SIDES and not (asked.side_is_place and any(word in _PLACES for word in words)):
        return False
    if not asked.focus - asked.concepts <= content:
        return False
    for kind in _kinds():
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
    read = [_content(item) for item in items]
    return [content for content, sign in read if content and sign > 0]


def _content(words: Sequence[str]) -> tuple[frozenset[str], int]:
    """Stems of the words that carry meaning, and -1 where one of them denies ("normal" denies "abnormal")."""
    return _content_of(" ".join(word for word in words if word != ","))


@lru_cache(maxsize=8192)
def _content_of(text: str) -> tuple[frozenset[str], int]:
    sign, stems = 1, set()
    for word in replace_phrases(_one_spelling(text), _phrases()):
        if word.startswith(_DENIED):
            sign, kept = -sign, word.removeprefix(_DENIED)
        else:
            kept = word
        if kept in _FUNCTION or kept in _EXISTENCE or kept in _NEGATIONS or kept in _PLACES or kept in _AUXILIARIES:
            continue
        stems.add(_stem(kept))
    return frozenset(stems), sign


def _one_spelling(text: str) -> list[str]:
    return canonical(normalise_answer(text)).split()


@cache
def _phrases() -> PhraseTable:
    data = table()
    denials = [(phrase, (*meant[:-1], _DENIED + meant[-1])) for phrase, meant in data.denials.items()]
    return phrase_table([*denials, *data.same.items()])


@cache
def _kinds() -> tuple[frozenset[str], ...]:
    kinds: dict[str, set[str]] = {"side": {"left", "right"}}
    for group in table().groups:
        if group.exclusive:
            # The words of the plane are dropped with the other words for images; the name is its first word.
            word = group.names[0].split()[0]
            kinds.setdefault(group.kind, set()).add(_stem(word))
    return tuple(frozenset(names) for names in kinds.values())


@lru_cache(maxsize=4096)
def _read_question(question: str) -> _Question:
    words = [word for clause in clauses(question.replace("/", " ").replace("?", ".")) for word in clause.words]
    while words and words[0] in _PLACES and "," in words:
        words = words[words.index(",") + 1 :]
    polar = bool(words) and not set(words) & _NOT_POLAR and not ("or" in words and not {"evidence", "any"} & set(words))
    auxiliary = _BE.get(words[0], "") if words else ""
    if len(words) > 1 and auxiliary and words[1] == "not":
        words = [words[0], *words[2:]]
    plain = [word for word in words if word != ","]
    appears = [at for at, word in enumerate(plain) if word in {"appear", "appears"}]
    existence = any(word in _EXISTENCE for word in plain[:1] + plain[1:]) or any(
        at + 1 == len(plain) or plain[at + 1] in _PLACES for at in appears
    )
    negations = [word for word in plain if word in _NEGATIONS]
    at = next((at for at, word in enumerate(plain) if word in _PLACES and at > 1), None) if existence else None
    main, place = (plain, []) if at is None else (plain[:at], plain[at:])
    (focus, sign), (places, _) = _content(main), _content(place)
    if not focus:
        focus, places = places, frozenset()
    if "absent" in negations or "absence" in negations:
        existence = True
    named = _before_of(main) if existence else main
    head = next((stem for stem in map(_last_stem, reversed(named)) if stem in focus), "")
    sides_at = [at for at, word in enumerate(plain) if word in _SIDES]
    kinds = frozenset[str]().union(*_kinds())
    return _Question(
        polar=polar and bool(focus) and len(negations) <= 1,
        existence=existence,
        there="there" in plain[:2],
        auxiliary=auxiliary,
        focus=focus,
        head=head,
        places=places - focus,
        sides=(focus | places) & _SIDES,
        concepts=focus & kinds,
        side_is_place=any(at and plain[at - 1] in _PLACES | {"the"} for at in sides_at)
        and any(word in _PLACES for word in plain[: min(sides_at, default=0)]),
        abnormality=_stem("abnormal") in focus,
        sign=-sign if negations else sign,
        negated=bool(set(negations) - {"absent", "absence"}),
    )


def _before_of(words: Sequence[str]) -> Sequence[str]:
    """The head of "fracture of the femur" stands before "of"; that of "evidence of a fracture" does not."""
    for at, word in enumerate(words):
        if word == "of" and _content(words[:at])[0]:
            return words[:at]
    return words


def _last_stem(word: str) -> str:
    content = _content([word])[0]
    return next(iter(content)) if len(content) == 1 else ""


@lru_cache(maxsize=16384)
def _stem(word: str) -> str:
    return str(_STEMMER.stemWord(word))
