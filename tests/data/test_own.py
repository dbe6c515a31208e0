import csv
import inspect
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dicom_files import ct_slice, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from radvqa.data import open_dataset
from radvqa.data.adapters.own import OwnDataset
from radvqa.data.columns import ROLES, columns_of, roles_of
from radvqa.data.dicom_codes import ALLOWED_TAGS, PRESETS
from radvqa.data.imaging import open_image
from radvqa.errors import DataError, RecipeError
from radvqa.sample import CaptionedImage, Defect, Reject, VqaSample


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 5), value).save(path)
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix
    if suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    return path


ROW = {"image": "a.png", "question": "Is there an effusion?", "answer": "yes"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    picture(tmp_path / "data" / "a.png")
    return tmp_path / "data"


def read_one(root: Path, changes: dict[str, Any], suffix: str = ".json", **options: Any) -> VqaSample | CaptionedImage:
    table(root / f"table{suffix}", [{**ROW, **changes}])
    reading = OwnDataset(str(root), **options).read("train")
    assert not reading.rejects
    return (*reading.samples, *reading.captions)[0]


def rejected(root: Path, changes: dict[str, Any], **options: Any) -> Reject:
    table(root / "table.json", [{**ROW, **changes}])
    reading = OwnDataset(str(root), **options).read("train")
    assert not reading.samples and not reading.captions
    return reading.rejects[0]


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_a_row_of_any_table_becomes_a_sample(root: Path, suffix: str) -> None:
    extra = {"id": "7", "patient": "P3", "answer_type": "CLOSED", "modality": "CT", "language": "de"}
    assert read_one(root, extra, suffix) == VqaSample(
        sample_id="own-7",
        image_id="a.png",
        image=root / "a.png",
        question="Is there an effusion?",
        answers=("yes",),
        answer_type="closed",
        group_id="own-patient:P3",
        split="train",
        language="de",
        tags={"modality": "CT"},
    )


def test_a_row_without_extras_gets_stable_defaults(root: Path) -> None:
    sample = read_one(root, {}, ".csv", split_if_absent="train", language="fr")
    assert (sample.sample_id, sample.group_id, sample.language) == ("own-table.csv:1", "own-data-image:a.png", "fr")
    assert (sample.answer_type, sample.answer_type_stated) == ("closed", False)


def test_captions_under_any_of_their_names(root: Path) -> None:
    for name in ROLES["caption"]:
        table(root / "table.csv", [{"File Name": "a.png", name.upper(): " No effusion. "}])
        (caption,) = OwnDataset(str(root)).read("train").captions
        assert (caption.text, caption.image) == ("No effusion.", root / "a.png")


def test_a_row_with_a_question_is_a_question_and_one_without_a_caption(root: Path) -> None:
    rows = [{**ROW, "caption": "Clear lungs."}, {**ROW, "question": "", "answer": "", "caption": "Clear lungs."}]
    table(root / "table.csv", rows)
    reading = OwnDataset(str(root)).read("train")
    assert (len(reading.samples), len(reading.captions), len(reading.rejects)) == (1, 1, 0)


def test_columns_can_be_named(root: Path) -> None:
    table(root / "t.csv", [{"scan": "a.png", "Frage": "Was?", "Antwort": "Luft", "answer": "no"}])
    columns = {"image": "scan", "question": "Frage", "answer": "Antwort"}
    sample = open_dataset("own", {"root": str(root), "columns": columns}).read("train").samples[0]
    assert (sample.question, sample.answers) == ("Was?", ("Luft",))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["image", "file_name", "caption"], "several columns could be the image: image, file_name"),
        (["image", "text", "report"], "several columns could be the caption"),
        (["question", "answer"], "no column names the image"),
        (["image", "question"], "neither questions with answers nor captions"),
        (["image", "foo"], "neither questions with answers nor captions"),
    ],
)
def test_unclear_columns_are_listed_with_what_to_do(root: Path, columns: list[str], message: str) -> None:
    table(root / "t.csv", [dict.fromkeys(columns, "x")])
    with pytest.raises(DataError, match=message) as caught:
        OwnDataset(str(root))
    assert caught.value.where == str(root / "t.csv")
    assert all(column in str(caught.value.got) for column in columns)
    assert "columns" in str(caught.value.fix)


def test_impossible_options_are_refused(root: Path) -> None:
    table(root / "t.csv", [ROW])
    for options in (
        {"columns": {"picture": "image"}},
        {"window": "brian"},
        {"window": (40.0, 0.0)},
        {"frame": -1},
        {"stored_window": -1},
        {"split_if_absent": "holdout"},
    ):
        with pytest.raises(RecipeError):
            OwnDataset(str(root), **options)
    with pytest.raises(DataError, match="no column 'bild'"):
        OwnDataset(str(root), columns={"image": "bild"})
    with pytest.raises(RecipeError, match="wrong value"):
        open_dataset("own", {"root": str(root), "frame": "every"})


def test_recipe_values_fit_the_options(root: Path) -> None:
    table(root / "t.csv", [ROW])
    for options in ({"window": [40, 80]}, {"window": "lung"}, {"frame": 3}, {"frame": "last"}):
        assert open_dataset("own", {"root": str(root), **options}).splits() == ("train",)


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ('["left", "left side"]', ("left", "left side")),
        (["left", " left  side", "left"], ("left", "left side")),
        ("[not json", ("[not json",)),
        ("left | right", ("left | right",)),
    ],
)
def test_several_answers(root: Path, value: object, answers: tuple[str, ...]) -> None:
    assert read_one(root, {"answer": value}).answers == answers


def test_a_column_of_answers_may_be_separated_by_bars(root: Path) -> None:
    table(root / "t.csv", [{"image": "a.png", "question": "Side?", "answers": "left | left side"}])
    assert OwnDataset(str(root)).read("train").samples[0].answers == ("left", "left side")


@pytest.mark.parametrize("choices", ["left|right", '["left", "right"]', ["left", "right"]])
def test_choices_make_a_question_closed(root: Path, choices: object) -> None:
    sample = read_one(root, {"answer": "left", "choices": choices})
    assert (sample.choices, sample.answer_type) == (("left", "right"), "closed")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": 3}, "number_as_answer"),
        ({"answer": "left  side"}, "white_space_in_answer"),
        ({"answer_type": "yes-no"}, "unknown_answer_type"),
        ({"choices": "left|right"}, "answer_not_a_choice"),
    ],
)
def test_what_was_mended_is_told(root: Path, changes: dict[str, Any], reason: str) -> None:
    table(root / "table.json", [{**ROW, **changes}])
    reading = OwnDataset(str(root)).read("train")
    assert [(defect.subject, defect.reason) for defect in reading.defects] == [("own-table.json:1", reason)]
    assert len(reading.samples) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": ""}, "empty_value"),
        ({"answer": " "}, "empty_answer"),
        ({"answer": True}, "wrong_type"),
        ({"question": ["a"]}, "wrong_type"),
        ({"answer": "\ud800"}, "not_unicode"),
        ({"image": None}, "no_picture"),
        ({"image": 5}, "no_picture"),
        ({"image": ["a.png", "b.png"]}, "no_picture"),
        ({"image": "../a.png"}, "path_leaves_folder"),
        ({"image": "/etc/passwd"}, "path_leaves_folder"),
        ({"image": "C:\\a.png"}, "path_leaves_folder"),
        ({"image": "a\0.png"}, "path_leaves_folder"),
        ({"image": "x" * 5000}, "path_leaves_folder"),
        ({"image": "https://example.org/a.png"}, "image_is_a_link"),
        ({"image": "a.zip"}, "unsupported_image"),
        ({"image": "a.nii.gz"}, "unsupported_image"),
        ({"image": "absent.png"}, "missing_image"),
        ({"split": "holdout"}, "unknown_split"),
        ({"split": "val"}, "other_split"),
    ],
)
def test_a_row_that_cannot_be_used_is_a_reject(root: Path, changes: dict[str, Any], reason: str) -> None:
    table(root / "table.json", [{**ROW, "split": "train"}, {**ROW, **changes}])
    reading = OwnDataset(str(root)).read("train")
    assert [reject.reason for reject in reading.rejects] == [reason]
    assert reading.rejects[0].malformed == (reason not in ("missing_image", "other_split"))
    assert len(reading.samples) == 1


def test_an_image_is_looked_for_beside_the_table_then_in_the_folder(root: Path) -> None:
    picture(root / "images" / "b.png")
    picture(root / "train" / "c.png")
    names = ("a.png", "b.png", "c.png", "images\\b.png", "./a.png", "images/b.png")
    table(root / "train" / "metadata.csv", [{**ROW, "image": name} for name in names])
    found = [sample.image.relative_to(root).as_posix() for sample in OwnDataset(str(root)).read("train").samples]
    assert found == ["a.png", "images/b.png", "train/c.png", "images/b.png", "a.png", "images/b.png"]


def test_a_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "out.png").symlink_to(picture(tmp_path / "elsewhere.png"))
    assert rejected(root, {"image": "out.png"}).reason == "path_leaves_folder"


# --- splits ----------------------------------------------------------------------------------------------------------


def test_a_split_column_in_many_spellings(root: Path) -> None:
    rows = [{**ROW, "Split": name} for name in ("Train", "Vaild", "dev", "TEST", "")]
    table(root / "t.csv", rows)
    own = OwnDataset(str(root), split_if_absent="val")
    assert own.splits() == ("train", "val", "test")
    assert [len(own.read(split).samples) for split in own.splits()] == [1, 3, 1]
    assert all(reject.reason == "other_split" for reject in own.read("val").rejects)


def test_splits_by_the_names_of_tables_or_folders(root: Path) -> None:
    for name in ("train.csv", "valid.csv"):
        table(root / name, [ROW])
    own = OwnDataset(str(root))
    assert own.splits() == ("train", "val")
    assert own.read("val").samples[0].sample_id == "own-valid.csv:1"
    assert own.sources() == (root / "train.csv", root / "valid.csv")
    with pytest.raises(DataError, match="no split 'test'"):
        own.read("test")


def test_shards_of_a_split_are_read_one_after_the_other(root: Path) -> None:
    for number in range(2):
        table(root / "data" / f"train-0000{number}-of-00002.parquet", [{**ROW, "image": "../a.png"[3:]}])
    own = OwnDataset(str(root))
    assert len(own.read("train").samples) == 2


@pytest.mark.parametrize("names", [["a.csv", "b.csv"], ["train.csv", "all.csv"], ["train.csv", "train.jsonl"]])
def test_tables_that_cannot_be_told_apart_are_refused(root: Path, names: list[str]) -> None:
    for name in names:
        table(root / name, [ROW])
    with pytest.raises(DataError, match="not clear which table"):
        OwnDataset(str(root))
    assert OwnDataset(str(root), table=names[1]).sources() == (root / names[1],)


def test_other_json_files_do_not_disturb(root: Path) -> None:
    table(root / "t.csv", [ROW])
    (root / "config.json").write_text("{}")
    (root / "broken.json").write_text("[")
    assert len(OwnDataset(str(root)).read("train").samples) == 1


def test_a_table_file_alone_can_be_the_root(root: Path) -> None:
    path = table(root / "t.csv", [ROW])
    assert OwnDataset(str(path)).read("train").samples[0].image == root / "a.png"


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_inside_parquet(root: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, format="PNG")
    rows = [{**ROW, "image": {"bytes": buffer.getvalue(), "path": "x.png"}}]
    table(root / "train.parquet", rows)
    (sample,) = OwnDataset(str(root)).read("train").samples
    assert open_image(sample.image).size == (3, 3)
    assert sample.image_id == f"own-{sample.image.stem[:16]}"
    assert sample.group_id == f"own-data-image:{sample.image.stem[:16]}"


def test_a_path_without_bytes_inside_parquet(root: Path) -> None:
    table(root / "train.parquet", [{**ROW, "image": {"bytes": None, "path": "a.png"}}])
    assert OwnDataset(str(root)).read("train").samples[0].image == root / "a.png"


def test_every_kind_of_picture_opens(root: Path) -> None:
    deep = np.linspace(0, 4000, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(root / "deep.png")
    Image.fromarray(deep).save(root / "deep.tif")
    pages = [Image.new("L", (64, 64), value) for value in (90, 10)]
    pages[0].save(root / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(root / "moving.gif", save_all=True, append_images=pages[1:])
    Image.new("1", (64, 64), 1).save(root / "bit.png")
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(root / "ink.jpg")
    Image.new("RGB", (64, 64), (9, 90, 200)).quantize(4).save(root / "palette.png")
    names = ("deep.png", "deep.tif", "pages.tif", "moving.gif", "bit.png", "ink.jpg", "palette.png")
    table(root / "t.csv", [{**ROW, "image": name} for name in names])
    found = {one.image.name: np.asarray(open_image(one.image)) for one in OwnDataset(str(root)).read("train").samples}
    assert list(found) == list(names)
    for name in ("deep.png", "deep.tif"):
        assert len(np.unique(found[name])) == 256
        assert (found[name] == 255).mean() < 0.01
    assert (found["pages.tif"] == 90).all() and (found["moving.gif"] == 90).all()  # the first page, the first frame
    assert (found["bit.png"] == 255).all()
    assert found["ink.jpg"][0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert found["palette.png"][0, 0].tolist() == [9, 90, 200]


def test_pictures_with_text_files_are_captions(root: Path) -> None:
    for name in ("train/x.png", "val/y.png", "train/silent.png"):
        picture(root / name)
        (root / name).with_suffix(".txt").write_text(f"\ufeffCaption of {name}.\n" if "silent" not in name else "")
    (root / "train/lonely.txt").write_text("no picture")
    (root / "train/notes.docx").write_bytes(b"x")
    (root / "train/more.zip").write_bytes(b"PK")
    (root / "train/bad.png").write_bytes((root / "a.png").read_bytes())
    (root / "train/bad.txt").write_bytes(b"\xff\xfe\xfa")
    own = OwnDataset(str(root))
    assert own.splits() == ("train", "val")
    reading = own.read("train")
    assert [(one.sample_id, one.text) for one in reading.captions] == [("own-train/x.png", "Caption of train/x.png.")]
    assert {reject.sample_id: reject.reason for reject in reading.rejects} == {
        "own-a.png": "no_text",
        "own-train/bad.png": "unreadable_text",
        "own-train/silent.png": "no_text",
        "own-train/lonely.txt": "text_without_image",
        "own-train/notes.docx": "unsupported_file",
        "own-train/more.zip": "archive",
    }
    assert [one.text for one in own.read("val").captions] == ["Caption of val/y.png."]


def test_text_and_pictures_that_lead_out_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (root / "a.txt").symlink_to(tmp_path / "secret.txt")
    picture(root / "b.png").with_suffix(".txt").write_text("fine")
    reading = OwnDataset(str(root)).read("train")
    assert [one.text for one in reading.captions] == ["fine"]
    assert [reject.reason for reject in reading.rejects] == ["path_leaves_folder"]


# --- DICOM -----------------------------------------------------------------------------------------------------------


def study(root: Path, patient: str, series: str, count: int, **elements: Any) -> None:
    """Slices whose names, numbers and positions disagree: position decides."""
    for number in range(count):
        ct_slice(
            root / f"{series}_{(number * 7) % count:02d}.dcm",
            100 + number,
            PatientID=patient,
            StudyInstanceUID=f"1.{len(patient)}",
            SeriesInstanceUID=f"1.2.{len(series)}",
            InstanceNumber=count - number,
            ImagePositionPatient=[0, 0, 5 * number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            **elements,
        )


def test_a_dicom_file_of_a_table_is_converted_with_its_facts(root: Path) -> None:
    ct_slice(root / "x.dcm", 40, PatientID="SMITH", BodyPartExamined="HEAD", BurnedInAnnotation="YES")
    table(root / "t.csv", [{**ROW, "image": "x.dcm", "question": question} for question in ("One?", "Two?")])
    reading = OwnDataset(str(root), window="brain").read("train")
    sample = reading.samples[0]
    assert (sample.image.suffix, sample.image_id, sample.group_id) == (".png", "x.dcm", "own-data-patient:0001")
    assert sample.tags == {"modality": "CT", "location": "HEAD", "window": "preset brain LINEAR 40/80"}
    assert np.asarray(open_image(sample.image))[1, 1, 0] == 129
    assert [(defect.subject, defect.reason) for defect in reading.defects] == [("x.dcm", "burnt_in_text")]


def test_the_table_knows_better_than_the_header(root: Path) -> None:
    ct_slice(root / "x.dcm", BodyPartExamined="HEAD")
    sample = read_one(root, {"image": "x.dcm", "modality": "CTA", "location": "neck", "patient": "P1"})
    assert sample.tags | {"window": ""} == {"modality": "CTA", "location": "neck", "window": ""}
    assert sample.group_id == "own-patient:P1"


def test_a_folder_of_a_table_is_the_middle_slice_of_its_largest_series(root: Path) -> None:
    study(root / "study", "a", "xy", 5)
    study(root / "study", "a", "x", 2)
    sample = read_one(root, {"image": "study"}, window=(100.0, 10.0))
    assert sample.tags["slice"] == "3 of 5"
    assert sample.tags["plane"] == "axial"
    assert np.asarray(open_image(sample.image))[1, 1, 0] == 178  # slice 102 of 100…104
    sample = read_one(root, {"image": "study"}, window=(100.0, 10.0), frame="last")
    assert np.asarray(open_image(sample.image))[1, 1, 0] == 230
    assert rejected(root, {"image": "study"}, frame=5).reason == "unreadable_image"
    (root / "empty").mkdir()
    assert rejected(root, {"image": "empty"}).reason == "no_dicom_in_folder"


def test_a_folder_of_dicom_without_a_table_is_read_by_series(tmp_path: Path) -> None:
    root = tmp_path / "studies"
    study(root / "p2" / "ct", "second", "xyz", 3)
    study(root / "p1" / "ct", "first", "xy", 2)
    study(root / "p1" / "mr", "first", "x", 1, Modality="MR")
    (root / "p1" / "ct.txt").write_text("Two slices.")
    (root / "p2" / "ct" / "report.txt").write_text("Three slices.")
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.PatientID = BasicTextSRStorage, "1.2", "first"
    write(root / "p1" / "report.dcm", report)
    reading = OwnDataset(str(root)).read("train")
    assert [(one.text, one.group_id, one.tags["slice"]) for one in reading.captions] == [
        ("Two slices.", "own-studies-patient:0001", "1 of 2"),
        ("Three slices.", "own-studies-patient:0002", "2 of 3"),
    ]
    assert sorted(reject.reason for reject in reading.rejects) == ["no_dicom_image", "no_text"]


def test_nothing_of_a_dicom_header_reaches_the_records(tmp_path: Path) -> None:
    root = tmp_path / "studies"
    study(
        root / "one", "MARKERQZ", "x", 2, PatientName="MARKERQZ", StudyDescription="MARKERQZ", ViewPosition="MARKERQZ"
    )
    (root / "one.txt").write_text("Text.")
    (root / "one" / "broken.dcm").write_bytes((root / "one" / "x_00.dcm").read_bytes()[:400])
    own = OwnDataset(str(root))
    assert "MARKER" not in repr(own.read("train")) + repr(own._dicom.slices)
    assert len(own.read("train").captions) == 1


def test_a_damaged_dicom_file_is_a_reject(root: Path) -> None:
    path = ct_slice(root / "x.dcm")
    path.write_bytes(path.read_bytes()[:-20])
    reject = rejected(root, {"image": "x.dcm"})
    assert (reject.reason, reject.malformed) == ("unreadable_image", False)
    assert "pixel data" in reject.detail
    path.write_bytes(b"")
    assert rejected(root, {"image": "x.dcm"}).reason == "unreadable_image"


def test_a_preset_that_does_not_fit_rejects_the_row_only(root: Path) -> None:
    ct_slice(root / "ct.dcm")
    ct_slice(root / "mr.dcm", Modality="MR")
    table(root / "t.csv", [{**ROW, "image": name} for name in ("ct.dcm", "mr.dcm", "a.png")])
    reading = OwnDataset(str(root), window="lung").read("train")
    assert len(reading.samples) == 2
    assert "Hounsfield" in reading.rejects[0].detail


def test_patients_are_numbered_by_path_and_without_an_id_by_study(root: Path) -> None:
    for name, patient, of_study in (
        ("a.dcm", "", "1.5"),
        ("b.dcm", "Z", "1.6"),
        ("c.dcm", "", "1.5"),
        ("d.dcm", "Z", "1.7"),
    ):
        ct_slice(root / name, PatientID=patient, StudyInstanceUID=of_study)
    table(root / "t.csv", [{**ROW, "image": f"{name}.dcm"} for name in "dcba"])
    groups = {one.image_id: one.group_id[-1] for one in OwnDataset(str(root)).read("train").samples}
    assert groups == {"a.dcm": "1", "b.dcm": "2", "c.dcm": "1", "d.dcm": "2"}


def test_dicom_inside_parquet(root: Path) -> None:
    content = ct_slice(root / "x.dcm", 40).read_bytes()
    table(root / "train.parquet", [{**ROW, "image": content}])
    (sample,) = OwnDataset(str(root), window="brain").read("train").samples
    assert np.asarray(open_image(sample.image))[1, 1, 0] == 129


def test_no_dicom_of_parquet_is_written_to_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = ct_slice(root / "x.dcm", PatientName="MARKERQZ", PatientID="MARKERQZ").read_bytes()
    (root / "x.dcm").unlink()
    table(root / "train.parquet", [{**ROW, "image": {"bytes": one, "path": ""}} for one in (content, content[:400])])
    reading = OwnDataset(str(root)).read("train")
    assert (len(reading.samples), [one.reason for one in reading.rejects]) == (1, ["unreadable_image"])
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept and not any(b"MARKER" in path.read_bytes() for path in kept)
    assert "MARKER" not in repr(reading)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "cache").rglob("*") if path.is_dir())


def groups(own: OwnDataset, split: Any = "train") -> list[str]:
    reading = own.read(split)
    assert not reading.rejects
    return [one.group_id for one in reading.samples]


def test_the_patient_of_dicom_is_known_wherever_the_file_lies(root: Path) -> None:
    content = ct_slice(root / "a.dcm", PatientID="Z").read_bytes()
    ct_slice(root / ".hidden" / "b.dcm", PatientID="Z")
    ct_slice(root / ".hidden" / "c.dcm", PatientID="Y")
    (root / "link").symlink_to(root / ".hidden")
    names = ["a.dcm", ".hidden/b.dcm", "link/b.dcm", "link/c.dcm", ".hidden", "link"]
    table(root / "train.jsonl", [{**ROW, "image": name} for name in names])
    table(root / "val.parquet", [{**ROW, "image": content}])
    one, two = "own-data-patient:0001", "own-data-patient:0002"
    assert groups(OwnDataset(str(root)))[:4] == [one, one, one, two]
    assert groups(OwnDataset(str(root)), "val") == [one]


def test_patients_have_the_same_number_whichever_split_is_read_first(root: Path) -> None:
    for name, patient in (("train", "first"), ("val", "second")):
        content = ct_slice(root / "x.dcm", PatientID=patient).read_bytes()
        (root / "x.dcm").unlink()
        table(root / f"{name}.parquet", [{**ROW, "image": content}])
    assert groups(OwnDataset(str(root)), "val") == ["own-data-patient:0002"]
    assert groups(OwnDataset(str(root)), "train") == ["own-data-patient:0001"]


def test_a_file_without_patient_joins_the_patient_of_its_study(root: Path) -> None:
    ct_slice(root / "a.dcm", PatientID="", StudyInstanceUID="1.5")
    ct_slice(root / "b.dcm", PatientID="Z", StudyInstanceUID="1.5")
    ct_slice(root / "c.dcm", PatientID="Z", StudyInstanceUID="1.6")
    ct_slice(root / "d.dcm", PatientID="Y", StudyInstanceUID="1.6")
    table(root / "t.csv", [{**ROW, "image": f"{name}.dcm"} for name in "abcd"])
    assert [group[-1] for group in groups(OwnDataset(str(root)))] == ["1", "1", "1", "2"]


def test_dicom_that_names_no_patient_is_told(root: Path) -> None:
    ct_slice(root / "a.dcm", PatientID="", StudyInstanceUID="")
    table(root / "t.csv", [{**ROW, "image": "a.dcm"}, {**ROW, "image": "a.dcm"}])
    reading = OwnDataset(str(root)).read("train")
    assert [(one.subject, one.reason) for one in reading.defects] == [("a.dcm", "patient_unknown")]
    assert reading.samples[0].group_id == "own-data-image:a.dcm"


# --- groups ----------------------------------------------------------------------------------------------------------


def test_a_number_is_the_same_group_in_every_table(root: Path) -> None:
    table(root / "train.parquet", [{**ROW, "patient": 7}])
    table(root / "val.parquet", [{**ROW, "patient": 7.0}])
    table(root / "test.csv", [{**ROW, "patient": "7.0"}])
    own = OwnDataset(str(root))
    assert {group for split in own.splits() for group in groups(own, split)} == {"own-patient:7"}


def test_a_patient_and_a_case_of_one_number_are_two_groups(root: Path) -> None:
    table(root / "t.csv", [{**ROW, "patient": "1", "case": "2"}, {**ROW, "patient": "", "case": "1"}])
    assert groups(OwnDataset(str(root))) == ["own-patient:1", "own-case:1"]


def test_a_case_alone_is_of_the_patient_that_another_row_names(root: Path) -> None:
    table(root / "train.csv", [{**ROW, "case": "c1"}])
    table(root / "val.jsonl", [{**ROW, "patient": "p1", "case": "c1"}, {**ROW, "group": "g", "patient": "p1"}])
    own = OwnDataset(str(root))
    assert groups(own) == groups(own, "val")[:1] == ["own-group:g"]


@pytest.mark.parametrize("name", ["MRN", "pat_id", "patientid", "PatientID"])
def test_patients_under_their_usual_names(root: Path, name: str) -> None:
    assert read_one(root, {name: "7"}).group_id == "own-patient:7"


def test_default_groups_of_two_folders_do_not_meet(tmp_path: Path) -> None:
    found = []
    for name in ("here", "there"):
        picture(tmp_path / name / "a.png")
        ct_slice(tmp_path / name / "x.dcm", PatientID=name)
        table(tmp_path / name / "t.csv", [ROW, {**ROW, "image": "x.dcm"}])
        found += groups(OwnDataset(str(tmp_path / name)))
    assert len(set(found)) == 4


def test_that_images_are_their_own_groups_is_told_once(root: Path) -> None:
    table(root / "t.csv", [ROW, ROW])
    assert [one.reason for one in OwnDataset(str(root)).defects()] == ["group_is_image"]
    table(root / "t.csv", [{**ROW, "patient": "1"}, {**ROW, "patient": ""}])
    (defect,) = OwnDataset(str(root)).defects()
    assert "row 2" in defect.where
    ct_slice(root / "x.dcm")
    table(root / "t.csv", [{**ROW, "patient": "1"}, {**ROW, "patient": "", "image": "x.dcm"}])
    assert not list(OwnDataset(str(root)).defects())


# --- tables that cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val.csv", "val.parquet", "val/metadata.jsonl"])
@pytest.mark.parametrize("content", [b"", b"PAR1 damaged", b"picture,ask\n1,2\n"])
def test_a_table_of_a_split_that_cannot_be_read_is_an_error(root: Path, name: str, content: bytes) -> None:
    table(root / "train.csv", [ROW])
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        OwnDataset(str(root))
    assert str(root / name) in str(caught.value.where)


def test_other_tables_left_out_are_told(root: Path) -> None:
    table(root / "train.csv", [{**ROW, "patient": "1"}])
    (root / "config.json").write_text("{}")
    (root / "a.json").write_text("[]")
    own = OwnDataset(str(root))
    assert [(one.subject, one.reason) for one in own.defects()] == [
        ("a.json", "table_skipped"),
        ("config.json", "table_skipped"),
    ]


def test_a_damaged_parquet_says_so(root: Path) -> None:
    (root / "table.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match="damaged"):
        OwnDataset(str(root))


def test_a_table_file_as_root_tells_its_split(root: Path) -> None:
    assert OwnDataset(str(table(root / "test.csv", [ROW]))).splits() == ("test",)


def test_a_row_of_no_known_split_is_told_once(root: Path) -> None:
    lines = ["image,question,answer,split", "a.png,A?,yes,train", "a.png,B?,yes,val", "a.png,C?,yes,holdout", "a.png"]
    (root / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = OwnDataset(str(root))
    found = {split: [one.reason for one in own.read(split).rejects] for split in own.splits()}
    assert found == {"train": ["other_split", "unknown_split", "wrong_columns"], "val": ["other_split"]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_not_waited_for(root: Path) -> None:
    for name in ("pipe", "x.dcm", "b.png", "b.txt", "c.csv"):
        os.mkfifo(root / name)
    (root / "a.txt").write_text("Text.")
    own = OwnDataset(str(root))
    assert len(own.read("train").captions) == 1
    assert own.sources() == (root / "a.txt",)
    assert rejected(root, {"image": "x.dcm"}).reason == "missing_image"


# --- what is there, and what is not ----------------------------------------------------------------------------------


def test_folders_without_own_data_are_refused(tmp_path: Path) -> None:
    def refused(root: Path, match: str) -> DataError:
        with pytest.raises(DataError, match=match) as caught:
            OwnDataset(str(root))
        assert caught.value.fix and not OwnDataset.recognises(root)
        return caught.value

    refused(tmp_path / "absent", "not at this place")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty", "not at this place").got == "an empty folder"
    (tmp_path / "x.zip").write_bytes(b"PK")
    assert "unpack it first" in str(refused(tmp_path / "x.zip", "archive").fix)
    assert "unpack it first" in str(refused(tmp_path, "archive").fix)
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    refused(tmp_path / "x.xlsx", "not at this place")
    picture(tmp_path / "only" / "a.png")
    refused(tmp_path / "only", "no own data")


def test_own_data_are_recognised(root: Path) -> None:
    assert not OwnDataset.recognises(root)
    path = table(root / "t.jsonl", [ROW])
    assert OwnDataset.recognises(root) and OwnDataset.recognises(path)
    path.write_text("{")
    assert not OwnDataset.recognises(root)
    (root / "a.txt").write_text("Caption.")
    assert OwnDataset.recognises(root)
    ct_slice(root.parent / "dicom" / "IM0001")
    assert OwnDataset.recognises(root.parent / "dicom")


def test_columns_and_roles(root: Path) -> None:
    path = table(root / "t.jsonl", [{"image": "a"}, {"caption": "b"}])
    assert columns_of(path) == ("image", "caption")
    assert roles_of(["Image Path", "Report"], path, given={}) == {"image": "Image Path", "caption": "Report"}
    spellings = [name.replace("_", "") for names in ROLES.values() for name in names]
    assert len(spellings) == len(set(spellings))


VALUES = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.text(max_size=20),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["a.png", "train", "val", "x.dcm"]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(list(ROLES)), VALUES, max_size=8), min_size=1, max_size=4))
def test_every_row_gives_a_record_or_a_reject(root: Path, rows: list[dict[str, Any]]) -> None:
    ct_slice(root / "x.dcm")
    (root / "table.json").write_text(json.dumps([ROW, *rows]), encoding="utf-8")
    own = OwnDataset(str(root))
    for split in own.splits():
        items = [item for item in own.records(split) if not isinstance(item, Defect)]
        assert len(items) <= len(rows) + 1
        if split == own.splits()[0]:
            assert len(items) == len(rows) + 1
    assert all(isinstance(defect, Defect) for defect in own.defects())


def test_the_page_on_own_data_lists_every_window_role_option_and_tag() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        assert f"| `{name}` | {preset.centre:g} | {preset.width:g} |" in page
    for name in (*ROLES, *(set(inspect.signature(OwnDataset).parameters) - {"columns", "root", "table"})):
        assert f"`{name}`" in page, name
    letters = page.replace(" ", "").replace("\n", "").lower()
    assert all(keyword.lower() in letters for keyword in ALLOWED_TAGS)
