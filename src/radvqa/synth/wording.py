"""How questions are worded: several wordings for every slot and style, from ``wording.yaml``, in right grammar."""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

from radvqa.errors import RecipeError
from radvqa.synth.pair import Slot

_WORDING: dict[str, Any] = yaml.safe_load(
    resources.files("radvqa.synth").joinpath("wording.yaml").read_text(encoding="utf-8")
)
_GRAMMAR: dict[str, frozenset[str]] = {name: frozenset(words) for name, words in _WORDING["grammar"].items()}
_ENDS = tuple(_WORDING["grammar"]["uncountable_ends"])

STYLES: tuple[str, ...] = tuple(_WORDING["styles"])
"""Of wordings: how formally the same thing is asked for."""

WORDED_SLOTS: tuple[Slot, ...] = ("modality", "plane", "organ", "finding", "location", "severity")
"""The slots whose question is worded here; a model or a rule gives the answer."""

PRESENCE_CATEGORIES: tuple[str, ...] = tuple(_WORDING["styles"][STYLES[0]]["presence"])
"""What a yes/no question may ask about."""

_DETERMINER = re.compile(r"^(?:an?|the|some|any|this|that)\s+", re.IGNORECASE)
_TAIL = re.compile(r"\s+(?:of|in|on|at|with|within|from|to|along|around|near|over|under|involving|causing|due)\s+.*")
_CAPITALISED = re.compile(r"^[A-Z][a-z]{2,}(?![\w-]*[A-Z])")
_ACRONYM = re.compile(r"^[A-Z][A-Z0-9-]*$")
_SPELLED_VOWEL = "AEFHILMNORSX"
_EIGHT_OR_ELEVEN = re.compile(r"^(?:8\d*|11|18)(?!\d)")
_YOU = re.compile(r"^u(?:ni(?![nm])|r[aeio](?!\b)|s[eu]|te|tri)")
_ADJECTIVE = re.compile(r"(?:al|ar|ic|ary|ory|ous|ed|ive|left|right|upper|lower|middle|mild|large|small)$")
_IMAGE_NOUNS = ("image", "scan", "radiograph", "film", "x-ray", "xray", "mri", "view", "study")
_SIDES = {"left": "on the left side", "right": "on the right side", "midline": "in the midline", "both": "bilateral"}


def question_for(slot: Slot, *, style: str, subject: str = "", region: str = "", seed: int) -> str:
    """A question that asks for the value of ``slot``; the same one for the same arguments.

    ``subject`` is the finding whose location or severity is asked for; ``region`` narrows the place ("in the chest").

    >>> question_for("location", style="plain", subject="lung nodules", seed=0)
    'Where exactly are the lung nodules?'

    Raises:
        RecipeError: unknown style, or a slot whose question is not worded here (``WORDED_SLOTS``).
    """
    wordings = _style(style)
    if slot not in WORDED_SLOTS:
        raise RecipeError(
            "no wording for this slot", where="slots", expected=f"one of {', '.join(WORDED_SLOTS)}", got=repr(slot)
        )
    chosen = _chosen(wordings[slot], seed, slot, style)
    return _filled(chosen, subject if _bare(subject) else "abnormality", " ".join(region.split()))


def presence_question(subject: str, *, style: str, seed: int, category: str) -> str:
    """A question answered by yes or no: whether ``subject`` is in the image, or is what the image is.

    ``category`` says what the subject is: see ``PRESENCE_CATEGORIES``.

    >>> presence_question("abscess", style="plain", seed=3, category="finding")
    'Is there an abscess in the image?'

    Raises:
        RecipeError: unknown style or category, or no subject.
    """
    wordings = _style(style)["presence"]
    if category not in wordings:
        known = ", ".join(PRESENCE_CATEGORIES)
        raise RecipeError("unknown category of a yes/no question", expected=f"one of {known}", got=repr(category))
    if not _bare(subject):
        raise RecipeError("a yes/no question needs a subject", expected="a finding, organ or value", got=repr(subject))
    return _filled(_chosen(wordings[category], seed, category, style), subject, "")


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an", or without one where it is plural or not counted.

    >>> [with_article(phrase) for phrase in ("MRI", "UTI", "pleural effusion", "lung nodules")]
    ['an MRI', 'a UTI', 'pleural effusion', 'lung nodules']
    """
    return " and ".join(_one_with_article(part) for part in _conjuncts(_bare(phrase)))


def is_plural(phrase: str) -> bool:
    """Whether the phrase takes a plural verb, by its head noun ("nodules in the lung")."""
    word = _head(phrase)
    lower = word.lower()
    if lower in _GRAMMAR["plural"]:
        return True
    if lower in _GRAMMAR["singular"] or _ACRONYM.match(word):
        return False
    # -sis, -us and -ss are singular ends, unlike those of "masses" and "metastases"; -i and -ae are Latin plurals.
    return lower.endswith(("ae", "i", "s")) and not lower.endswith(("ss", "us", "is"))


def names_degree(severity: str) -> bool:
    """Whether a severity holds a word of degree ("mild", "grade 3"); a size, place or finding is none."""
    return not _GRAMMAR["degrees"].isdisjoint(re.findall(r"[a-z-]+", severity.lower()))


def _style(style: str) -> dict[str, Any]:
    if style not in STYLES:
        raise RecipeError(
            "unknown style of wording",
            where="styles",
            expected=f"one of {', '.join(STYLES)}",
            got=repr(style),
            fix="choose one of these",
        )
    wordings: dict[str, Any] = _WORDING["styles"][style]
    return wordings


def _chosen(wordings: Sequence[str], seed: int, *names: str) -> str:
    digest = hashlib.sha256("|".join((str(seed), *names)).encode()).digest()
    return wordings[int.from_bytes(digest[:8]) % len(wordings)]


def _filled(wording: str, subject: str, region: str) -> str:
    bare = _bare(subject)
    # "Are there nodules and a mass?", but "Where are the mass and the nodules?"
    existential = "there {be}" in wording or "{be} there" in wording
    first = _conjuncts(bare)[0]
    plural = is_plural(first) if existential else len(_conjuncts(bare)) > 1 or is_plural(bare)
    text = wording.format(
        subject=bare,
        the_subject=f"the {bare}",
        a_subject=with_article(bare),
        an_image=_as_image(bare),
        a_view=_with_sound(re.sub(r"\s+(?:view|plane|image|projection)$", "", bare)),
        on_side=_SIDES.get(bare.lower(), bare),
        be="are" if plural else "is",
        do="do" if plural else "does",
        region=f" {region}" if region else "",
    )
    return text[0].upper() + text[1:]


def _conjuncts(phrase: str) -> list[str]:
    """The nouns joined by "and"; one where it joins adjectives or stands in a tail ("mass in the lung and pleura")."""
    first, joint, second = phrase.partition(" and ")
    return [first, second] if joint and not _ADJECTIVE.search(first) and not _TAIL.search(first) else [phrase]


def _bare(phrase: str) -> str:
    """Without determiner, final stop and the capital of a sentence."""
    phrase = _DETERMINER.sub("", " ".join(phrase.split()).rstrip(" .?!,;:"))
    start = _CAPITALISED.match(phrase)
    if start and not _is_name(phrase.split(" ")[0]):
        return phrase[0].lower() + phrase[1:]
    return phrase


def _is_name(word: str) -> bool:
    """Whether the word is a name that keeps its capital; a possessive always is one ("Crohn's", "Kohler's")."""
    return "'" in word or "’" in word or re.split(r"[-/]", word)[0] in _GRAMMAR["names"]


def _head(phrase: str) -> str:
    return _TAIL.sub("", phrase).split(" ")[-1].rstrip(",;")


@cache
def _is_counted(phrase: str) -> bool:
    word = _head(phrase)
    lower = word.lower()
    if _ACRONYM.match(word) and len(word) > 1:
        return word not in _GRAMMAR["uncountable_acronyms"]
    if lower in _GRAMMAR["countable"]:
        return True
    return lower not in _GRAMMAR["uncountable"] and not lower.endswith(_ENDS)


def _one_with_article(phrase: str) -> str:
    if is_plural(phrase) or not _is_counted(phrase):
        return phrase
    return _with_sound(phrase)


def _with_sound(phrase: str) -> str:
    return f"{'an' if _vowel_sound(phrase) else 'a'} {phrase}"


def _vowel_sound(phrase: str) -> bool:
    word = re.split(r"[\s/,]", phrase)[0]
    lower = word.lower()
    if lower in _GRAMMAR["consonant_sound"]:
        return False
    if lower in _GRAMMAR["vowel_sound"]:
        return True
    letters = re.split(r"(?<=[A-Z0-9])-", word)[0]
    if word in _GRAMMAR["spoken_acronyms"] or letters in _GRAMMAR["spoken_acronyms"]:
        return letters[:1] in "AEIOU"
    if _ACRONYM.match(letters):
        return letters[0] in _SPELLED_VOWEL
    if word[:1].isdigit():
        return bool(_EIGHT_OR_ELEVEN.match(word))
    return lower[:1] in tuple("aeiou") and not _YOU.match(lower)


def _as_image(modality: str) -> str:
    """The modality as an image of it: "a CT image", "a magnetic resonance image"."""
    words = modality.split(" ")
    last = words[-1].lower()
    if last == "imaging":
        words[-1] = "image"
    elif last not in _IMAGE_NOUNS and not last.endswith("gram"):
        words.append("image")
    return _with_sound(" ".join(words))
