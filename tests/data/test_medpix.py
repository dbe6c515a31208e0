import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medpix_folder import case, description, write_lines, write_medpix
from mutated_rows import mutations

from radvqa.data import open_dataset
from radvqa.data.adapters.medpix import MedPixCase, MedPixDataset, read_uid_list
from radvqa.errors import DataError
from radvqa.records import write_records
from radvqa.sample import CaptionedImage, Reject, Split

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "medpix2" / "MedPix-2-0"
needs_medpix = pytest.mark.skipif(not REAL.is_dir(), reason="MedPix 2.0 is not under shared/data")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_medpix(
        tmp_path / "MedPix-2-0",
        {
            "descriptions_train": [description(), description("MPX1_synpic2")],
            "data_train": [case()],
            "descriptions_dev": [description("MPX3_synpic1")],
            "data_dev": [case("MPX3")],
        },
        uid_list={"train": ["MPX1"], "train_1": ["MPX1"], "train_2": [], "dev": ["MPX3"]},
        images=["MPX1_synpic1", "MPX3_synpic1"],
    )


def read_one(root: Path, **changes: object) -> CaptionedImage:
    write_lines(root / "splitted_dataset" / "descriptions_train.jsonl", [description(**changes)])
    (caption,) = MedPixDataset(str(root)).read("train").captions
    return caption


def reasons(dataset: MedPixDataset) -> list[tuple[str, str]]:
    return [(defect.subject, defect.reason) for defect in dataset.defects()]


def test_a_description_becomes_a_captioned_image(root: Path) -> None:
    reading = open_dataset("medpix", {"root": str(root)}).read("train")
    assert reading.captions == (
        CaptionedImage(
            sample_id="medpix-MPX1_synpic1",
            image_id="MPX1_synpic1",
            image=root / "images" / "MPX1_synpic1.png",
            text="A dilated bladder.",
            group_id="MPX1",
            split="train",
            tags={
                "modality": "CT",
                "modality_detail": "CT - noncontrast",
                "plane": "Axial",
                "location": "Genitourinary",
                "location_category": "Abdomen",
            },
            withheld={
                "title": "Bladder Diverticulum",
                "diagnosis": "Bladder Diverticulum",
                "topic_title": "Bladder",
                "disease_discussion": "Often obstruction.",
                "topic_category": "Diverticulum",
            },
        ),
    )
    assert reading.defects == ()


def test_a_picture_that_is_absent_is_a_sound_reject(root: Path) -> None:
    (reject,) = MedPixDataset(str(root)).read("train").rejects
    assert (reject.sample_id, reject.reason, reject.malformed) == ("medpix-MPX1_synpic2", "missing_image", False)


def test_age_and_sex_are_in_no_record(root: Path) -> None:
    (caption, *_) = MedPixDataset(str(root)).read("train").captions
    assert not {"73", "male"} & {*caption.tags.values(), *caption.withheld.values()}


def test_a_placeholder_caption_is_a_row_like_any_other(root: Path) -> None:
    text = "Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS."
    assert read_one(root, Caption=f" {text} ").text == text


def test_an_absent_plane_gives_no_tag(root: Path) -> None:
    assert "plane" not in read_one(root, Plane=None).tags


@pytest.mark.parametrize("state", ["absent", "broken", "of another case"])
def test_without_its_case_nothing_is_withheld_and_a_defect_says_so(root: Path, state: str) -> None:
    table = root / "splitted_dataset" / "data_train.jsonl"
    if state == "absent":
        table.unlink()
    else:
        write_lines(table, [case(Case="x"), case("MPX9")] if state == "broken" else [case("MPX9")])
    reading = MedPixDataset(str(root)).read("train")
    assert reading.captions[0].withheld == {}
    assert [defect.reason for defect in reading.defects] == {
        "absent": ["no_cases"],
        "broken": ["broken_case", "no_case", "no_case"],
        "of another case": ["no_case", "no_case"],
    }[state]


def test_cases_name_their_images_and_fields(root: Path) -> None:
    (found,) = MedPixDataset(str(root)).cases("val")
    assert isinstance(found, MedPixCase)
    assert (found.case_id, found.split, found.image_ids) == ("MPX3", "val", ("MPX3_synpic1",))
    assert found.fields["diagnosis"] == "Bladder Diverticulum"
    assert "exam" not in found.fields


def test_a_case_that_is_none_or_comes_twice_is_a_reject(root: Path) -> None:
    write_lines(root / "splitted_dataset" / "data_train.jsonl", [case(), 7, case(TAC="x"), case()])
    found = list(MedPixDataset(str(root)).cases("train"))
    assert [item.reason for item in found if isinstance(item, Reject)] == [
        "not_an_object",
        "wrong_type",
        "repeated_id",
    ]
    assert len(found) == 4


def test_a_type_that_contradicts_the_modality_is_reported_and_kept(root: Path) -> None:
    write_lines(root / "splitted_dataset" / "descriptions_train.jsonl", [description(Type="MR")])
    reading = MedPixDataset(str(root)).read("train")
    assert reading.captions[0].tags["modality"] == "MR"
    assert [(defect.subject, defect.reason) for defect in reading.defects] == [
        ("medpix-MPX1_synpic1", "modality_conflict")
    ]


def test_an_image_named_after_another_case_is_reported(root: Path) -> None:
    write_lines(root / "splitted_dataset" / "descriptions_train.jsonl", [description(U_id="MPX3")])
    defects = MedPixDataset(str(root)).read("train").defects
    assert [defect.reason for defect in defects] == ["no_case", "image_of_other_case"]


def test_the_halves_of_train_are_read_only_where_the_whole_is_absent(root: Path) -> None:
    folder = root / "splitted_dataset"
    halves = [write_lines(folder / f"descriptions_train_{n}.jsonl", [description(f"MPX1_synpic{n}")]) for n in (1, 2)]
    assert len(list(MedPixDataset(str(root)).rows("train"))) == 2
    (folder / "descriptions_train.jsonl").unlink()
    dataset = MedPixDataset(str(root))
    assert [item.image_id for item in dataset.rows("train") if isinstance(item, CaptionedImage)] == [
        "MPX1_synpic1",
        "MPX1_synpic2",
    ]
    assert dataset.sources()[:2] == tuple(halves)
    halves[1].unlink()
    assert MedPixDataset(str(root)).splits() == ("val",)


def test_a_sound_folder_has_no_defects(root: Path) -> None:
    assert reasons(MedPixDataset(str(root))) == []


def test_a_case_in_two_splits_is_found_in_the_list_and_in_the_tables(root: Path) -> None:
    folder = root / "splitted_dataset"
    write_lines(folder / "descriptions_dev.jsonl", [description("MPX1_synpic1")])
    (folder / "uid_list.json").write_text(json.dumps({"train": ["MPX1"], "dev": ["MPX1", "MPX3"]}))
    assert reasons(MedPixDataset(str(root))) == [
        ("MPX1", "case_in_several_splits"),
        ("MPX1", "case_in_several_splits"),
        ("MPX1_synpic1", "image_in_several_splits"),
        ("MPX3_synpic1", "image_without_description"),
    ]


def test_a_case_that_its_split_does_not_list_is_found(root: Path) -> None:
    (root / "splitted_dataset" / "uid_list.json").write_text(json.dumps({"train": ["MPX8"], "dev": ["MPX3"]}))
    assert reasons(MedPixDataset(str(root))) == [("MPX1", "case_not_in_list")]


def test_halves_that_differ_from_train_are_found(root: Path) -> None:
    for number in (1, 2):
        name = root / "splitted_dataset" / f"descriptions_train_{number}.jsonl"
        write_lines(name, [description(f"MPX1_synpic{number + 1}")])
    assert reasons(MedPixDataset(str(root))) == [("medpix", "halves_differ_from_train")]


def test_the_overview_is_compared_in_one_defect(root: Path) -> None:
    (root / "images_overview.csv").write_text("Type,U_id,ID_Image\nTAC,MPX1,MPX1_synpic1\nTAC,MPX1,old1\nTAC,MPX1,old2")
    (defect,) = MedPixDataset(str(root)).defects()
    assert defect.reason == "overview_does_not_match"
    assert defect.detail.startswith("2 of its 3 images are described nowhere, such as old1")


def test_images_known_to_the_whole_list_are_not_called_undescribed(root: Path) -> None:
    write_medpix(root, {}, images=["MPX7_synpic1"])
    assert reasons(MedPixDataset(str(root))) == [("MPX7_synpic1", "image_without_description")]
    (root / "Descriptions.json").write_text(json.dumps([description("MPX7_synpic1")]))
    assert reasons(MedPixDataset(str(root))) == []


@pytest.mark.parametrize("name", ["splitted_dataset/uid_list.json", "images_overview.csv", "Descriptions.json"])
def test_a_broken_file_beside_the_tables_is_a_defect(root: Path, name: str) -> None:
    (root / name).write_bytes(b"\xff{[")
    if name.endswith("csv"):
        (root / name).write_text("a,a\n")
    assert ("medpix", "unreadable_file") in reasons(MedPixDataset(str(root)))
    assert len(MedPixDataset(str(root)).read("train").captions) == 1


@pytest.mark.parametrize("content", ["7", "{}", '{"train": 7}', '{"train": [7]}', '{"x": ["MPX1"]}', "[", ""])
def test_a_list_of_cases_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "uid_list.json"
    path.write_text(content)
    with pytest.raises(DataError, match="not the list of MedPix cases"):
        read_uid_list(path)


def test_a_name_that_leaves_the_folder_is_rejected(root: Path) -> None:
    table = root / "splitted_dataset" / "descriptions_train.jsonl"
    write_lines(table, [description("../../MPX1_synpic1"), description(image="x" * 5000)])
    (first, second) = MedPixDataset(str(root)).read("train").rejects
    assert (first.reason, first.malformed, first.where) == ("path_leaves_folder", True, f"{table}, row 1")
    assert second.reason in ("missing_image", "path_leaves_folder")


def test_an_absent_split_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="no table for the split 'test'"):
        MedPixDataset(str(root)).read("test")


@pytest.mark.parametrize("state", ["absent", "file", "no tables", "no images"])
def test_a_folder_without_medpix_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "data"
    if state == "file":
        folder.write_text("x")
    elif state == "no tables":
        (folder / "images").mkdir(parents=True)
    elif state == "no images":
        write_lines(folder / "splitted_dataset" / "descriptions_dev.jsonl", [])
    with pytest.raises(DataError) as caught:
        MedPixDataset(str(folder))
    assert caught.value.got and caught.value.expected and caught.value.fix
    assert not MedPixDataset.recognises(folder)


def test_the_folder_is_recognised(root: Path) -> None:
    assert MedPixDataset.recognises(root)
    assert not MedPixDataset.recognises(root / "images")


DAMAGED = st.one_of(
    mutations(description()), mutations(description()["Description"]).map(lambda inner: description(Description=inner))
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=DAMAGED)
def test_every_row_becomes_one_record_or_one_reject(root: Path, broken: object) -> None:
    write_lines(root / "splitted_dataset" / "descriptions_train.jsonl", [broken])
    dataset = MedPixDataset(str(root))
    reading = dataset.read("train")
    assert len(reading.captions) + len(reading.rejects) == 1
    write_records(root / "x", [*reading.captions, *reading.rejects, *reading.defects, *dataset.defects()])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    broken=st.one_of(
        mutations(case()),
        mutations(case()["Case"]).map(lambda inner: case(Case=inner)),
        mutations(case()["Topic"]).map(lambda inner: case(Topic=inner)),
    )
)
def test_every_case_becomes_one_case_or_one_reject(root: Path, broken: object) -> None:
    write_lines(root / "splitted_dataset" / "data_train.jsonl", [broken])
    cases = list(MedPixDataset(str(root)).cases("train"))
    assert len(cases) == 1
    reading = MedPixDataset(str(root)).read("train")
    assert len(reading.captions) == 1
    write_records(root / "x", [*cases, *reading.captions, *reading.defects])


@pytest.fixture(scope="module")
def published() -> dict[Split, tuple[CaptionedImage, ...]]:
    dataset = MedPixDataset(str(REAL))
    readings = {split: dataset.read(split) for split in dataset.splits() if split != "test"}
    assert all(reading.rejects == reading.defects == () for reading in readings.values())
    return {split: reading.captions for split, reading in readings.items()}


def without_punctuation(text: str) -> str:
    return " ".join(re.sub(r"[^\w ]", " ", text.lower()).split())


@needs_medpix
def test_the_published_images_and_cases_are_all_read(published: dict[Split, tuple[CaptionedImage, ...]]) -> None:
    assert {split: len(captions) for split, captions in published.items()} == {"train": 1653, "val": 197}
    cases = {split: {caption.group_id for caption in captions} for split, captions in published.items()}
    assert {split: len(of_split) for split, of_split in cases.items()} == {"train": 535, "val": 67}
    assert not cases["train"] & cases["val"]
    dataset = MedPixDataset(str(REAL))
    listed = {split: {found.case_id for found in dataset.cases(split)} for split in cases}  # type: ignore[union-attr]
    assert listed == cases


@needs_medpix
def test_the_published_captions_have_the_known_defects(published: dict[Split, tuple[CaptionedImage, ...]]) -> None:
    captions = [caption for of_split in published.values() for caption in of_split]
    assert sum(caption.text.startswith("Replace this - DESCRIPTION") for caption in captions) == 21
    texts = Counter(caption.text for caption in captions)
    assert (sum(count for count in texts.values() if count > 1), len(texts)) == (866, 1235)
    assert (
        sum(
            without_punctuation(caption.withheld["diagnosis"]) in without_punctuation(caption.text)
            for caption in captions
        )
        == 142
    )


@needs_medpix
def test_the_published_titles_give_the_diagnosis_away(published: dict[Split, tuple[CaptionedImage, ...]]) -> None:
    cases = {caption.group_id: caption.withheld for of_split in published.values() for caption in of_split}
    assert len(cases) == 602
    assert sum(fields["title"].lower() == fields["diagnosis"].lower() for fields in cases.values()) == 587
    assert sum(fields["title"].lower() == fields["topic_title"].lower() for fields in cases.values()) == 344


@needs_medpix
def test_the_published_tables_agree_but_for_the_overview() -> None:
    (defect,) = MedPixDataset(str(REAL)).defects()
    assert defect.reason == "overview_does_not_match"
    assert defect.detail.startswith("441 of its 2,050 images")


@pytest.fixture(scope="module")
def published_rows() -> list[dict[str, object]]:
    lines = (REAL / "splitted_dataset" / "descriptions_train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@needs_medpix
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_published_row_that_was_damaged_becomes_one_record_or_one_reject(
    root: Path, published_rows: list[dict[str, object]], data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from(published_rows))
    if data.draw(st.booleans()):
        broken = data.draw(mutations(row))
    else:
        broken = {**row, "Description": data.draw(mutations(row["Description"]))}  # type: ignore[arg-type]
    write_lines(root / "splitted_dataset" / "descriptions_train.jsonl", [broken])
    reading = MedPixDataset(str(root)).read("train")
    assert len(reading.captions) + len(reading.rejects) == 1
