"""Human review of a synthesised data set: a queue of pairs, decisions of readers, and figures about both.

::

    <folder>/review/
      queue.json        the pairs that are looked at, drawn once
      decisions.jsonl   one line per decision, only ever appended to
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from radvqa.errors import DataError, RunError
from radvqa.synth.pair import SyntheticPair
from radvqa.synth.review.decisions import DecisionFile
from radvqa.synth.review.queue import Queue, QueueItem, draw_queue, read_queue, require_drawn_from, write_queue

FOLDER, QUEUE_FILE, DECISIONS_FILE = "review", "queue.json", "decisions.jsonl"
SIZE, SEED, REJECTED_SHARE = 200, 0, 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A queue with what is needed to show and to judge its pairs.

    ``pairs`` by sample id: those of the queue. ``earlier``: for later turns of a dialogue, the turns before them.
    ``captions`` by caption id. ``mended``: half-written lines that were removed from the decisions on opening.
    """

    folder: Path
    queue: Queue
    pairs: Mapping[str, SyntheticPair]
    earlier: Mapping[str, tuple[SyntheticPair, ...]]
    captions: Mapping[str, str]
    decisions: DecisionFile
    mended: int

    def items(self) -> Mapping[str, QueueItem]:
        """The items of the queue by their key."""
        return {item.key: item for item in self.queue.items}


def open_review(
    folder: Path,
    pairs: Sequence[SyntheticPair],
    captions: Mapping[str, str],
    *,
    size: int | None = None,
    seed: int | None = None,
    rejected_share: float | None = None,
) -> Review:
    """The review of the data set in ``folder``: its queue is drawn at the first time and kept from then on.

    Args:
        folder: of the synthesised data set; the review is in ``review/`` below it.
        pairs: all kept and removed pairs of the data set.
        captions: by caption id, at least those of the drawn pairs.
        size: items of the queue, 200 if not given.
        seed: of the draw and of the readers' orders, 0 if not given.
        rejected_share: of the queue, 0.3 if not given. All three: an existing queue's, if not given.

    Raises:
        RunError: the pairs are not those the queue was drawn from, the queue was drawn with other settings, or the
            folder cannot be read or written.
        RecipeError: settings that cannot be met; see ``draw_queue``.
        DataError: there are no pairs, a caption is missing, or a line of the decisions is not valid.
    """
    path = folder / FOLDER / QUEUE_FILE
    if path.is_file():
        queue = read_queue(path)
        require_drawn_from(queue, pairs, path=path)
        _require_same_settings(queue, path, size=size, seed=seed, rejected_share=rejected_share)
    else:
        queue = draw_queue(
            pairs,
            size=SIZE if size is None else size,
            seed=SEED if seed is None else seed,
            rejected_share=REJECTED_SHARE if rejected_share is None else rejected_share,
        )
    by_id = {pair.sample.sample_id: pair for pair in pairs}
    drawn = {item.sample_id: by_id[item.sample_id] for item in queue.items}
    _require_captions(drawn, captions)
    if not path.is_file():
        write_queue(path, queue)
    decisions = DecisionFile(folder / FOLDER / DECISIONS_FILE)
    return Review(
        folder=folder,
        queue=queue,
        pairs=drawn,
        earlier=_earlier_turns(drawn, pairs),
        captions=captions,
        mended=decisions.mend(),
        decisions=decisions,
    )


def _require_same_settings(queue: Queue, path: Path, **asked: float | None) -> None:
    for name, value in asked.items():
        drawn_with = getattr(queue, name)
        if value is not None and value != drawn_with:
            raise RunError(
                f"the review queue was drawn with another {name.replace('_', ' ')}",
                where=str(path),
                expected=f"{drawn_with:g}",
                got=f"{value:g}",
                fix="leave the setting out to go on with this queue, or rename the folder of this review",
            )


def _require_captions(drawn: Mapping[str, SyntheticPair], captions: Mapping[str, str]) -> None:
    missing = [sample_id for sample_id, pair in drawn.items() if pair.origin.caption_id not in captions]
    if missing:
        raise DataError(
            "captions of drawn pairs are missing",
            where=missing[0],
            expected=f"the text of caption {drawn[missing[0]].origin.caption_id}",
            got=f"{len(missing)} of {len(drawn)} pairs without their caption",
            fix="open the review with the captions that the pairs were made from",
        )


def _earlier_turns(
    drawn: Mapping[str, SyntheticPair], pairs: Sequence[SyntheticPair]
) -> Mapping[str, tuple[SyntheticPair, ...]]:
    """By sample id the turns before it. Removed ones too: leaving them out would tell what the screens did."""
    dialogues: dict[tuple[str, str], list[SyntheticPair]] = {
        _dialogue(pair): [] for pair in drawn.values() if pair.sample.dialogue_id and pair.sample.turn > 1
    }
    for pair in pairs:
        if _dialogue(pair) in dialogues:
            dialogues[_dialogue(pair)].append(pair)
    return {
        sample_id: tuple(
            sorted(
                (one for one in dialogues[_dialogue(pair)] if one.sample.turn < pair.sample.turn),
                key=lambda one: one.sample.turn,
            )
        )
        for sample_id, pair in drawn.items()
        if _dialogue(pair) in dialogues
    }


def _dialogue(pair: SyntheticPair) -> tuple[str, str]:
    return pair.sample.image_id, pair.sample.dialogue_id
