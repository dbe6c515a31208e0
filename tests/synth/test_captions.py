from pathlib import Path
from typing import Any

import pytest

from radvqa.data.adapter import Item
from radvqa.sample import CaptionedImage, Reject
from radvqa.synth.captions import Selection, select, source_of
from radvqa.synth.pair import Verdict


def caption(number: int, text: str = "", **changes: Any) -> CaptionedImage:
    values: dict[str, Any] = {
        "sample_id": f"c{number}", "image_id": f"i{number}", "image": Path("i.png"),
        "text": text or f"Caption number {number} of an axial CT.", "group_id": "g", "split": "train",
    }  # fmt: skip
    return CaptionedImage(**{**values, **changes})


def selected(items: list[Item], **options: Any) -> Selection:
    return select(items, **{"shared": "first", "limit": None, "seed": 0, **options})


def ids(selection: Selection) -> list[str]:
    return [one.sample_id for one in selection.captions]


@pytest.mark.parametrize(("shared", "kept"), [("first", ["c1", "c3"]), ("all", ["c1", "c2", "c3"]), ("drop", ["c3"])])
def test_shared_captions(shared: str, kept: list[str]) -> None:
    items = [caption(1, "The  same."), caption(2, "The same. "), caption(3)]
    found = selected(items, shared=shared)
    assert ids(found) == kept
    assert len(found.rejects) == 3 - len(kept)
    assert {one.reason for one in found.rejects} <= {"shared_caption"}


def test_a_larger_limit_keeps_what_a_smaller_one_has_and_the_seed_draws() -> None:
    items = [caption(number) for number in range(40)]
    small, large = (ids(selected(items, limit=limit)) for limit in (5, 12))
    assert set(small) < set(large)
    assert len(large) == 12
    assert small == sorted(small, key=lambda name: int(name[1:]))
    assert small != ids(selected(items, limit=5, seed=1))
    assert selected(items, limit=5).undrawn == 35
    assert ids(selected(list(reversed(items)), limit=5)) == list(reversed(small))


def test_rows_of_other_splits_are_no_rejects_and_others_are_kept() -> None:
    rows = [
        Reject(sample_id="a", reason="other_split", where="w", detail="d"),
        Reject(sample_id="b", reason="missing_image", where="w", detail="d"),
    ]
    assert [one.sample_id for one in selected([*rows, caption(1)]).rejects] == ["b"]


def test_a_caption_id_of_two_splits_is_used_once() -> None:
    found = selected([caption(1), caption(1, "Another text in validation.", split="val")])
    assert len(found.captions) == 1
    assert [one.reason for one in found.rejects] == ["repeated_id"]


def test_other_languages_are_rejects() -> None:
    found = selected([caption(1, language="fr"), caption(2)])
    assert ids(found) == ["c2"]
    assert [one.reason for one in found.rejects] == ["other_language"]


def test_captions_with_a_problem_are_rejects_of_its_name() -> None:
    verdict = Verdict(screen="short_caption", passed=False, detail="too short")
    items = [caption(number) for number in range(6)]
    found = selected(items, problem=lambda one: verdict if one.sample_id == "c3" else None)
    assert "c3" not in ids(found)
    assert [(one.sample_id, one.reason, one.detail) for one in found.rejects] == [("c3", "short_caption", "too short")]


def test_a_source_knows_the_text_and_stated_facts_alone() -> None:
    one = caption(
        1,
        "  CT \n of the chest. ",
        tags={"modality": "CT", "plane": "Photograph", "location": "Chest"},
        withheld={"title": "Sarcoidosis", "diagnosis": "Sarcoidosis"},
    )
    source = source_of(one, ("modality", "plane"))
    assert source.text == "CT of the chest."
    assert dict(source.facts) == {"modality": "CT"}
    assert "Sarcoidosis" not in repr(source)
    assert source_of(one, ()).facts == {}
