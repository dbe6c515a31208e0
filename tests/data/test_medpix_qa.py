import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medpix_folder import picture, question, write_csv, write_medpix, write_parquet
from mutated_rows import mutations

from radvqa.data import open_dataset
from radvqa.data.adapter import Reading
from radvqa.data.adapters.medpix_qa import MedPixQaDataset
from radvqa.data.tables import Row
from radvqa.errors import DataError, RecipeError
from radvqa.records import write_records
from radvqa.sample import VqaSample

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SHORT_QA, MEDPIX, HUB = SHARED / "medpix_shortqa", SHARED / "medpix2" / "MedPix-2-0", SHARED / "hf_samples"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    names = ["MPX1_synpic1", "MPX3_synpic1"]
    return write_medpix(tmp_path / "MedPix-2-0", {}, images=names) / "images"


@pytest.fixture
def official(tmp_path: Path) -> Path:
    path = tmp_path / "uid_list.json"
    path.write_text(json.dumps({"train": ["MPX1"], "train_1": ["MPX1"], "dev": ["MPX3"]}))
    return path


def of_csv(images: Path, *rows: dict[str, Any], **options: str) -> MedPixQaDataset:
    path = write_csv(images.parent.parent / "qa" / "dataset_sa.csv", rows)
    return MedPixQaDataset(str(path), images=str(images), **options)


def reasons(reading: Reading) -> list[str]:
    return [defect.reason for defect in reading.defects]


def test_a_row_becomes_a_sample(images: Path, official: Path) -> None:
    root = write_csv(images.parent.parent / "qa" / "dataset_sa.csv", [question()]).parent
    dataset = open_dataset("medpix_qa", {"root": str(root), "images": str(images), "official": str(official)})
    reading = dataset.read("train")
    assert reading.samples == (
        VqaSample(
            sample_id="medpix_qa-dataset_sa.csv:1",
            image_id="MPX1_synpic1",
            image=images / "MPX1_synpic1.png",
            question="What is shown?",
            answers=("A bladder.",),
            answer_type="open",
            answer_type_stated=False,
            group_id="MPX1",
            split="train",
            tags={"mode": "alignment"},
        ),
    )
    assert reading.defects == ()
    assert dataset.sources() == (root / "dataset_sa.csv",)


def test_yes_and_no_are_inferred_as_closed(images: Path) -> None:
    (sample,) = of_csv(images, question(answer="Yes.")).read("train").samples
    assert (sample.answer_type, sample.answer_type_stated) == ("closed", False)


def test_the_official_split_replaces_the_published_one(images: Path, official: Path) -> None:
    rows = [
        question(),
        question(image_id="sample/MPX3_synpic1.png", case_id="MPX3"),
        question(case_id="MPX5"),
    ]
    dataset = of_csv(images, *rows, official=str(official))
    assert dataset.splits() == ("train", "val")
    reading = dataset.read("val")
    assert [(sample.group_id, sample.split) for sample in reading.samples] == [("MPX3", "val")]
    assert [(reject.sample_id, reject.reason, reject.malformed) for reject in reading.rejects] == [
        ("medpix_qa-dataset_sa.csv:1", "other_split", False),
        ("medpix_qa-dataset_sa.csv:3", "case_in_no_split", False),
    ]
    (defect,) = reading.defects
    assert (defect.subject, defect.reason) == ("medpix_qa-dataset_sa.csv:2", "foreign_split")
    assert "published split is train, the official one val" in defect.detail


def test_without_the_list_the_published_split_is_used_with_a_warning(images: Path) -> None:
    dataset = of_csv(images, question(), question(split="Valid"), question(split="Test"))
    assert dataset.splits() == ("train", "val", "test")
    reading = dataset.read("val")
    assert [sample.sample_id for sample in reading.samples] == ["medpix_qa-dataset_sa.csv:2"]
    assert [reject.reason for reject in reading.rejects] == ["other_split", "other_split"]
    assert reasons(reading) == ["crosses_official_split"]


def test_numbers_in_front_are_taken_off_and_reported(images: Path, official: Path) -> None:
    reading = of_csv(
        images,
        question(question="Q12: What?", answer="A12: Thing."),
        question(answer="A1 is fine"),
        official=str(official),
    ).read("train")
    assert [(sample.question, sample.answers) for sample in reading.samples] == [
        ("What?", ("Thing.",)),
        ("What is shown?", ("A1 is fine",)),
    ]
    assert reasons(reading) == ["prefix_in_text", "prefix_in_text"]
    assert [defect.detail.split(":")[0] for defect in reading.defects] == ["question", "answer"]


def test_a_row_with_nothing_but_a_number_is_rejected(images: Path) -> None:
    (reject,) = of_csv(images, question(answer=" A1: ")).read("train").rejects
    assert (reject.reason, reject.malformed) == ("empty_value", True)


def test_white_space_is_mended_and_reported(images: Path, official: Path) -> None:
    row = question(question=" What?", answer="Cyst\nTumor\n\nAbscess")
    reading = of_csv(images, row, official=str(official)).read("train")
    assert [(sample.question, sample.answers) for sample in reading.samples] == [("What?", ("Cyst Tumor Abscess",))]
    assert reasons(reading) == ["white_space_in_question", "white_space_in_answer"]


def test_a_picture_of_another_case_is_reported(images: Path, official: Path) -> None:
    row = question(image_id="sample/MPX3_synpic1.png")
    assert reasons(of_csv(images, row, official=str(official)).read("train")) == ["image_of_other_case"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("/", "empty_value"), ("C:", "empty_value"), ("\0", "path_leaves_folder"), ("..", "missing_image")],
)
def test_a_path_that_names_no_picture_is_rejected(images: Path, name: str, reason: str) -> None:
    (reject,) = of_csv(images, question(image_id=name)).read("train").rejects
    assert reject.reason == reason


def test_only_the_name_of_the_picture_counts(images: Path) -> None:
    (sample,) = of_csv(images, question(image_id="/home/x/../MPX1_synpic1.png")).read("train").samples
    assert sample.image == images / "MPX1_synpic1.png"


def test_shortqa_of_the_hub_holds_its_pictures(tmp_path: Path, official: Path) -> None:
    row = {**question(), "image_id": picture(name="MPX1_synpic1.png"), "split": "Valid"}
    write_parquet(tmp_path / "hub" / "data" / "Valid-00000-of-00001.parquet", [row])
    published = MedPixQaDataset(str(tmp_path / "hub"))
    assert published.splits() == ("val",)
    (sample,) = published.read("val").samples
    assert (sample.image_id, sample.image.is_file()) == ("MPX1_synpic1", True)
    assert sample.image.read_bytes() == row["image_id"]["bytes"]
    reading = MedPixQaDataset(str(tmp_path / "hub"), official=str(official)).read("train")
    assert [sample.split for sample in reading.samples] == ["train"]
    assert reasons(reading) == ["foreign_split"]


def test_clinqa_of_the_hub_holds_plain_bytes(tmp_path: Path, official: Path) -> None:
    rows = [
        {
            "case_id": "MPX1",
            "question": "What?",
            "answer": "Cyst.",
            "image": picture()["bytes"],
            "mode": "x",
            "image_id": i,
        }
        for i in ("MPX1_synpic1", None)
    ]
    write_parquet(tmp_path / "train.parquet", rows)
    samples = MedPixQaDataset(str(tmp_path / "train.parquet"), official=str(official)).read("train").samples
    assert samples[0].image_id == "MPX1_synpic1"
    assert samples[1].image_id == f"medpix_qa-{samples[1].image.stem[:16]}"


def test_options_that_do_not_fit_the_layout_are_refused(tmp_path: Path, images: Path) -> None:
    table = write_csv(tmp_path / "qa" / "dataset_sa.csv", [question()])
    with pytest.raises(RecipeError, match="the option images"):
        MedPixQaDataset(str(table))
    parquet = write_parquet(tmp_path / "train.parquet", [{**question(), "image_id": picture()}])
    with pytest.raises(RecipeError, match="hold their pictures"):
        MedPixQaDataset(str(parquet), images=str(images))
    with pytest.raises(DataError, match="pictures is not there"):
        MedPixQaDataset(str(table), images=str(tmp_path / "none"))


def test_a_list_with_a_case_in_two_splits_is_refused(images: Path, official: Path) -> None:
    official.write_text(json.dumps({"train": ["MPX1"], "dev": ["MPX1"]}))
    with pytest.raises(DataError, match="two official splits"):
        of_csv(images, question(), official=str(official))


def test_an_absent_split_is_refused(images: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'"):
        of_csv(images, question()).read("test")


@pytest.mark.parametrize("state", ["absent", "empty", "other table", "two tables"])
def test_a_place_without_the_questions_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "qa"
    if state == "empty":
        folder.mkdir()
    elif state == "other table":
        write_csv(folder / "x.csv", [{"question": "a"}])
    elif state == "two tables":
        for name in ("a.csv", "b.csv"):
            write_csv(folder / name, [question()])
    with pytest.raises(DataError) as caught:
        MedPixQaDataset(str(folder))
    assert caught.value.got and caught.value.fix
    assert not MedPixQaDataset.recognises(folder)


def test_the_layouts_are_recognised(tmp_path: Path) -> None:
    assert MedPixQaDataset.recognises(write_csv(tmp_path / "a" / "dataset_sa.csv", [question()]).parent)
    row = {**question(), "image_id": picture()}
    assert MedPixQaDataset.recognises(write_parquet(tmp_path / "train.parquet", [row]))
    assert not MedPixQaDataset.recognises(tmp_path / "none")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations(question()))
def test_every_row_becomes_one_record_or_one_reject(images: Path, official: Path, broken: object) -> None:
    values = broken if isinstance(broken, dict) else {"x": broken}
    path = write_csv(images.parent.parent / "qa" / "dataset_sa.csv", [values], columns=list(question()))
    reading = MedPixQaDataset(str(path), images=str(images), official=str(official)).read("train")
    assert len(reading.samples) + len(reading.rejects) == (1 if values else 0)
    write_records(path.with_name("x"), [*reading.samples, *reading.rejects, *reading.defects])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations({**question(), "image_id": picture(name="MPX1_synpic1.png")}))
def test_every_parquet_row_becomes_one_record_or_one_reject(tmp_path: Path, official: Path, broken: object) -> None:
    path = write_parquet(tmp_path / "train.parquet", [{**question(), "image_id": picture()}])
    values = broken if isinstance(broken, dict) else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "radvqa.data.adapters.medpix_qa.read_parquet", lambda file: iter([Row("f, row 1", "f:1", values)])
        )
        reading = MedPixQaDataset(str(path), official=str(official)).read("train")
    assert len(reading.samples) + len(reading.rejects) == 1
    write_records(tmp_path / "x", [*reading.samples, *reading.rejects, *reading.defects])


needs_short_qa = pytest.mark.skipif(
    not (SHORT_QA.is_dir() and MEDPIX.is_dir()), reason="MEDPIX-ShortQA or MedPix 2.0 is not under shared/data"
)


@needs_short_qa
def test_the_published_questions_fall_into_the_official_splits() -> None:
    options = {"images": str(MEDPIX / "images"), "official": str(MEDPIX / "splitted_dataset" / "uid_list.json")}
    dataset = MedPixQaDataset(str(SHORT_QA), **options)
    readings = [dataset.read("train"), dataset.read("val")]
    assert [len(reading.samples) for reading in readings] == [10_695, 1_250]
    assert [Counter(reject.reason for reject in reading.rejects) for reading in readings] == [
        {"other_split": 1_250},
        {"other_split": 10_695},
    ]
    kinds = Counter(
        (defect.reason, defect.detail.split(":")[0] if defect.reason == "prefix_in_text" else "")
        for reading in readings
        for defect in reading.defects
    )
    assert kinds == {
        ("prefix_in_text", "question"): 255,
        ("prefix_in_text", "answer"): 175,
        ("white_space_in_question", ""): 3_350,
        ("white_space_in_answer", ""): 1_855,
        ("foreign_split", ""): 2_465,
    }
    modes = Counter(sample.tags["mode"] for reading in readings for sample in reading.samples)
    assert modes == {"alignment": 9_250, "pre_training": 2_695}


@pytest.mark.skipif(not HUB.is_dir(), reason="samples of hub files are not under shared/data")
@pytest.mark.parametrize(("name", "split"), [("Train", "train"), ("Valid", "val")])
def test_published_parquet_files_are_read(name: str, split: str) -> None:
    reading = MedPixQaDataset(str(HUB / f"adishourya__MEDPIX-ShortQA.{name}.parquet")).read(split)  # type: ignore[arg-type]
    assert (len(reading.samples), len(reading.rejects)) == (10, 0)
    assert all(sample.image_id.startswith(sample.group_id) for sample in reading.samples)


@pytest.fixture(scope="module")
def published_rows() -> list[dict[str, str]]:
    with (SHORT_QA / "dataset_sa.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@needs_short_qa
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_published_row_that_was_damaged_becomes_one_record_or_one_reject(
    tmp_path: Path, published_rows: list[dict[str, str]], data: st.DataObject
) -> None:
    broken = data.draw(st.sampled_from(published_rows).flatmap(mutations))
    values = broken if isinstance(broken, dict) and broken else {"x": broken}
    path = write_csv(tmp_path / "dataset_sa.csv", [values], columns=list(question()))
    dataset = MedPixQaDataset(
        str(path),
        images=str(MEDPIX / "images"),
        official=str(MEDPIX / "splitted_dataset" / "uid_list.json"),
    )
    reading = dataset.read("train")
    assert len(reading.samples) + len(reading.rejects) == 1
