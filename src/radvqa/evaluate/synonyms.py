"""Radiology synonyms: one spelling for words that name one thing, from the table ``synonyms.yaml``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import yaml

from radvqa.evaluate.normalise import answer_parts, normalise_answer

_Words = tuple[str, ...]
_BULLET = re.compile(r"^[ \t]{0,9}(?:\d{1,2}[.)]|[-*•])[ \t]+", re.M)
_AND = re.compile(r"(?:^| )and (?=\S)")


class Group(NamedTuple):
    """Names of one thing in normal form; the first of ``names`` stands for all.

    ``alone``: these count only as a whole answer or list member. ``exclusive``: naming another member of the ``kind``
    denies this one.
    """

    kind: str
    source: str
    names: tuple[str, ...]
    alone: frozenset[str]
    exclusive: bool


class Table(NamedTuple):
    """``denials`` and ``same`` map words to the words they deny or stand for, in statements only."""

    groups: tuple[Group, ...]
    denials: Mapping[_Words, _Words]
    same: Mapping[_Words, _Words]


@cache
def table() -> Table:
    """The table of the package."""
    data = yaml.safe_load(resources.files(__package__).joinpath("synonyms.yaml").read_text(encoding="utf-8"))
    groups = tuple(
        Group(
            one["kind"],
            one["source"],
            (*one["anywhere"], *one["alone"]),
            frozenset(one["alone"]),
            one.get("exclusive", False),
        )
        for one in data["groups"]
    )
    denials, same = ({_words(a): _words(b) for a, b in data[part]} for part in ("denials", "same"))
    return Table(groups, denials, same)


@lru_cache(maxsize=16384)
def canonical(normal: str) -> str:
    """A text in normal form (``normalise_answer``) with every synonym replaced by the first name of its group.

    >>> canonical("left lower lobe of lungs")
    'left lower lobe of lung'
    >>> canonical("transverse") == canonical("axial plane"), canonical("transverse colon")
    (True, 'transverse colon')
    """
    anywhere, whole = _replacements()
    words = replace_phrases(normal.split(), anywhere)
    found = " ".join(words)
    return whole.get(normal) or whole.get(found) or found


def canonical_parts(text: str) -> tuple[str, ...]:
    r"""The members of a list in canonical form, sorted; commas, semicolons, lines and "and" separate them.

    A number or a bullet in front of a line is no part of a member, nor is "both" in front of two.

    >>> canonical_parts("1. Liver\n2. Kidneys") == canonical_parts("both kidney and liver")
    True
    """
    lines = _BULLET.sub("", text).strip().replace("\n", ",") if "\n" in text else text
    members = [part for member in answer_parts(lines.replace(";", ",")) for part in _AND.split(member) if part]
    if len(members) == 2 and " and " in text:
        members = [member.removeprefix("both ") for member in members]
    return tuple(sorted(canonical(member) for member in members))


def members_named(normal: str) -> Mapping[str, frozenset[str]]:
    """What a text in normal form names of each kind in the table, in canonical form.

    >>> members_named("mri of lungs")["organ"]
    frozenset({'lung'})
    """
    words = tuple(normal.split())
    found: dict[str, set[str]] = {}
    names = _names()
    at = 0
    while at < len(words):
        for phrase, (kind, name) in names.get(words[at], ()):
            if words[at : at + len(phrase)] == phrase:
                found.setdefault(kind, set()).add(name)
                at += len(phrase)
                break
        else:
            at += 1
    return {kind: frozenset(named) for kind, named in found.items()}


@cache
def _names() -> "PhraseTable":
    """Kind and canonical name of every name, but for those of one or two letters that can be other words."""
    return phrase_table(
        (_words(name), (group.kind, group.names[0]))
        for group in table().groups
        for name in group.names
        if name not in group.alone or len(name) > 2
    )


def replace_phrases(words: Sequence[str], phrases: "PhraseTable") -> list[str]:
    """The words with every phrase of the table replaced, the longest first, from left to right."""
    words = tuple(words)
    result: list[str] = []
    at = 0
    while at < len(words):
        for phrase, substitute in phrases.get(words[at], ()):
            if words[at : at + len(phrase)] == phrase:
                result.extend(substitute)
                at += len(phrase)
                break
        else:
            result.append(words[at])
            at += 1
    return result


PhraseTable = Mapping[str, Sequence[tuple[_Words, _Words]]]
"""First word to the phrases that begin with it, longest first, each with its substitute."""


def phrase_table(pairs: Iterable[tuple[_Words, _Words]]) -> PhraseTable:
    """Phrases by first word."""
    by_first: dict[str, list[tuple[_Words, _Words]]] = {}
    for phrase, substitute in pairs:
        by_first.setdefault(phrase[0], []).append((phrase, substitute))
    return {first: sorted(found, key=lambda pair: -len(pair[0])) for first, found in by_first.items()}


@cache
def _replacements() -> tuple[PhraseTable, Mapping[str, str]]:
    anywhere = [
        (_words(name), _words(group.names[0]))
        for group in table().groups
        for name in group.names
        if name not in group.alone
    ]
    whole = {normalise_answer(name): group.names[0] for group in table().groups for name in group.names}
    return phrase_table(anywhere), whole


def _words(text: str) -> _Words:
    return tuple(normalise_answer(text).split())
