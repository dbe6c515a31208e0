"""Statements as word stems: clauses, and what is left of one without the words that carry no meaning of their own."""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import snowballstemmer
import yaml

from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.synonyms import PhraseTable, canonical, phrase_table, replace_phrases, table

_DENIED = "not-"
WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in yaml.safe_load(
        resources.files(__package__).joinpath("statement_words.yaml").read_text(encoding="utf-8")
    ).items()
}
NEGATIONS = WORDS["negations"]
SIDES = WORDS["sides"]
EXISTENCE = WORDS["existence"]
_FUNCTION = WORDS["function"]
PLACES = WORDS["places"]
PRONOUNS = WORDS["pronouns"]
_VERBS = WORDS["verbs"]
_AUXILIARIES = WORDS["auxiliaries"]
_CONTRACTION = re.compile(r"^(\w+?)n['’]?t$")
_CONTRACTED = {"ca": "can", "wo": "will", "sha": "shall", "ai": "is"}
_TAILS = {"s": "is", "re": "are", "m": "am", "d": "would", "ll": "will", "ve": "have"}
_BARE_CONTRACTIONS = WORDS["bare_contractions"]
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[.,;:!?\n]")
_ABBREVIATION = re.compile(r"\b(?:i\.e|e\.g)\.", re.I)
"""As long as the word that takes its place, so that spans stay."""
_BREAKS = frozenset(".;!?\n")
_TWO_WORDS = {
    ("ruled", "out"): "excluded",
    ("rules", "out"): "excluded",
    ("free", "of"): "freeof",
    ("free", "from"): "freeof",
    ("no", "longer"): "not",
    ("no", "doubt"): "undoubtedly",
    ("without", "doubt"): "undoubtedly",
    ("not", "only"): "also",
}
_CONDITIONS = frozenset(["if", "unless", "when", "whether", "until", "provided", "assuming"])
_ALL = frozenset(["all", "anything", "everything", "none", "nothing", "no", "any"])
_LABEL_ANSWERS = frozenset(["none", "not", "no", "absent", "negative", "present"])
_ZERO = frozenset(["0", "zero"])
_BEFORE_ZERO = frozenset(["is", "are", "was", "were", "has", "have", "shows", "show", ",", "there"])
_AFTER_COMMA = PRONOUNS | {"the", "so"}
_AFTER_AND = PRONOUNS | {"no", "not"}
_TURNS = frozenset(["but", "however", "although", "though", "whereas", "while", "because", "since"])
_STEMMER = snowballstemmer.stemmer("english")


class Clause(NamedTuple):
    """A clause of a statement: words in lower case, contractions opened, and its place in the text."""

    words: tuple[str, ...]
    span: tuple[int, int]


def clauses(text: str) -> list[Clause]:
    """Clauses by stops, line ends, words that turn the statement ("but") and commas before a pronoun; no questions."""
    result: list[Clause] = []
    words: list[str] = []
    start = end = 0

    def close() -> None:
        if words:
            result.append(Clause(tuple(_as_denial(words)), (start, end)))
            words.clear()

    text = _ABBREVIATION.sub("such", text)
    tokens = [(found[0].lower().replace("’", "'"), found.start(), found.end()) for found in _TOKEN.finditer(text)]
    for number, (token, begin, stop) in enumerate(tokens):
        following = tokens[number + 1][0] if number + 1 < len(tokens) else ""
        after = tokens[number + 2][0] if number + 2 < len(tokens) else ""
        if token == "but" and words and words[-1] in _ALL:
            words.append("except")
            continue
        if token == "?" and words and following in _LABEL_ANSWERS and not _VERBS & set(words):
            # "Fracture? None seen."
            words.append(",")
            continue
        decimal = token == "." and following[:1].isdigit() and tokens[number + 1][1] == stop
        if (
            (token in _BREAKS and not decimal)
            or token in _TURNS
            or (token == "," and _starts_a_clause(following, after) and _CONDITIONS.isdisjoint(words))
            or (token == "and" and following in _AFTER_AND)
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


def _starts_a_clause(word: str, after: str) -> bool:
    """Whether a comma in front of these two words ends a clause."""
    if word == "no":
        return after not in {"longer", "doubt"}
    return word in _AFTER_COMMA or (word == "not" and after in {"a", "an", "the"})


def _as_denial(words: list[str]) -> list[str]:
    """Zero as "no", and "false" or "true" behind a label as "absent" or "present"."""
    denied = [
        "no" if word in _ZERO and (at == 0 or words[at - 1] in _BEFORE_ZERO) else word for at, word in enumerate(words)
    ]
    for at in range(len(denied) - 2):
        if denied[at] == "previously" and denied[at + 1] in EXISTENCE and "not" in denied[at + 2 :]:
            # "The previously seen effusion is no longer present."
            del denied[at]
            break
    while denied and denied[-1] == ",":
        denied.pop()
    if len(denied) > 1 and not _VERBS & set(denied):
        denied[-1] = {"false": "absent", "true": "present", "positive": "present"}.get(denied[-1], denied[-1])
    return denied


def _opened(token: str) -> list[str]:
    """Contractions written out: "isn't" is "is not", "it's" is "it is", "cannot" is "can not"."""
    if token == "cannot":
        return ["can", "not"]
    contraction = _CONTRACTION.match(token)
    if contraction is not None and ("'" in token or token in _BARE_CONTRACTIONS):
        return [_CONTRACTED.get(contraction[1], contraction[1]), "not"]
    head, _, tail = token.partition("'")
    return [head, _TAILS.get(tail, tail)] if tail else [head]


def content_of(words: Sequence[str]) -> tuple[frozenset[str], int]:
    """Stems of the words that carry meaning, and -1 where one of them denies ("normal" denies "abnormal")."""
    return _stems(" ".join(word for word in words if word != ","))


@lru_cache(maxsize=8192)
def _stems(text: str) -> tuple[frozenset[str], int]:
    sign, stems = 1, set()
    for word in replace_phrases(_one_spelling(text), _phrases()):
        if word.startswith(_DENIED):
            sign, kept = -sign, word.removeprefix(_DENIED)
        else:
            kept = word
        if kept in _FUNCTION or kept in EXISTENCE or kept in NEGATIONS or kept in PLACES or kept in _AUXILIARIES:
            continue
        stems.add(stem(kept))
    return frozenset(stems), sign


def _one_spelling(text: str) -> list[str]:
    return canonical(normalise_answer(text)).split()


@cache
def _phrases() -> PhraseTable:
    data = table()
    denials = [(phrase, (*meant[:-1], _DENIED + meant[-1])) for phrase, meant in data.denials.items()]
    return phrase_table([*denials, *data.same.items()])


@cache
def exclusive_kinds() -> tuple[frozenset[str], ...]:
    """The stems of modalities, planes, weightings and sides; naming one of a kind denies the others."""
    kinds: dict[str, set[str]] = {"side": {"left", "right"}}
    for group in table().groups:
        if group.exclusive:
            # The words of the plane are dropped with the other words for images; the name is its first word.
            word = group.names[0].split()[0]
            kinds.setdefault(group.kind, set()).add(stem(word))
    return tuple(frozenset(names) for names in kinds.values())


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """The Snowball stem of an English word."""
    return str(_STEMMER.stemWord(word))
