from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from medpix_folder import picture, write_csv, write_parquet
from mutated_rows import mutations
from roco_folder import write_lines, write_picture

from radvqa.data import open_dataset
from radvqa.data.adapters.rocov2 import Rocov2Dataset
from radvqa.data.tables import Row
from radvqa.errors import DataError
from radvqa.records import write_records
from radvqa.sample import CaptionedImage

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LAYOUT, EXCERPT = SHARED / "roco" / "rocov2_layout_from_medpix", SHARED / "roco" / "rocov2_text_excerpt"
HUB = SHARED / "hf_samples" / "eltorio__ROCOv2-radiology.layout_with_roco_v1_rows.parquet"
FIRST, SECOND = "ROCOv2_2023_valid_000001", "ROCOv2_2023_valid_000007"
HUB_ROW = {"image": picture(), "image_id": FIRST, "caption": " CT. ", "cui": ["C0040405", "C1"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "rocov2"
    write_csv(
        folder / "valid_captions.csv",
        [{"ID": FIRST, "Caption": " CT,\nchest. "}, {"ID": SECOND, "Caption": "MRI."}],
    )
    write_csv(folder / "valid_concepts.csv", [{"ID": FIRST, "CUIs": "C0040405; C0000009"}, {"ID": SECOND, "CUIs": ""}])
    write_csv(folder / "cui_mapping.csv", [{"CUI": "C0040405", "Canonical name": "X-Ray Computed Tomography"}])
    for name in (FIRST, SECOND):
        write_picture(folder / "valid" / f"{name}.jpg")
    return folder


def add_articles(root: Path) -> None:
    lines = [
        "ID,PMCID,Attribution,Link",
        f'{FIRST},PMC123,"CC BY-NC [Doe et al. (2020)]",https://example.org',
        f"{SECOND},456,none,",
    ]
    write_lines(root / "license_information.csv", lines)


def test_a_caption_becomes_a_captioned_image(root: Path) -> None:
    reading = open_dataset("rocov2", {"root": str(root)}).read("val")
    assert reading.captions == (
        CaptionedImage(
            sample_id=f"rocov2-{FIRST}",
            image_id=FIRST,
            image=root / "valid" / f"{FIRST}.jpg",
            text="CT,\nchest.",
            group_id=FIRST,
            split="val",
            tags={"cuis": "C0040405;C0000009", "concepts": "X-Ray Computed Tomography"},
        ),
        CaptionedImage(
            sample_id=f"rocov2-{SECOND}",
            image_id=SECOND,
            image=root / "valid" / f"{SECOND}.jpg",
            text="MRI.",
            group_id=SECOND,
            split="val",
        ),
    )
    assert reading.rejects == ()
    assert [defect.reason for defect in reading.defects] == ["no_articles"]


def test_the_article_is_the_group_where_it_is_known(root: Path) -> None:
    add_articles(root)
    reading = Rocov2Dataset(str(root)).read("val")
    assert [(caption.group_id, caption.tags.get("licence")) for caption in reading.captions] == [
        ("PMC123", "CC BY-NC"),
        ("PMC456", None),
    ]
    assert reading.defects == ()


def test_an_image_without_article_among_others_is_reported(root: Path) -> None:
    add_articles(root)
    write_lines(root / "license_information.csv", ["ID,PMCID,Attribution,Link", f"{FIRST},PMC1,,", f"{SECOND},x,,"])
    dataset = Rocov2Dataset(str(root))
    assert [(defect.subject, defect.reason) for defect in dataset.read("val").defects] == [
        (f"rocov2-{SECOND}", "no_article")
    ]
    assert "side_line" in [defect.reason for defect in dataset.defects()]


@pytest.mark.parametrize("folder", ["valid_images/valid", "valid_images", "validation"])
def test_pictures_are_found_where_archives_unpack_them(root: Path, folder: str) -> None:
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "valid").rename(root / folder)
    assert len(Rocov2Dataset(str(root)).read("val").captions) == 2


def test_a_caption_without_picture_is_a_sound_reject(root: Path) -> None:
    (root / "valid" / f"{FIRST}.jpg").unlink()
    (reject,) = Rocov2Dataset(str(root)).read("val").rejects
    assert (reject.reason, reject.malformed) == ("missing_image", False)


def test_concepts_without_a_name_are_summed_up(root: Path) -> None:
    (defect,) = Rocov2Dataset(str(root)).defects()
    assert (defect.reason, defect.detail) == ("concept_without_name", "1 concepts have no name there, such as C0000009")


def test_a_broken_table_beside_the_captions_is_a_defect(root: Path) -> None:
    write_lines(root / "cui_mapping.csv", ["a,a"])
    assert [defect.reason for defect in Rocov2Dataset(str(root)).defects()] == ["unreadable_file"]


def test_an_id_that_leaves_the_folder_is_rejected(root: Path) -> None:
    write_csv(root / "valid_captions.csv", [{"ID": "../../x", "Caption": "CT"}, {"ID": FIRST, "Caption": "CT"}])
    reading = Rocov2Dataset(str(root)).read("val")
    assert [(reject.reason, reject.malformed) for reject in reading.rejects] == [("path_leaves_folder", True)]
    assert len(reading.captions) == 1


def test_the_hub_layout_is_read(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [HUB_ROW])
    dataset = Rocov2Dataset(str(tmp_path))
    assert (dataset.splits(), dataset.sources()) == (("val",), (file,))
    (caption,) = dataset.read("val").captions
    assert (caption.image_id, caption.text, caption.tags) == (FIRST, "CT.", {"cuis": "C0040405;C1"})
    assert caption.image.read_bytes() == HUB_ROW["image"]["bytes"]  # type: ignore[index]
    assert list(dataset.defects()) == []


def test_an_absent_split_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="no split 'train'"):
        Rocov2Dataset(str(root)).read("train")


@pytest.mark.parametrize("state", ["absent", "file", "empty"])
def test_a_place_without_rocov2_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "data"
    if state == "file":
        folder.write_text("x")
    elif state == "empty":
        folder.mkdir()
    with pytest.raises(DataError) as caught:
        Rocov2Dataset(str(folder))
    assert caught.value.got and caught.value.fix
    assert not Rocov2Dataset.recognises(folder)


def test_the_layouts_are_recognised(root: Path, tmp_path: Path) -> None:
    assert Rocov2Dataset.recognises(root)
    assert Rocov2Dataset.recognises(write_parquet(tmp_path / "train.parquet", [HUB_ROW]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations({"ID": FIRST, "Caption": "CT."}))
def test_every_row_becomes_one_record_or_one_reject(root: Path, broken: object) -> None:
    values = broken if isinstance(broken, dict) else {"x": broken}
    write_csv(root / "valid_captions.csv", [values], columns=["ID", "Caption"])
    reading = Rocov2Dataset(str(root)).read("val")
    assert len(reading.captions) + len(reading.rejects) == (1 if values else 0)
    write_records(root / "x", [*reading.captions, *reading.rejects, *reading.defects])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations({"ID": FIRST, "CUIs": "C1;C2"}))
def test_no_row_of_concepts_stops_the_reading(root: Path, broken: object) -> None:
    values = broken if isinstance(broken, dict) else {"x": broken}
    write_csv(root / "valid_concepts.csv", [values], columns=["ID", "CUIs"])
    dataset = Rocov2Dataset(str(root))
    reading = dataset.read("val")
    assert len(reading.captions) == 2
    write_records(root / "x", [*reading.captions, *reading.defects, *dataset.defects()])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations(HUB_ROW))
def test_every_parquet_row_becomes_one_record_or_one_reject(tmp_path: Path, broken: object) -> None:
    path = write_parquet(tmp_path / "train.parquet", [HUB_ROW])
    values = broken if isinstance(broken, dict) else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radvqa.data.adapters.rocov2.read_parquet", lambda file: iter([Row("f, row 1", "f:1", values)]))
        reading = Rocov2Dataset(str(path)).read("train")
    assert len(reading.captions) + len(reading.rejects) == 1
    write_records(tmp_path / "x", [*reading.captions, *reading.rejects, *reading.defects])


@pytest.mark.skipif(not LAYOUT.is_dir(), reason="the ROCOv2 layout is not under shared/data")
def test_a_folder_in_the_published_layout_is_read() -> None:
    dataset = Rocov2Dataset(str(LAYOUT))
    reading = dataset.read("test")
    assert (len(reading.captions), len(reading.rejects)) == (60, 0)
    assert {caption.tags["concepts"] for caption in reading.captions} == {
        "X-Ray Computed Tomography",
        "Magnetic Resonance Imaging",
    }
    assert list(dataset.defects()) == []


@pytest.mark.skipif(not EXCERPT.is_dir(), reason="the ROCOv2 excerpt is not under shared/data")
def test_published_rows_without_pictures_are_counted() -> None:
    reading = Rocov2Dataset(str(EXCERPT)).read("test")
    assert [reject.reason for reject in reading.rejects] == ["missing_image"] * 16


@pytest.mark.skipif(not HUB.is_file(), reason="samples of hub files are not under shared/data")
def test_the_published_parquet_layout_is_read() -> None:
    reading = Rocov2Dataset(str(HUB)).read("train")
    assert (len(reading.captions), len(reading.rejects)) == (5, 0)
    assert reading.captions[0].tags == {"cuis": "C0043299;C1306645;C1548003;C0030797;C1962945"}
