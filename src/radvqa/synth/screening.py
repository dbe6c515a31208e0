"""The screens on question-answer pairs that somebody else made: what each would remove, and which pairs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from radvqa.data.adapter import DatasetAdapter
from radvqa.data.answers import is_yes_no
from radvqa.errors import DataError
from radvqa.run.engine import Engine
from radvqa.sample import CaptionedImage, VqaSample
from radvqa.synth.assembly import with_verdicts
from radvqa.synth.captions import source_of
from radvqa.synth.drafts import caption_sha256
from radvqa.synth.pair import Candidate, Origin, Slot, Source, SyntheticPair
from radvqa.synth.screens import ScreenSettings, reason_of, screen_pair
from radvqa.synth.set_screens import screen_set

FACTS = ("modality", "plane")

T = TypeVar("T", VqaSample, CaptionedImage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """All pairs with their verdicts, and how many could not be judged because their image has no caption."""

    pairs: tuple[SyntheticPair, ...]
    captions: Mapping[str, str]
    without_caption: int


def screen_dataset(
    questions: DatasetAdapter, captions: DatasetAdapter, settings: ScreenSettings, *, engine: Engine
) -> Screening:
    """The verdicts on every pair of ``questions`` whose image has a caption in ``captions``.

    Images are matched by image id; of several captions of an image the first counts. Whether image files are there
    does not matter.

    Raises:
        DataError: no image of the one is in the other.
    """
    sources: dict[str, Source] = {}
    for caption in _records(captions, CaptionedImage):
        sources.setdefault(caption.image_id, source_of(caption, FACTS))
    samples = list(_records(questions, VqaSample))
    matched = [(sample, sources[sample.image_id]) for sample in samples if sample.image_id in sources]
    if not matched:
        raise DataError(
            "no question is about an image that has a caption",
            where=f"{len(samples):,} questions, {len(sources):,} captions",
            expected="equal image ids in both data sets",
            got=f"a question about {samples[0].image_id}" if samples else "no question",
            fix="name the data set that the questions were made from with --captions",
        )
    judged = list(engine.map(partial(judged_pair, settings=settings), matched, group=256))
    verdicts = screen_set([pair for pair in judged if not pair.reason], settings)
    return Screening(
        pairs=tuple(with_verdicts(pair, verdicts.get(pair.sample.sample_id, ())) for pair in judged),
        captions={source.caption_id: source.text for _, source in matched},
        without_caption=len(samples) - len(matched),
    )


def judged_pair(matched: tuple[VqaSample, Source], settings: ScreenSettings) -> SyntheticPair:
    """A pair of another data set with the verdicts of the pair screens. How it was made is not known."""
    sample, source = matched
    answer = sample.answers[0]
    candidate = Candidate(question=sample.question, answer=answer, slot=_slot(answer))
    verdicts = screen_pair(candidate, source, settings)
    return SyntheticPair(
        sample=sample,
        slot=candidate.slot,
        style="",
        basis=candidate.basis,
        subject="",
        origin=Origin(
            caption_id=source.caption_id,
            caption_sha256=caption_sha256(source),
            facts=source.facts,
            prompt="",
            prompt_sha256="",
            backend="",
            model="",
            model_digest="",
            sampling={},
            reply="",
        ),
        verdicts=verdicts,
        reason=reason_of(verdicts),
    )


def _slot(answer: str) -> Slot:
    if not is_yes_no(answer):
        return "open"
    return "yes" if answer.strip().casefold().startswith("yes") else "no"


def _records(adapter: DatasetAdapter, kind: type[T]) -> Iterator[T]:
    missing: set[Path] = set()
    for split in adapter.splits():
        for item in adapter.records(split, missing=missing):
            if isinstance(item, kind):
                yield item
