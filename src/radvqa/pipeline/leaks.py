"""What an evaluated set shares with what was trained on: pictures, groups, whole rows, questions and answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from radvqa.audit.rows import same_row
from radvqa.data.seen import seen_pictures
from radvqa.evaluate.floors import words
from radvqa.run.engine import LocalEngine
from radvqa.run.progress import Progress
from radvqa.sample import VqaSample

MOST_PICTURES = 20_000
"""Pictures on both sides up to which they are decoded and compared; it takes some 20 ms of a core for each."""

SHOWN = 20


def leaks(
    asked: Sequence[VqaSample],
    trained: Mapping[str, Iterable[VqaSample]],
    *,
    ancestry: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """What ``leaks.json`` holds.

    ``compared_with``: for each training set by name, how many evaluated pictures it has too (equal, nearly equal or of
    the same public id; None where there are too many to compare), the questions on them, the groups in both, the rows
    with the same image, question and answer, and the share of questions and of open answers that training had as well.
    ``ancestry``: what the base had learned from before, as far as it is known by name only.
    """
    return {
        "evaluated": {"samples": len(asked), "images": len({one.image for one in asked})},
        "compared_with": {name: _shared(asked, list(some), name, progress) for name, some in trained.items()},
        "ancestry": dict(ancestry),
    }


def _shared(asked: Sequence[VqaSample], trained: Sequence[VqaSample], name: str, progress: Progress) -> dict[str, Any]:
    images = len({one.image for one in (*asked, *trained)})
    pictures: dict[str, Any] = {"shared_pictures": None, "questions_on_them": None, "pictures": []}
    if images <= MOST_PICTURES:
        with progress.track(f"comparing images with {name}", images, unit="images") as tick:
            seen = seen_pictures(trained, asked, LocalEngine(), done=tick)
        shown = {one.evaluated.image for one in seen}
        pictures = {
            "shared_pictures": len(shown),
            "questions_on_them": sum(one.image in shown for one in asked),
            "pictures": [f"{one.trained.image_id} and {one.evaluated.image_id}: {one.how}" for one in seen[:SHOWN]],
        }
    groups = {one.group_id for one in trained}
    rows = {same_row(one) for one in trained}
    questions = {words(one.question) for one in trained}
    answers = {words(one.answers[0]) for one in trained}
    same_rows = [one for one in asked if same_row(one) in rows]
    open_ = [one for one in asked if one.answer_type == "open"]
    return {
        "samples": len(trained),
        "images": len({one.image for one in trained}),
        **pictures,
        "shared_groups": len(groups & {one.group_id for one in asked}),
        "same_rows": len(same_rows),
        "rows": [f"{one.sample_id}: {one.question} → {one.answers[0]}" for one in same_rows[:SHOWN]],
        "share_of_questions_seen": _share([words(one.question) in questions for one in asked]),
        "share_of_open_answers_seen": _share([words(one.answers[0]) in answers for one in open_]),
    }


def _share(found: Sequence[bool]) -> float | None:
    return round(sum(found) / len(found), 4) if found else None
