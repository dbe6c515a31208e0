"""Which captions are asked about, and what a generator may know of each."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from radvqa.data.adapter import Item
from radvqa.data.answers import collapsed
from radvqa.sample import CaptionedImage, Reject
from radvqa.synth.pair import Source, Verdict
from radvqa.synth.vocabulary import term_named

Shared = Literal["first", "all", "drop"]

OTHER_SPLIT = "other_split"
"""Reason of adapters for a row of another split in the same file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The captions to ask about, in the order of the data set, and what was left out with its reason."""

    captions: tuple[CaptionedImage, ...]
    rejects: tuple[Reject, ...]
    read: int
    """Captions that the data set holds, rows that are no caption left out."""
    undrawn: int
    """Usable captions that ``limit`` left out; they are no rejects."""


def select(
    items: Iterable[Item],
    *,
    shared: Shared,
    limit: int | None,
    seed: int,
    problem: Callable[[CaptionedImage], Verdict | None] = lambda _: None,
) -> Selection:
    """The captions among the rows of a data set that are asked about.

    ``shared``: what becomes of images that have the same caption. ``limit`` draws so many by a hash of seed and id, so
    that a larger limit keeps what a smaller one has. ``problem``: the screen by which a drawn caption is not worth
    asking about. Captions in other languages than English are rejects: questions are worded and screened in English.
    """
    captions: list[CaptionedImage] = []
    rejects: list[Reject] = []
    ids: set[str] = set()
    for item in items:
        if isinstance(item, Reject):
            # Rows of other splits in the same file are read with their own split, or were not asked for.
            rejects += [item] if item.reason != OTHER_SPLIT else []
        elif isinstance(item, CaptionedImage) and item.sample_id in ids:
            rejects.append(_reject(item, "repeated_id", "the id was used by a caption of an earlier split"))
        elif isinstance(item, CaptionedImage) and item.language != "en":
            rejects.append(_reject(item, "other_language", f"the data set states the language {item.language!r}"))
        elif isinstance(item, CaptionedImage):
            ids.add(item.sample_id)
            captions.append(item)
    usable, left_out = _unshared(captions, shared)
    drawn = usable
    if limit is not None and limit < len(usable):
        chosen = set(sorted((one.sample_id for one in usable), key=lambda name: _hash(seed, name))[:limit])
        drawn = [one for one in usable if one.sample_id in chosen]
    verdicts = [problem(one) for one in drawn]
    unusable = [
        _reject(one, verdict.screen, verdict.detail)
        for one, verdict in zip(drawn, verdicts, strict=True)
        if verdict is not None
    ]
    return Selection(
        captions=tuple(one for one, verdict in zip(drawn, verdicts, strict=True) if verdict is None),
        rejects=(*rejects, *left_out, *unusable),
        read=len(captions),
        undrawn=len(usable) - len(drawn),
    )


def source_of(caption: CaptionedImage, facts: Sequence[str]) -> Source:
    """What a generator may know: the text, and those tags in ``facts`` that the vocabulary has as such a value.

    ``withheld`` (title, diagnosis, history) is never part of it.
    """
    return Source(caption_id=caption.sample_id, text=collapsed(caption.text), facts=_known(caption.tags, facts))


def _known(tags: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    found = {name: term_named(tags[name]) for name in names if tags.get(name)}
    return {name: term.name for name, term in found.items() if term is not None and term.category == name}


def _unshared(captions: Sequence[CaptionedImage], shared: Shared) -> tuple[list[CaptionedImage], list[Reject]]:
    if shared == "all":
        return list(captions), []
    images: dict[str, list[str]] = defaultdict(list)
    for one in captions:
        images[collapsed(one.text)].append(one.sample_id)
    kept, left_out = [], []
    for one in captions:
        same = images[collapsed(one.text)]
        if len(same) == 1 or (shared == "first" and one.sample_id == same[0]):
            kept.append(one)
            continue
        detail = f"{len(same)} images share this caption, {same[0]} is the first; it rarely describes each of them"
        left_out.append(_reject(one, "shared_caption", detail))
    return kept, left_out


def _reject(caption: CaptionedImage, reason: str, detail: str) -> Reject:
    return Reject(sample_id=caption.sample_id, reason=reason, where=f"image {caption.image_id}", detail=detail)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
