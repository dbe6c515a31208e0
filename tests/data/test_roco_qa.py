import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medpix_folder import picture, question, write_parquet
from mutated_rows import mutations
from roco_folder import write_picture, write_roco

from radvqa.data import open_dataset
from radvqa.data.adapters.roco_qa import RocoQaDataset
from radvqa.data.tables import Row
from radvqa.errors import DataError, RecipeError
from radvqa.records import write_records
from radvqa.sample import VqaSample

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ROCO, HUB = SHARED / "roco", SHARED / "hf_samples" / "adishourya__ROCO-QA.rows.parquet"
TEST_ROW = {"image_id": "ROCO_00001", "question": "Which plane?", "answer": "Axial CT."}
VALID_ROW = {"image_id": "ROCO_00001", "original caption": "Axial  CT.", "qa_pair": "Is this a CT?"}
HUB_ROW = {**TEST_ROW, "image": picture()}


def write_list(folder: Path, name: str, rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_captions_qa_pairs_output.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_picture(tmp_path / "images" / "ROCO_00001.jpg").parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_list(tmp_path / "qa", "test", [TEST_ROW])
    return write_list(tmp_path / "qa", "valid", [VALID_ROW, {**VALID_ROW, "image_id": "ROCO_00002"}]).parent


def test_a_validation_row_has_its_caption_as_answer(root: Path, pictures: Path) -> None:
    reading = open_dataset("roco_qa", {"root": str(root), "images": str(pictures)}).read("val")
    assert reading.samples == (
        VqaSample(
            sample_id="roco_qa-valid_captions_qa_pairs_output.json:1",
            image_id="ROCO_00001",
            image=pictures / "ROCO_00001.jpg",
            question="Is this a CT?",
            answers=("Axial CT.",),
            answer_type="open",
            answer_type_stated=False,
            group_id="ROCO_00001",
            split="val",
        ),
    )
    assert [(reject.reason, reject.malformed) for reject in reading.rejects] == [("missing_image", False)]
    assert [defect.reason for defect in reading.defects] == [
        "no_articles",
        "white_space_in_answer",
        "white_space_in_answer",
    ]


def test_a_test_row_has_a_question_and_an_answer(root: Path, pictures: Path) -> None:
    dataset = RocoQaDataset(str(root), images=str(pictures))
    assert dataset.splits() == ("val", "test")
    (sample,) = dataset.read("test").samples
    assert (sample.question, sample.answers, sample.split) == ("Which plane?", ("Axial CT.",), "test")


def test_the_article_is_the_group_where_roco_itself_is_given(root: Path, tmp_path: Path) -> None:
    roco = write_roco(tmp_path / "roco-dataset")
    reading = RocoQaDataset(str(root), images=str(roco)).read("val")
    assert [(sample.group_id, sample.image) for sample in reading.samples] == [
        ("PMC11", roco / "data/validation/radiology/images/ROCO_00001.jpg"),
        ("PMC22", roco / "data/validation/radiology/images/ROCO_00002.jpg"),
    ]
    assert "no_articles" not in [defect.reason for defect in reading.defects]


def test_the_misspelt_split_of_the_hub_is_read(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "data" / "Vaild-00000-of-00001.parquet", [HUB_ROW])
    dataset = RocoQaDataset(str(tmp_path))
    assert (dataset.splits(), dataset.sources()) == (("val",), (file,))
    (sample,) = dataset.read("val").samples
    assert (sample.image_id, sample.image.read_bytes()) == ("ROCO_00001", HUB_ROW["image"]["bytes"])  # type: ignore[index]


def test_options_that_do_not_fit_the_layout_are_refused(root: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="need the option images"):
        RocoQaDataset(str(root))
    with pytest.raises(RecipeError, match="hold their pictures"):
        RocoQaDataset(str(write_parquet(tmp_path / "train.parquet", [HUB_ROW])), images=str(pictures))
    with pytest.raises(DataError, match="pictures is not there"):
        RocoQaDataset(str(root), images=str(tmp_path / "none"))


def test_an_id_that_is_none_of_roco_is_rejected(root: Path, pictures: Path) -> None:
    write_list(root, "test", [{**TEST_ROW, "image_id": "../ROCO_00001"}, TEST_ROW])
    reading = RocoQaDataset(str(root), images=str(pictures)).read("test")
    assert [(reject.reason, reject.malformed) for reject in reading.rejects] == [("unknown_value", True)]
    assert len(reading.samples) == 1


def test_a_link_out_of_the_folder_is_refused(root: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "ROCO_00001.jpg").rename(tmp_path / "outside.jpg")
    (pictures / "ROCO_00001.jpg").symlink_to(tmp_path / "outside.jpg")
    (reject,) = RocoQaDataset(str(root), images=str(pictures)).read("test").rejects
    assert (reject.reason, reject.malformed) == ("path_leaves_folder", True)


def test_an_absent_split_is_refused(root: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match="no split 'train'"):
        RocoQaDataset(str(root), images=str(pictures)).read("train")


def test_a_place_without_roco_qa_is_refused(tmp_path: Path) -> None:
    clinical = write_parquet(tmp_path / "train.parquet", [{**question(), "image": picture()}])
    for place in (tmp_path / "none", tmp_path / "empty", clinical):
        if place.name == "empty":
            place.mkdir()
        with pytest.raises(DataError, match="ROCO-QA is not at this place"):
            RocoQaDataset(str(place))
        assert not RocoQaDataset.recognises(place)


def test_the_layouts_are_recognised(root: Path, tmp_path: Path) -> None:
    assert RocoQaDataset.recognises(root)
    assert RocoQaDataset.recognises(root / "test_captions_qa_pairs_output.json")
    assert RocoQaDataset.recognises(write_parquet(tmp_path / "train.parquet", [HUB_ROW]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=st.one_of(mutations(TEST_ROW), mutations(VALID_ROW)))
def test_every_row_becomes_one_record_or_one_reject(root: Path, pictures: Path, broken: object) -> None:
    write_list(root, "test", [broken])
    reading = RocoQaDataset(str(root), images=str(pictures)).read("test")
    assert len(reading.samples) + len(reading.rejects) == 1
    write_records(root / "x", [*reading.samples, *reading.rejects, *reading.defects])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations(HUB_ROW))
def test_every_parquet_row_becomes_one_record_or_one_reject(tmp_path: Path, broken: object) -> None:
    path = write_parquet(tmp_path / "train.parquet", [HUB_ROW])
    values = broken if isinstance(broken, dict) else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radvqa.data.adapters.roco_qa.read_parquet", lambda file: iter([Row("f, row 1", "f:1", values)]))
        reading = RocoQaDataset(str(path)).read("train")
    assert len(reading.samples) + len(reading.rejects) == 1
    write_records(tmp_path / "x", [*reading.samples, *reading.rejects, *reading.defects])


@pytest.mark.skipif(not ROCO.is_dir(), reason="ROCO is not under shared/data")
def test_the_published_lists_are_read_beside_roco() -> None:
    reading = RocoQaDataset(str(ROCO / "adishourya_roco_qa"), images=str(ROCO)).read("val")
    assert [sample.image_id for sample in reading.samples] == ["ROCO_00027", "ROCO_00278"]
    assert Counter(reject.reason for reject in reading.rejects) == {"missing_image": 398}
    assert reading.samples[0].group_id == "PMC2766744"


@pytest.mark.skipif(not HUB.is_file(), reason="samples of hub files are not under shared/data")
def test_the_published_parquet_layout_is_read() -> None:
    reading = RocoQaDataset(str(HUB)).read("train")
    assert (len(reading.samples), len(reading.rejects)) == (5, 0)
