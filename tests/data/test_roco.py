from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_rows import mutations
from roco_folder import CAPTIONS, LICENCES, write_lines, write_picture, write_roco

from radvqa.data import open_dataset
from radvqa.data.adapters.roco import RocoDataset
from radvqa.errors import DataError, RecipeError
from radvqa.records import write_records
from radvqa.sample import CaptionedImage, Split

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "roco"
FOLDER = "data/validation/radiology"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_roco(tmp_path / "roco-dataset")


def test_a_caption_becomes_a_captioned_image(root: Path) -> None:
    write_lines(root / FOLDER / "cuis.txt", ["ROCO_00001\t\tC0040405\tC0030797", "ROCO_00002\t"])
    reading = open_dataset("roco", {"root": str(root)}).read("val")
    assert reading.captions[0] == CaptionedImage(
        sample_id="roco-ROCO_00001",
        image_id="ROCO_00001",
        image=root / FOLDER / "images" / "ROCO_00001.jpg",
        text="Axial CT of the pelvis.",
        group_id="PMC11",
        split="val",
        tags={"licence": "CC BY", "cuis": "C0040405;C0030797", "kind": "radiology"},
    )
    assert reading.captions[1].tags == {"licence": "CC BY-NC", "kind": "radiology"}
    assert (reading.rejects, reading.defects) == ((), ())


def test_the_folder_data_may_be_the_root(root: Path) -> None:
    dataset = RocoDataset(str(root / "data"))
    assert [caption.image_id for caption in dataset.read("val").captions] == ["ROCO_00001", "ROCO_00002"]
    assert [path.name for path in dataset.sources()] == ["captions.txt", "licences.txt"]


def test_a_caption_without_picture_is_a_sound_reject(root: Path) -> None:
    (root / FOLDER / "images" / "ROCO_00001.jpg").unlink()
    (reject,) = RocoDataset(str(root)).read("val").rejects
    assert (reject.sample_id, reject.reason, reject.malformed) == ("roco-ROCO_00001", "missing_image", False)


def test_the_link_names_the_article_where_the_licences_do_not(root: Path) -> None:
    (root / FOLDER / "licences.txt").unlink()
    link = "ROCO_00001\twget -r ftp://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/1e/ed/PMC77.tar.gz -P /path\ta.jpg"
    write_lines(root / FOLDER / "dlinks.txt", [link])
    reading = RocoDataset(str(root)).read("val")
    assert [caption.group_id for caption in reading.captions] == ["PMC77", "ROCO_00002"]
    assert [(defect.subject, defect.reason) for defect in reading.defects] == [("roco-ROCO_00002", "no_article")]


def test_an_article_in_two_splits_keeps_its_group(root: Path) -> None:
    write_roco(root, folder="data/test/radiology")
    dataset = RocoDataset(str(root))
    groups = [{caption.group_id for caption in dataset.read(split).captions} for split in dataset.splits()]
    assert groups == [{"PMC11", "PMC22"}, {"PMC11", "PMC22"}]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("radiology", ["ROCO_00001", "ROCO_00002"]),
        ("non-radiology", ["ROCO_9"]),
        ("all", ["ROCO_00001", "ROCO_00002", "ROCO_9"]),
    ],
)
def test_the_kind_is_chosen(root: Path, kind: str, found: list[str]) -> None:
    write_roco(root, {"captions": ["ROCO_9\t A dog."]}, folder="data/validation/non-radiology", images=["ROCO_9"])
    captions = RocoDataset(str(root), kind=kind).read("val").captions
    assert [caption.image_id for caption in captions] == found
    assert captions[-1].tags["kind"] == ("radiology" if kind == "radiology" else "non-radiology")


def test_an_unknown_kind_is_refused(root: Path) -> None:
    with pytest.raises(RecipeError, match="one of radiology"):
        RocoDataset(str(root), kind="x-ray")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ROCO_00003 no tab", "wrong_columns"),
        ("ROCO_00003\t ", "empty_value"),
        ("ROCO_../x\t text", "unknown_value"),
        ("\t text", "empty_value"),
        ("ROCO_00003\t \udc80", "not_unicode"),
        ("ROCO_00003\t " + "x" * 100_001, "too_long"),
    ],
)
def test_a_damaged_line_is_a_reject_among_sound_ones(root: Path, line: str, reason: str) -> None:
    path = write_lines(root / FOLDER / "captions.txt", [CAPTIONS[0], line, CAPTIONS[1]])
    reading = RocoDataset(str(root)).read("val")
    assert len(reading.captions) == 2
    (reject,) = reading.rejects
    assert (reject.reason, reject.where, reject.malformed) == (reason, f"{path}, line 2", True)


def test_lines_beside_the_captions_that_cannot_be_used_are_defects(root: Path) -> None:
    write_lines(root / FOLDER / "licences.txt", [*LICENCES, "ROCO_00001,PMC99_x.jpg,CC0", "ROCO_5,x.jpg,CC0", "a,b"])
    write_lines(root / FOLDER / "dlinks.txt", ["ROCO_00001\twget nothing"])
    dataset = RocoDataset(str(root))
    assert [defect.detail.split(",")[0].split(" should")[0] for defect in dataset.defects()] == [
        "ROCO_00001 has PMC11",
        "PMC_ID",
        "the row has 2 fields",
        "the link",
    ]
    assert dataset.read("val").captions[0].group_id == "PMC11"


def test_licences_without_a_header_stop_the_reading_but_not_the_audit(root: Path) -> None:
    write_lines(root / FOLDER / "licences.txt", ["a,a"])
    dataset = RocoDataset(str(root))
    assert [defect.reason for defect in dataset.defects()] == ["unreadable_file"]
    with pytest.raises(DataError, match="no usable header"):
        dataset.read("val")


def test_a_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    picture = root / FOLDER / "images" / "ROCO_00001.jpg"
    picture.unlink()
    picture.symlink_to(write_picture(tmp_path / "outside.jpg"))
    (reject,) = RocoDataset(str(root)).read("val").rejects
    assert (reject.reason, reject.malformed) == ("path_leaves_folder", True)


def test_an_absent_split_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="no split 'train'"):
        RocoDataset(str(root)).read("train")


@pytest.mark.parametrize("state", ["absent", "file", "empty"])
def test_a_place_without_roco_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "data"
    if state == "file":
        folder.write_text("x")
    elif state == "empty":
        folder.mkdir()
    with pytest.raises(DataError) as caught:
        RocoDataset(str(folder))
    assert caught.value.got and caught.value.fix
    assert not RocoDataset.recognises(folder)


def test_the_folder_is_recognised(root: Path) -> None:
    assert RocoDataset.recognises(root)


TEXT = st.text(alphabet=st.characters(exclude_characters="\n\r", exclude_categories=()), max_size=12)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations({"id": "ROCO_00001", "caption": " Axial CT."}), between=st.sampled_from(["\t", " ", "\t\t"]))
def test_every_line_becomes_one_record_or_one_reject(root: Path, broken: object, between: str) -> None:
    values = broken.values() if isinstance(broken, dict) else [broken]
    line = between.join(str(value) for value in values).replace("\n", " ").replace("\r", " ")
    write_lines(root / FOLDER / "captions.txt", [line])
    reading = RocoDataset(str(root)).read("val")
    assert len(reading.captions) + len(reading.rejects) == (1 if line.strip() else 0)
    write_records(root / "x", [*reading.captions, *reading.rejects, *reading.defects])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=TEXT,
    name=st.sampled_from(["licences", "dlinks", "cuis"]),
    front=st.sampled_from(["", "ROCO_00001\t", "ROCO_1,PMC1,"]),
)
def test_no_line_beside_the_captions_stops_the_reading(root: Path, line: str, name: str, front: str) -> None:
    lines = [front + line] if name != "licences" else [LICENCES[0], front + line]
    write_lines(root / FOLDER / f"{name}.txt", lines)
    dataset = RocoDataset(str(root))
    reading = dataset.read("val")
    assert len(reading.captions) == 2
    write_records(root / "x", [*reading.captions, *reading.defects, *dataset.defects()])


@pytest.mark.skipif(not REAL.is_dir(), reason="ROCO is not under shared/data")
def test_the_published_captions_are_all_read_and_share_articles_between_splits() -> None:
    dataset = RocoDataset(str(REAL))
    counts: dict[Split, tuple[int, Counter[str]]] = {}
    articles: dict[Split, Counter[str]] = {}
    for split in dataset.splits():
        captions = [item for item in dataset.rows(split) if isinstance(item, CaptionedImage)]
        articles[split] = Counter(caption.group_id for caption in captions)
        counts[split] = (len(captions), Counter(caption.tags["licence"] for caption in captions))
    assert (counts["val"][0], counts["test"][0]) == (8_180, 8_179)
    assert (len(articles["val"]), len(articles["test"])) == (7_417, 7_404)
    shared = articles["val"].keys() & articles["test"].keys()
    assert len(shared) == 1_195
    assert [sum(articles[split][group] for group in shared) for split in ("val", "test")] == [1_430, 1_468]
    assert counts["val"][1]["CC BY"] == 3_382
    assert counts["val"][1]["NO-CC CODE"] == 1_016
    assert list(dataset.defects()) == []


@pytest.mark.skipif(not REAL.is_dir(), reason="ROCO is not under shared/data")
def test_published_captions_without_their_picture_are_counted() -> None:
    reading = RocoDataset(str(REAL)).read("val")
    assert len(reading.captions) == 2
    assert Counter(reject.reason for reject in reading.rejects) == {"missing_image": 8_178}
