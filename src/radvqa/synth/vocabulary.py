"""Radiology terms that captions use: their synonyms, the broader terms they imply, and where they are mentioned.

The terms are data, in ``vocabulary.yaml``; this module reads them and finds them in text, the longest match first.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Literal, NamedTuple, get_args

import yaml

from radvqa.synth.negation import Scopes

Category = Literal["modality", "plane", "side", "organ", "finding", "severity"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
REGIONS = frozenset({"head", "neck", "chest", "abdomen", "pelvis", "spine", "limb", "breast"})

_LISTS = ("attributes", "secondary", "appearances", "generic", "wholes", "body")
_TOKEN = re.compile(r"(?P<word>[^\W_]+(?:['’]s\b)?\*?)|(?P<joint>[\s\-‐-―/_]+)|(?P<stop>.)", re.DOTALL)
_IRREGULAR = {
    "metastases": "metastasis",
    "diverticula": "diverticulum",
    "foramina": "foramen",
    "lumina": "lumen",
    "sinuses": "sinus",
    "uteruses": "uterus",
    "thrombuses": "thrombus",
    "calculi": "calculus",
    "thrombi": "thrombus",
    "emboli": "embolus",
    "bronchi": "bronchus",
    "foci": "focus",
    "sulci": "sulcus",
    "thalami": "thalamus",
    "menisci": "meniscus",
    "humeri": "humerus",
    "nuclei": "nucleus",
    "rami": "ramus",
    "testes": "testis",
    "femora": "femur",
    "teeth": "tooth",
    "feet": "foot",
    "hila": "hilum",
    "atria": "atrium",
    "phalanges": "phalanx",
    "exostoses": "exostosis",
    "anastomoses": "anastomosis",
    "stenoses": "stenosis",
    "thromboses": "thrombosis",
    "lenses": "lens",
    "biopsies": "biopsy",
    "cortices": "cortex",
    "apices": "apex",
    "centre": "center",
    "fibre": "fiber",
    "grey": "gray",
    "goitre": "goiter",
    "sulphur": "sulfur",
    "dilation": "dilatation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A thing that captions name.

    ``name``: as an answer would say it.
    ``regions``: of the body, out of ``REGIONS``, in which it can lie; empty for anywhere.
    ``implies``: broader terms that hold too: what is in the right lower lobe is in the right lung.
    ``modalities``: in which a finding can be seen; empty for any.
    """

    name: str
    category: Category
    synonyms: tuple[str, ...] = ()
    regions: frozenset[str] = frozenset()
    implies: tuple[str, ...] = ()
    modalities: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        # Names are unique; hashing every field takes most of the time of the rules.
        return hash(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A place of a text that names a term; ``text[start:end]`` of the whole is ``text``.

    ``negated``, ``uncertain``, ``historical``: what its sentence says of it, see ``radvqa.synth.negation``.
    """

    term: Term
    start: int
    end: int
    text: str
    negated: bool = False
    uncertain: bool = False
    historical: bool = False


def terms(category: Category) -> tuple[Term, ...]:
    """The terms of one category, in the order of the vocabulary."""
    return tuple(term for term in _vocabulary().terms.values() if term.category == category)


@lru_cache(maxsize=8192)
def term_named(name: str) -> Term | None:
    """The term with this name or synonym, whatever its capitals, hyphens and plural; None if there is none."""
    words = list(_words(name))
    whole = [term for end, term in _matches(words, 0) if end == len(words) and term is not None]
    return whole[-1] if whole else _vocabulary().loose.get(_normal_phrase(name))


@lru_cache(maxsize=8192)
def find_terms(text: str) -> tuple[Mention, ...]:
    """Where the text names terms, in its order: the longest match at each place, none overlapping another.

    >>> [(found.term.name, found.negated) for found in find_terms("No oedema, but small renal cysts.")]
    [('edema', True), ('small', False), ('renal cyst', False)]
    """
    words = list(_words(text))
    scopes = Scopes(text)
    found: list[Mention] = []
    place = 0
    while place < len(words):
        end, term = _longest(words, place)
        if term is not None:
            first, last = words[place].start, words[end - 1].end
            scope = scopes.of(first, last)
            mention = Mention(
                term=term,
                start=first,
                end=last,
                text=text[first:last],
                negated=scope.negated,
                uncertain=scope.uncertain,
                historical=scope.historical,
            )
            found.append(mention)
        place = end
    return tuple(found)


@lru_cache(maxsize=8192)
def organs_of(phrase: str) -> tuple[Term, ...]:
    """The organs that a phrase names, also within the name of a finding: the kidney of "renal cyst"."""
    words = list(_words(phrase))
    found: list[Term] = []
    place = 0
    while place < len(words):
        organs = [(end, term) for end, term in _matches(words, place) if term is not None and term.category == "organ"]
        place, term = organs[-1] if organs else (place + 1, None)
        if term is not None:
            found.append(term)
    return tuple(found)


@cache
def broader(term: Term) -> frozenset[str]:
    """The names of all that holds where ``term`` does, itself included."""
    names: set[str] = set()
    open_names = [term.name]
    while open_names:
        name = open_names.pop()
        if name not in names:
            names.add(name)
            open_names.extend(_vocabulary().terms[name].implies)
    return frozenset(names)


@cache
def alike(term: Term) -> frozenset[str]:
    """The names of findings so like ``term`` that where one is mentioned, the absence of the other is not certain."""
    names = broader(term)
    return frozenset(name for group in _vocabulary().alike if names & group for name in group) | names


@cache
def answers_finding(term: Term) -> int:
    """How well a finding answers "what is seen": 2 alone, 1 where no better one is named, 0 never ("enlargement")."""
    ranks = _vocabulary().ranks
    return 0 if term.name in ranks["attributes"] else 1 if term.name in ranks["secondary"] else 2


@cache
def is_asked(finding: Term) -> bool:
    """Whether its presence is worth a question: it says something alone, and not nearly every image has it."""
    return answers_finding(finding) > 0 and finding.name not in _vocabulary().ranks["appearances"]


@cache
def whole_organ(term: Term) -> Term | None:
    """The organ to name for it: the brain for a frontal lobe, itself for a vessel; None for a region of the body."""
    names = broader(term)
    wholes = [] if names & {"artery", "vein"} else sorted(names & _vocabulary().ranks["wholes"])
    if len(wholes) == 1:
        return _vocabulary().terms[wholes[0]]
    return None if term.name in _vocabulary().ranks["body"] else term


@cache
def is_generic(term: Term) -> bool:
    """Whether it is a structure of the whole body, such as "bone", and names no place in it."""
    return term.name in _vocabulary().ranks["generic"]


@lru_cache(maxsize=8192)
def names_within(text: str) -> frozenset[str]:
    """The names of all terms in the text, also those that are part of a longer one ("cyst" in "renal cyst")."""
    words = list(_words(text))
    return frozenset(term.name for start in range(len(words)) for _, term in _matches(words, start) if term is not None)


@cache
def vocabulary_digest() -> str:
    """The SHA-256 of the vocabulary, in hexadecimal: it names the version of every pair made by rules."""
    return hashlib.sha256(_source()).hexdigest()


class _Word(NamedTuple):
    """One word of a text as it stands and in its normal form; punctuation is a word with no letters."""

    exact: str
    normal: str
    start: int
    end: int


@dataclass(slots=True)
class _Node:
    following: "dict[str, _Node]" = field(default_factory=dict)
    term: Term | None = None
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    terms: Mapping[str, Term]
    trie: _Node
    loose: Mapping[str, Term]
    alike: tuple[frozenset[str], ...]
    ranks: Mapping[str, frozenset[str]]


def _source() -> bytes:
    return resources.files("radvqa.synth").joinpath("vocabulary.yaml").read_bytes()


@cache
def _vocabulary() -> _Vocabulary:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content: dict[str, Any] = yaml.load(_source(), Loader=loader)
    named = {term.name: term for category in CATEGORIES for term in _terms_of(category, content[category])}
    trie = _Node()
    loose: dict[str, Term] = {}
    for term in named.values():
        for name in (term.name, *term.synonyms):
            if name not in content["only_named"]:
                _add(trie, name).term = term
            loose.setdefault(_normal_phrase(name), term)
    for phrase in content["ignored"]:
        node = _add(trie, phrase)
        node.ignored = node.term is None
    ranks = {name: frozenset(content[name]) for name in _LISTS}
    return _Vocabulary(named, trie, loose, tuple(map(frozenset, content["alike"])), ranks)


def _terms_of(category: Category, groups: list[dict[str, Any]]) -> Iterator[Term]:
    for group in groups:
        for name, own in group["terms"].items():
            stated = {**group, **({"synonyms": own} if isinstance(own, list) else own)}
            yield Term(
                name=name,
                category=category,
                synonyms=tuple(stated.get("synonyms", ())),
                regions=frozenset(stated.get("regions", ())),
                implies=tuple(stated.get("implies", ())),
                modalities=frozenset(stated.get("modalities", ())),
            )


def _add(node: _Node, phrase: str) -> _Node:
    for word in _words(phrase):
        node = node.following.setdefault(word.exact if _is_acronym(word.exact) else word.normal, _Node())
    return node


def _is_acronym(word: str) -> bool:
    return len(word) > 1 and word.upper() == word and any(letter.isalpha() for letter in word)


def _longest(words: Sequence[_Word], start: int) -> tuple[int, Term | None]:
    """Where the longest phrase from ``start`` ends, and its term; the next place and None if there is none."""
    matches = list(_matches(words, start))
    return matches[-1] if matches else (start + 1, None)


def _matches(words: Sequence[_Word], start: int) -> Iterator[tuple[int, Term | None]]:
    """Every phrase from ``start``, shortest first: where it ends, and its term, or None where it is to be ignored."""
    nodes = [_vocabulary().trie]
    for place in range(start, len(words)):
        word = words[place]
        keys = (word.exact, word.normal) if word.exact != word.normal else (word.normal,)
        nodes = [node.following[key] for node in nodes for key in keys if key in node.following]
        if not nodes:
            return
        for node in nodes:
            if node.term is not None or node.ignored:
                yield place + 1, node.term


def _words(text: str) -> Iterator[_Word]:
    for found in _TOKEN.finditer(text):
        if found.lastgroup == "word":
            yield _Word(found[0], _normal(found[0]), found.start(), found.end())
        elif found.lastgroup == "stop":
            yield _Word("", "", found.start(), found.end())


def _normal_phrase(phrase: str) -> str:
    return " ".join(word.normal for word in _words(phrase))


@lru_cache(maxsize=65536)
def _normal(word: str) -> str:
    word = word.lower().replace("’", "'").removesuffix("'s")
    word = word.replace("ae", "e").replace("oe", "e") if not word.endswith("ae") else word[:-1].replace("ae", "e")
    word = _IRREGULAR.get(word, word)
    if word.endswith("our") and len(word) > 4:
        word = f"{word[:-3]}or"
    return _IRREGULAR.get(_singular(word), _singular(word))


def _singular(word: str) -> str:
    if len(word) < 4 or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    return word[:-1]
