import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_rows import assert_writable, mutations
from pmc_vqa_folder import FIGURE, row, second_row, write_csv, write_images, write_parquet

from radvqa.data import open_dataset
from radvqa.data.adapter import Reading
from radvqa.data.adapters.pmc_vqa import PmcVqaDataset, _records
from radvqa.data.tables import Row, items_of
from radvqa.errors import DataError, RecipeError
from radvqa.sample import Reject, VqaSample


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "PMC-VQA"
    write_csv(folder / "train.csv", [row(), row(Figure_path="PMC2_Fig3_4.jpg", Question="What, then?")])
    write_csv(folder / "test.csv", [row(), row()])
    write_csv(folder / "test_clean.csv", [row()])
    write_images(folder / "images", [FIGURE, "PMC2_Fig3_4.jpg"])
    return folder


def read_one(root: Path, **changes: Any) -> Reading:
    write_csv(root / "train.csv", [row(**changes)])
    return PmcVqaDataset(str(root)).read("train")


def test_rows_become_samples_in_file_order(root: Path) -> None:
    dataset = open_dataset("pmc_vqa", {"root": str(root)})
    assert dataset.splits() == ("train", "test")
    assert dataset.sources() == (root / "train.csv", root / "test.csv")
    first, second = dataset.read("train").samples
    assert first == VqaSample(
        sample_id="pmcvqa-train.csv:1",
        image_id="PMC1064097_F1",
        image=root / "images" / FIGURE,
        question="What is the uptake pattern in the breast?",
        answers=("Focal uptake",),
        answer_type="closed",
        answer_type_stated=False,
        choices=("Diffuse uptake", "Focal uptake", "No uptake", "Cannot determine"),
        group_id="PMC1064097",
        split="train",
    )
    assert (second.sample_id, second.group_id, second.question) == ("pmcvqa-train.csv:2", "PMC2", "What, then?")


def test_the_checked_test_split_is_read_on_request(root: Path) -> None:
    dataset = PmcVqaDataset(str(root), clean=True)
    assert [sample.sample_id for sample in dataset.read("test").samples] == ["pmcvqa-test_clean.csv:1"]
    assert dataset.splits() == ("train", "test")
    (root / "train.csv").unlink()
    (root / "test.csv").unlink()
    assert PmcVqaDataset(str(root), clean=True).splits() == ("test",)


def test_the_second_version_is_read_where_it_is_alone_or_asked_for(root: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    write_csv(alone / "train_2.csv", [second_row()])
    write_images(alone / "figures")
    reading = PmcVqaDataset(str(alone)).read("train")
    assert reading.samples[0].sample_id == "pmcvqa-train_2.csv:1"
    assert reading.samples[0].answers == ("Focal uptake",)
    assert reading.samples[0].choices[0] == "Diffuse uptake"
    assert reading.defects == ()
    shutil.copy(alone / "train_2.csv", root / "train_2.csv")
    assert [path.name for path in PmcVqaDataset(str(root)).sources()] == ["train.csv", "test.csv"]
    assert [path.name for path in PmcVqaDataset(str(root), version=2).sources()] == ["train_2.csv"]


def test_a_figure_without_an_article_number_is_its_own_group(root: Path) -> None:
    write_images(root / "images", ["fig7.jpg"])
    assert read_one(root, Figure_path="fig7.jpg").samples[0].group_id == "fig7"


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"Answer": "focal  uptake"}, []),
        ({"Answer": "B:Focal uptake"}, []),
        ({"Answer": "B"}, []),
        ({"Answer": "Something else"}, ["answer_is_no_choice"]),
        ({"Choice B": "Focal uptake"}, ["choice_without_letter"]),
        ({"Choice D": "D:"}, ["empty_choice"]),
        ({"Choice D": ""}, ["empty_choice"]),
        ({"Choice D": "D:Diffuse uptake"}, ["repeated_choice"]),
        ({"Choice D": "A:Other"}, ["choice_without_letter"]),
    ],
)
def test_what_is_odd_but_usable_is_reported(root: Path, changes: dict[str, str], reasons: list[str]) -> None:
    reading = read_one(root, **changes)
    assert [sample.answers for sample in reading.samples] == [("Focal uptake",)]
    assert [defect.reason for defect in reading.defects] == reasons
    assert all(defect.where == f"{root / 'train.csv'}, row 1 (line 2)" for defect in reading.defects)
    assert len(reading.samples[0].choices) == 4 - ("empty_choice" in reasons)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Answer": "No uptake"}, "conflicting_answer"),
        ({"Answer": "C"}, "conflicting_answer"),
        ({"Answer": "C: No uptake"}, "conflicting_answer"),
        ({"Answer_label": "E"}, "unknown_value"),
        ({"Answer_label": ""}, "empty_value"),
        ({"Answer": ""}, "empty_value"),
        ({"Choice B": "B:"}, "empty_value"),
        ({"Question": " "}, "empty_value"),
        ({"Question": "\udce4"}, "not_unicode"),
        ({"Question": "x" * 100_001}, "too_long"),
        ({"Figure_path": "../x.jpg"}, "path_leaves_folder"),
        ({"Figure_path": "/x.jpg"}, "path_leaves_folder"),
        ({"Figure_path": "C:\\x.jpg"}, "path_leaves_folder"),
        ({"Figure_path": "x\0.jpg"}, "path_leaves_folder"),
    ],
)
def test_a_malformed_row_is_a_reject(root: Path, changes: dict[str, str], reason: str) -> None:
    write_csv(root / "train.csv", [row(), row(**changes), row()])
    reading = PmcVqaDataset(str(root)).read("train")
    assert [sample.sample_id for sample in reading.samples] == ["pmcvqa-train.csv:1", "pmcvqa-train.csv:3"]
    assert [(one.reason, one.malformed) for one in reading.rejects] == [(reason, True)]
    assert ", row 2 (line 3)" in reading.rejects[0].where


def test_a_missing_picture_and_a_linked_one_are_rejects(root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "outside")
    (root / "images" / "PMC9_F1.jpg").symlink_to(tmp_path / "outside" / FIGURE)
    assert read_one(root, Figure_path="PMC9_F1.jpg").rejects[0].reason == "path_leaves_folder"
    assert read_one(root, Figure_path="PMC8_F1.jpg").rejects[0].reason == "missing_image"


@pytest.mark.parametrize("label", ["a", "E", "AB", "1"])
def test_the_second_version_needs_a_letter(tmp_path: Path, label: str) -> None:
    write_csv(tmp_path / "train_2.csv", [second_row(Answer=label)])
    write_images(tmp_path / "figures")
    assert [one.reason for one in PmcVqaDataset(str(tmp_path)).read("train").rejects] == ["unknown_value"]


@settings(max_examples=200, deadline=None)
@given(broken=st.one_of(mutations(row()), mutations(second_row())))
def test_every_row_becomes_one_record_or_one_reject(broken: object) -> None:
    """Any values, as a Parquet copy could hold them."""
    if not isinstance(broken, dict):
        return
    rows = [Row("here", "train:1", broken)]
    items = list(items_of(rows, lambda one: _records(one, "train", image=Path("x.png"), image_id="x")))
    assert sum(isinstance(item, VqaSample | Reject) for item in items) == 1


TEXTS = st.text(alphabet='ABCDE:,;"\n\r\t xé\0', max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(sorted(row())), TEXTS, max_size=4))
def test_every_row_of_a_csv_file_becomes_one_record_or_one_reject(root: Path, values: dict[str, str]) -> None:
    write_csv(root / "train.csv", [row(**values), row()])
    reading = PmcVqaDataset(str(root)).read("train")
    assert len(reading.samples) + len(reading.rejects) == 2
    assert_writable([*reading.samples, *reading.rejects, *reading.defects])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 500), noise=st.binary(max_size=20))
def test_a_damaged_file_gives_rejects_or_a_data_error(root: Path, cut: int, noise: bytes) -> None:
    content = write_csv(root / "train.csv", [row(), row()]).read_bytes()
    (root / "train.csv").write_bytes(content[:cut] + noise + content[cut:])
    try:
        reading = PmcVqaDataset(str(root)).read("train")
    except DataError as error:
        assert error.where
    else:
        assert_writable([*reading.samples, *reading.rejects, *reading.defects])


def test_parquet_copies_are_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [row(), row(Answer_label="X")])
    assert PmcVqaDataset.recognises(tmp_path)
    dataset = PmcVqaDataset(str(tmp_path))
    assert (dataset.splits(), dataset.sources()) == (("train",), (path,))
    reading = dataset.read("train")
    assert reading.samples[0].sample_id == "pmcvqa-train-00000-of-00001.parquet:1"
    assert reading.samples[0].answers == ("Focal uptake",)
    assert reading.samples[0].group_id == reading.samples[0].image_id
    assert [(one.where, one.reason) for one in reading.rejects] == [(f"{path}, row 2", "unknown_value")]
    with pytest.raises(RecipeError, match="no checked test split"):
        PmcVqaDataset(str(tmp_path), clean=True)


@pytest.mark.parametrize("state", ["absent", "file", "empty", "other columns", "empty table", "no images", "packed"])
def test_a_folder_without_pmc_vqa_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "data"
    if state == "file":
        folder.write_text("x")
    elif state != "absent":
        folder.mkdir()
    if state == "other columns":
        write_csv(folder / "train.csv", [{"image": "a", "Question": "b"}])
    elif state == "empty table":
        (folder / "train.csv").write_text("")
    elif state in ("no images", "packed"):
        write_csv(folder / "train.csv", [row()])
    if state == "packed":
        (folder / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError) as caught:
        PmcVqaDataset(str(folder))
    assert caught.value.where == str(folder)
    assert caught.value.got and caught.value.expected and caught.value.fix
    assert ("still packed" in caught.value.got) == (state == "packed")
    assert PmcVqaDataset.recognises(folder) == (state in ("no images", "packed"))


def test_an_image_folder_linked_from_outside_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "images", tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leaves the data folder"):
        PmcVqaDataset(str(root))


def test_impossible_options_are_refused(root: Path) -> None:
    with pytest.raises(RecipeError, match="no version 3"):
        PmcVqaDataset(str(root), version=3)
    with pytest.raises(RecipeError, match="no checked test split"):
        PmcVqaDataset(str(root), version=2, clean=True)
    with pytest.raises(DataError, match=r"train_2\.csv"):
        PmcVqaDataset(str(root), version=2)
    with pytest.raises(DataError, match="'val'"):
        PmcVqaDataset(str(root)).read("val")
