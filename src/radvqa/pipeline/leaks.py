"""What an evaluated set shares with what was trained on: pictures, groups, whole rows, questions and answers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from radvqa.audit.rows import same_row
from radvqa.data.seen import shared_pictures
from radvqa.evaluate.floors import words
from radvqa.run.engine import LocalEngine
from radvqa.run.progress import Progress
from radvqa.sample import VqaSample

MOST_PICTURES = 20_000
"""Pictures on both sides up to which they are decoded and compared; it takes some 20 ms of a core for each."""

SHOWN = 20

Kind = Literal["trained_on", "own_train"]
"""What is known of a compared set: trained on, or only that it is the train split of the evaluated data set."""


def leaks(
    asked: Sequence[VqaSample],
    trained: Mapping[str, Iterable[VqaSample]],
    *,
    own_train: Mapping[str, Iterable[VqaSample]],
    ancestry: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """What ``leaks.json`` holds.

    ``compared_with``: for each set by name, its ``kind`` (``trained_on``, or ``own_train``: of ``own_train``, not known
    to be trained on), how many evaluated pictures it has too (equal, nearly equal or of the same public id), the
    questions on them, the rows with the same picture, question and answer (all None where there are too many pictures
    to compare), the groups in both, and the share of questions and of open answers that the set has as well.
    ``ancestry``: what the base had learned from before, as far as it is known by name only.

    Args:
        asked: the questions.
        trained: what is known to be trained on, by name.
        own_train: the train split of the evaluated data set where that is not known, under a name of its own.
        ancestry: as above.
        progress: told what goes on.
    """
    kinds: dict[Kind, Mapping[str, Iterable[VqaSample]]] = {"trained_on": trained, "own_train": own_train}
    return {
        "evaluated": {"samples": len(asked), "images": len({one.image for one in asked})},
        "compared_with": {
            name: {"kind": kind, **_shared(asked, list(some), name, progress)}
            for kind, sets in kinds.items()
            for name, some in sets.items()
        },
        "ancestry": dict(ancestry),
    }


def _shared(asked: Sequence[VqaSample], trained: Sequence[VqaSample], name: str, progress: Progress) -> dict[str, Any]:
    images = len({one.image for one in (*asked, *trained)})
    pictures: dict[str, Any] = {
        "shared_pictures": None, "questions_on_them": None, "same_rows": None, "pictures": [], "rows": [],
    }  # fmt: skip
    if images <= MOST_PICTURES:
        with progress.track(f"comparing images with {name}", images, unit="images") as tick:
            seen = shared_pictures(trained, asked, LocalEngine(), done=tick)
        twins: dict[Path, list[Path]] = defaultdict(list)
        for pair in seen:
            twins[pair.evaluated.image].append(pair.trained.image)
        same_rows = _same_rows(asked, trained, twins)
        pictures = {
            "shared_pictures": len(twins),
            "questions_on_them": sum(one.image in twins for one in asked),
            "same_rows": len(same_rows),
            "pictures": [f"{one.trained.image_id} and {one.evaluated.image_id}: {one.how}" for one in seen[:SHOWN]],
            "rows": [f"{one.sample_id}: {one.question} → {one.answers[0]}" for one in same_rows[:SHOWN]],
        }
    groups = {one.group_id for one in trained}
    questions = {words(one.question) for one in trained}
    answers = {words(one.answers[0]) for one in trained}
    open_ = [one for one in asked if one.answer_type == "open"]
    return {
        "samples": len(trained),
        "images": len({one.image for one in trained}),
        **pictures,
        "shared_groups": len(groups & {one.group_id for one in asked}),
        "share_of_questions_seen": _share([words(one.question) in questions for one in asked]),
        "share_of_open_answers_seen": _share([words(one.answers[0]) in answers for one in open_]),
    }


def _same_rows(
    asked: Sequence[VqaSample], trained: Sequence[VqaSample], twins: Mapping[Path, Sequence[Path]]
) -> list[VqaSample]:
    """The questions that a training picture of ``twins`` has with the same answer, whatever its image id is."""
    rows: dict[Path, set[tuple[str, tuple[str, ...]]]] = defaultdict(set)
    for one in trained:
        rows[one.image].add(same_row(one)[1:])
    return [one for one in asked if any(same_row(one)[1:] in rows[twin] for twin in twins.get(one.image, ()))]


def _share(found: Sequence[bool]) -> float | None:
    return round(sum(found) / len(found), 4) if found else None
