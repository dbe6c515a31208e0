from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from planted import Planted, caption, findings, picture, question, report

from radvqa.data.adapter import Item
from radvqa.sample import Defect, Reject


def clean(folder: Path) -> list[Item]:
    return [question(folder, number) for number in range(6)] + [question(folder, 9, split="val")]


def test_nothing_is_found_in_clean_data(tmp_path: Path) -> None:
    assert report(a=clean(tmp_path)).findings == ()
    assert report(a=[caption(tmp_path, number) for number in range(6)]).findings == ()


Plant = Callable[[Path], Sequence[Item]]

ROWS: dict[str, tuple[int, Plant]] = {
    "repeated_row": (1, lambda f: [question(f, 20), question(f, 20, sample_id="again")]),
    "contradictory_answers": (
        1,
        lambda f: [question(f, 20), question(f, 20, sample_id="again", answers=("something else",))],
    ),
    "linked_questions_differ": (
        1,
        lambda f: [
            question(f, 20, link_id="l", answers=("yes",), answer_type="closed"),
            question(f, 21, link_id="l", answers=("no",), answer_type="closed"),
            question(f, 22, link_id="m", answers=("Yes",), answer_type="closed"),
            question(f, 23, link_id="m", answers=("yes ",), answer_type="closed"),
        ],
    ),
    "answer_in_question": (
        1,
        lambda f: [
            question(f, 20, question="Is the liver lesion in the liver?", answers=("Liver",)),
            question(f, 21, question="Is it left or right?", answers=("left",)),
        ],
    ),
    "answer_in_field:modality": (1, lambda f: [question(f, 20, answers=("X-Ray",), tags={"modality": "xray"})]),
    "placeholder_answer": (1, lambda f: [question(f, 20, answers=("N/A",)), question(f, 21, answers=("None",))]),
    "names_its_source": (1, lambda f: [question(f, 20, question="What does the caption say?")]),
    "closed_without_yes_no": (1, lambda f: [question(f, 20, answer_type="closed", answers=("left",))]),
    "open_with_yes_no": (1, lambda f: [question(f, 20, answers=("Yes",))]),
    "case_variants": (1, lambda f: [question(f, 20, answers=("Big Lung",)), question(f, 21, answers=("big lung",))]),
    "comma_lists": (1, lambda f: [question(f, 20, answers=("Liver, Spleen",))]),
}


@pytest.mark.parametrize("check", ROWS)
def test_rows(tmp_path: Path, check: str) -> None:
    count, plant = ROWS[check]
    found = findings(a=[*clean(tmp_path), *plant(tmp_path)])
    assert found[check].count == count
    assert found[check].evidence


CAPTIONS: dict[str, tuple[int, Plant]] = {
    "placeholder_caption": (1, lambda f: [caption(f, 20, text="Replace this - DESCRIPTION OF THE IMAGE.")]),
    "shared_caption": (
        2,
        lambda f: [caption(f, 20, text="All the same words."), caption(f, 21, text="All the same words.")],
    ),
    "caption_holds:diagnosis": (1, lambda f: [caption(f, 20, withheld={"diagnosis": "Lesion of kind 20"})]),
    "diagnosis_is:title": (1, lambda f: [caption(f, 20, withheld={"diagnosis": "Gout.", "title": "gout"})]),
    "short_caption": (1, lambda f: [caption(f, 20, text="Chest film")]),
    "marks_in_image": (1, lambda f: [caption(f, 20, text="A mass is seen in the lung (arrows).")]),
    "not_ascii": (1, lambda f: [caption(f, 20, text="Scanner abdominal montrant une lésion.")]),
}


@pytest.mark.parametrize("check", CAPTIONS)
def test_captions(tmp_path: Path, check: str) -> None:
    count, plant = CAPTIONS[check]
    found = findings(a=[*(caption(tmp_path, number) for number in range(4)), *plant(tmp_path)])
    assert found[check].count == count
    assert found[check].severity in ("label", "shortcut", "cosmetic")


def test_groups_in_several_splits_are_told_by_language(tmp_path: Path) -> None:
    rows = [
        question(tmp_path, 1, language="zh"),
        question(tmp_path, 1, sample_id="v", split="val", question="another?"),
        question(tmp_path, 2),
        question(tmp_path, 2, sample_id="w", split="val", question="one more?", language="zh"),
        question(tmp_path, 2, sample_id="x", split="val", question="and one?", language="zh"),
        question(tmp_path, 3),
    ]
    found = findings(a=rows)["group_in_several_splits"]
    assert (found.severity, found.count) == ("leak", 2)
    assert found.facts["groups in train (en) and val (en)"] == 0
    assert found.facts["groups in train (zh) and val (en)"] == 1
    assert found.facts["groups in train (en) and val (zh)"] == 1
    assert found.facts["rows of val (zh) on them"] == 2
    assert found.advice.startswith("read one language")


def test_rows_whose_image_is_missing_count_for_leaks(tmp_path: Path) -> None:
    lost = tmp_path / "lost.png"
    rows = [question(tmp_path, 1, image=lost), question(tmp_path, 1, image=lost, sample_id="v", split="val")]
    found = findings(a=rows)
    assert found["group_in_several_splits"].count == 1
    assert found["row_in_several_splits"].count == 1
    assert found["missing_image"].count == 1
    assert found["missing_image"].facts["rows"] == 2


def test_an_answer_without_a_word_is_a_finding_and_no_error(tmp_path: Path) -> None:
    rows = [
        *clean(tmp_path),
        question(tmp_path, 30, answers=("-",)),
        question(tmp_path, 31, answers=("?",), split="val"),
    ]
    assert findings(a=rows)["placeholder_answer"].count == 2


def test_rows_that_differ_in_spelling_alone_are_one_row(tmp_path: Path) -> None:
    same = {"question": "Is it?", "answers": ("Yes",), "answer_type": "closed"}
    rows = [question(tmp_path, 1, **same), question(tmp_path, 2)]
    rows.append(question(tmp_path, 1, **{**same, "question": "is it", "answers": ("yes",)}, sample_id="v", split="val"))
    assert findings(a=rows)["row_in_several_splits"].count == 1


def test_questions_asked_in_training_are_counted(tmp_path: Path) -> None:
    rows = [*clean(tmp_path), question(tmp_path, 30, split="val", question="which SIGN number 1 is seen")]
    found = findings(a=rows)["seen_questions"]
    assert found.count == 1
    assert found.facts["share of rows"] == 0.5
    assert found.facts["of these unseen"] == 1


def test_a_question_that_gives_its_answer_away_is_a_floor(tmp_path: Path) -> None:
    rows = [question(tmp_path, n, question="Which organ?", answers=("liver",)) for n in range(4)]
    rows += [question(tmp_path, n, question="Which organ?", answers=("liver",), split="val") for n in (10, 11)]
    found = findings(a=rows)["question_only_floor"]
    assert (found.count, found.facts["question-only exact match"]) == (2, 1.0)


def test_one_public_id_in_two_data_sets_is_a_leak(tmp_path: Path) -> None:
    found = findings(
        a=[question(tmp_path, 1, image_id="synpic77"), question(tmp_path, 1, image_id="synpic77", sample_id="b")],
        b=[caption(tmp_path, 2, image_id="MPX5_synpic77")],
    )["shared_public_id"]
    assert (found.count, found.severity, found.dataset) == (1, "leak", "a × b")
    assert (found.facts["rows of a"], found.facts["rows of b"]) == (2, 1)


def test_rejects_and_defects_are_findings(tmp_path: Path) -> None:
    reject = Reject(sample_id="r", reason="missing_key", where="t.csv, row 3", detail="no answer", malformed=True)
    defect = Defect(subject="s", reason="mask_is_no_mask", where="mask.png", detail="a picture")
    found = findings(a=Planted([*clean(tmp_path), reject], beside=[defect, replace(defect, subject="t")]))
    assert found["reject:missing_key"].count == 1
    assert found["reject:missing_key"].evidence[0].where == "t.csv, row 3"
    assert (found["defect:mask_is_no_mask"].count, found["defect:mask_is_no_mask"].severity) == (2, "shortcut")


def test_rows_are_counted_by_the_licence_of_their_image(tmp_path: Path) -> None:
    rows = [caption(tmp_path, n, tags={"licence": licence}) for n, licence in enumerate(("CC BY", "CC BY-NC", "CC BY"))]
    assert report(a=[*rows, caption(tmp_path, 7)], b=clean(tmp_path)).licences == {
        "a": {"CC BY": 2, "CC BY-NC": 1, "none stated": 1},
        "b": {},
    }


# Pictures


def copied(tmp_path: Path, name: str, *, seed: int) -> Path:
    """The picture of a seed, smaller and as lossy JPEG."""
    path = tmp_path / f"{name}.jpg"
    Image.open(picture(tmp_path, f"i{seed}", seed=seed)).resize((80, 80)).save(path, quality=70)
    return path


def test_a_lossy_copy_across_splits_is_a_leak(tmp_path: Path) -> None:
    rows = [*clean(tmp_path), question(tmp_path, 40, split="val", image=copied(tmp_path, "copy", seed=3))]
    found = findings(a=rows)
    assert (found["image_seen_in_training"].count, found["image_seen_in_training"].severity) == (1, "leak")
    assert found["image_seen_in_training"].evidence[0].subjects == ("i3", "i40")
    assert found["alike_images_in_other_groups"].count == 1


def test_one_file_in_two_splits_is_a_leak_whatever_the_groups_say(tmp_path: Path) -> None:
    rows = [*clean(tmp_path), question(tmp_path, 40, split="val", image=picture(tmp_path, "i3", seed=3))]
    found = findings(a=rows)
    assert "group_in_several_splits" not in found
    assert found["image_seen_in_training"].count == 1


def test_equal_pixels_in_two_data_sets_are_a_leak(tmp_path: Path) -> None:
    same = tmp_path / "same.bmp"
    Image.open(picture(tmp_path, "i3", seed=3)).save(same)
    found = findings(a=clean(tmp_path), b=[question(tmp_path, 50), question(tmp_path, 51, image=same)])
    assert found["equal_images_across_datasets"].count == 1
    assert found["equal_images_across_datasets"].facts["rows of b"] == 1
    assert "alike_images_across_datasets" not in found


def test_auditing_more_data_does_not_hide_a_leak(tmp_path: Path) -> None:
    same = [tmp_path / f"same{number}.bmp" for number in range(3)]
    for path in same:
        Image.open(picture(tmp_path, "i3", seed=3)).save(path)
    first = [question(tmp_path, 70, image=picture(tmp_path, "i3", seed=3)), question(tmp_path, 71)]
    second = [
        question(tmp_path, 80, image=same[0]),
        question(tmp_path, 81, image=same[1], split="val"),
        question(tmp_path, 82, image=same[2], split="test"),
        question(tmp_path, 83),
    ]
    alone, together = report(b=second).findings, report(a=first, b=second).findings
    for found in (alone, together):
        assert sorted(one.title[:4] for one in found if one.check == "image_seen_in_training") == ["test", "val "]
    (across,) = [one for one in together if one.check == "equal_images_across_datasets"]
    assert across.facts["rows of b"] == 3
    assert "alike_images_across_datasets" not in {one.check for one in together}


def test_copies_inside_one_group_are_no_finding(tmp_path: Path) -> None:
    rows = [*clean(tmp_path), question(tmp_path, 40, group_id="g3", image=copied(tmp_path, "copy", seed=3))]
    assert report(a=rows).findings == ()


def test_small_even_and_broken_pictures(tmp_path: Path) -> None:
    Image.new("L", (96, 96), 7).save(tmp_path / "even.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    rows = [
        question(tmp_path, 60, image=picture(tmp_path, "small", seed=60, size=40)),
        question(tmp_path, 61, image=tmp_path / "even.png"),
        question(tmp_path, 62, image=tmp_path / "broken.png"),
    ]
    found = findings(a=[*clean(tmp_path), *rows])
    assert found["small_image"].evidence[0].subjects == ("i60",)
    assert found["even_image"].evidence[0].subjects == ("i61",)
    assert found["unreadable_image"].evidence[0].subjects == ("i62",)
    assert (found["unreadable_image"].count, found["unreadable_image"].facts["rows"]) == (1, 1)
