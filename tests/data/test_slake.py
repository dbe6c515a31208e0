import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_rows import assert_writable, mutations
from PIL import Image
from slake_folder import HEIGHT, WIDTH, label_map, row, write_folder, write_image, write_parquet, write_table

from radvqa.data import open_dataset
from radvqa.data.adapters.slake import SlakeDataset
from radvqa.data.tables import read_json_list
from radvqa.errors import DataError, RecipeError
from radvqa.records import read_records, write_records
from radvqa.sample import Defect, Region, Reject, VqaSample

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = SHARED / "slake" / "Slake1.0"
HUB = SHARED / "hf_samples"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [
        row(7, question=" Which  plane? \n", answer=" Transverse  Plane ", answer_type="OPEN", content_type="Plane"),
        row(3, q_lang="zh", question="这是什么器官?", answer="肝"),
        row(5, img_id=2),
        row(4),
    ]
    return write_folder(tmp_path / "Slake1.0", {"train.json": rows, "validate.json": [row(9)]})


def rejected(root: Path, broken: object) -> Reject:
    """The reject of a row that stands second in the table, between two sound ones that are read all the same."""
    write_table(root, "train.json", [row(1), broken, row(2)], ascii_only=True)
    reading = SlakeDataset(str(root)).read("train")
    assert [sample.sample_id for sample in reading.samples] == ["slake-1", "slake-2"]
    (reject,) = reading.rejects
    assert reject.malformed
    assert reject.where == f"{root / 'train.json'}, row 2"
    return reject


def test_rows_become_samples_in_file_order(root: Path) -> None:
    reading = open_dataset("slake", {"root": str(root)}).read("train")
    assert reading.samples[0] == VqaSample(
        sample_id="slake-7",
        image_id="xmlab1",
        image=root / "imgs" / "xmlab1" / "source.jpg",
        question="Which  plane?",
        answers=("Transverse Plane",),
        answer_type="open",
        group_id="xmlab1",
        split="train",
        language="en",
        tags={"modality": "CT", "location": "Abdomen", "content_type": "Plane", "base_type": "vqa"},
    )
    assert [sample.sample_id for sample in reading.samples] == ["slake-7", "slake-4"]
    assert reading.samples[1].answer_type == "closed"


def test_rows_left_out_are_counted_with_their_place(root: Path) -> None:
    rejects = SlakeDataset(str(root)).read("train").rejects
    assert [(reject.sample_id, reject.reason) for reject in rejects] == [
        ("slake-3", "other_language"),
        ("slake-5", "missing_image"),
    ]
    assert rejects[0].where.endswith("train.json, row 2, qid 3")
    assert rejects[1].where == str(root / "imgs" / "xmlab2" / "source.jpg")
    assert not any(reject.malformed for reject in rejects)


def test_white_space_inside_an_answer_is_collapsed_and_reported(root: Path) -> None:
    assert SlakeDataset(str(root)).read("train").defects == (
        Defect(
            subject="slake-7",
            reason="white_space_in_answer",
            where=f"{root / 'train.json'}, row 1, qid 7",
            detail="white space inside the answer ' Transverse  Plane ' was collapsed",
        ),
    )


def test_chinese_is_read_on_request(root: Path) -> None:
    reading = SlakeDataset(str(root), language="zh").read("train")
    assert [(sample.language, sample.answers) for sample in reading.samples] == [("zh", ("肝",))]
    assert Counter(reject.reason for reject in reading.rejects) == {"other_language": 3}


def test_both_languages_are_read_together_on_request(root: Path) -> None:
    reading = SlakeDataset(str(root), language="all").read("train")
    assert [(sample.sample_id, sample.language) for sample in reading.samples] == [
        ("slake-7", "en"),
        ("slake-3", "zh"),
        ("slake-4", "en"),
    ]
    assert [reject.reason for reject in reading.rejects] == ["missing_image"]


def test_the_audit_reads_both_languages() -> None:
    assert SlakeDataset.audit_options == {"language": "all"}


def test_samples_survive_a_records_file(root: Path, tmp_path: Path) -> None:
    samples = SlakeDataset(str(root)).read("train").samples
    write_records(tmp_path / "samples.jsonl", samples)
    assert tuple(read_records(tmp_path / "samples.jsonl", VqaSample)) == samples


@pytest.mark.parametrize("name", ["validate.json", "validation.json"])
@pytest.mark.parametrize("images", ["imgs", "imgs/imgs"])
def test_both_published_layouts_are_read(tmp_path: Path, name: str, images: str) -> None:
    write_folder(tmp_path, {name: [row(1)]}, folder=images)
    dataset = SlakeDataset(str(tmp_path))
    (sample,) = dataset.read("val").samples
    assert sample.split == "val"
    assert sample.image == tmp_path / images / "xmlab1" / "source.jpg"
    assert dataset.regions("xmlab1") == ()
    assert dataset.sources() == (tmp_path / name,)


def test_sources_are_the_tables_that_are_there(root: Path) -> None:
    write_table(root, "test.json", [])
    assert [path.name for path in SlakeDataset(str(root)).sources()] == ["train.json", "validate.json", "test.json"]


def test_the_licence_is_stated() -> None:
    assert SlakeDataset.licence.startswith("CC BY 4.0") and "CC BY-NC-SA 4.0" in SlakeDataset.licence
    assert "2102.09542" in SlakeDataset.citation
    assert SlakeDataset.homepage.startswith("https://")


def test_an_unknown_language_is_refused(root: Path) -> None:
    with pytest.raises(RecipeError, match="one of en, zh, all"):
        SlakeDataset(str(root), language="fr")


@pytest.mark.parametrize("state", ["absent", "file", "empty", "no tables", "no images"])
def test_a_folder_without_slake_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "data"
    if state == "file":
        folder.write_text("x")
    elif state == "no tables":
        (folder / "Slake1.0").mkdir(parents=True)
    elif state == "no images":
        write_table(folder, "train.json", [])
    elif state == "empty":
        folder.mkdir()
    with pytest.raises(DataError) as caught:
        SlakeDataset(str(folder))
    assert caught.value.where == str(folder)
    assert caught.value.got and caught.value.expected and caught.value.fix
    assert not SlakeDataset.recognises(folder)


def test_pictures_still_packed_are_to_be_unpacked(tmp_path: Path) -> None:
    write_table(tmp_path, "train.json", [row(1)])
    (tmp_path / "imgs.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unzip imgs\.zip"):
        SlakeDataset(str(tmp_path))


def test_the_official_folder_is_recognised(root: Path) -> None:
    assert SlakeDataset.recognises(root)


@pytest.mark.parametrize("split", ["test", "dev"])
def test_a_split_that_is_not_there_is_refused(root: Path, split: str) -> None:
    with pytest.raises(DataError, match=split):
        SlakeDataset(str(root)).read(split)  # type: ignore[arg-type]


def test_two_validation_tables_are_ambiguous(root: Path) -> None:
    write_table(root, "validation.json", [])
    with pytest.raises(DataError, match=r"validate\.json and validation\.json"):
        SlakeDataset(str(root)).read("val")


@pytest.mark.parametrize("content", [b"", b'[{"qid": 1},', b"\xff\xfe\xfa", b'{"rows": []}', b'"text"', b"[" * 100_000])
def test_a_table_that_is_no_json_list_is_refused(root: Path, content: bytes) -> None:
    (root / "train.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        SlakeDataset(str(root)).read("train")
    assert caught.value.where == str(root / "train.json")


@pytest.mark.parametrize("key", [key for key in row(0) if key != "triple"])
def test_a_row_without_a_key_is_a_reject(root: Path, key: str) -> None:
    broken = row(8)
    del broken[key]
    reject = rejected(root, broken)
    assert reject.reason == "missing_key"
    assert f"no {key!r}" in reject.detail


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("answer", "", "empty_value"),
        ("answer", " \t", "empty_value"),
        ("answer", 3, "wrong_type"),
        ("answer", None, "wrong_type"),
        ("answer", "\ud800", "not_unicode"),
        ("answer", "x" * 100_001, "too_long"),
        ("question", "", "empty_value"),
        ("question", ["Is it?"], "wrong_type"),
        ("answer_type", "YES/NO", "unknown_value"),
        ("answer_type", "closed", "unknown_value"),
        ("q_lang", None, "wrong_type"),
        ("modality", 1, "wrong_type"),
        ("location", "", "empty_value"),
        ("qid", "8", "wrong_type"),
        ("qid", True, "wrong_type"),
        ("qid", 1.5, "wrong_type"),
        ("qid", -1, "out_of_range"),
        ("img_id", "1", "wrong_type"),
        ("img_name", {"path": "xmlab1/source.jpg"}, "wrong_type"),
    ],
)
def test_a_row_with_a_wrong_value_is_a_reject(root: Path, key: str, value: object, reason: str) -> None:
    reject = rejected(root, {**row(8), "img_name": "xmlab1/source.jpg", key: value})
    assert reject.reason == reason
    assert key in reject.detail


@pytest.mark.parametrize("value", [[1, 2], "row", 3, None])
def test_what_is_no_object_is_a_reject(root: Path, value: object) -> None:
    reject = rejected(root, value)
    assert (reject.sample_id, reject.reason) == ("train.json:2", "not_an_object")


def test_rows_of_the_other_language_are_checked_too(root: Path) -> None:
    assert rejected(root, row(3, q_lang="zh", answer="")).reason == "empty_value"


def test_the_one_row_published_without_an_answer_is_a_reject(root: Path) -> None:
    write_image(root, 281)
    known = row(1622, img_id=281, question="Does the picture contain liver?", answer="", answer_type="OPEN")
    write_table(root, "train.json", [known, row(1)])
    reading = SlakeDataset(str(root)).read("train")
    assert [sample.sample_id for sample in reading.samples] == ["slake-1"]
    assert [reject.reason for reject in reading.rejects] == ["empty_answer"]


def test_a_repeated_qid_is_a_reject(root: Path) -> None:
    write_table(root, "train.json", [row(1), row(2), row(1, question="Is the heart in view?")])
    reading = SlakeDataset(str(root)).read("train")
    assert [sample.question for sample in reading.samples] == ["Is the liver in view?"] * 2
    assert [(reject.sample_id, reject.reason) for reject in reading.rejects] == [("slake-1", "repeated_id")]


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../secret/source.jpg",
        "xmlab1/../../../x.jpg",
        "..\\..\\x.jpg",
        "C:\\x.jpg",
        "\\\\host\\share\\x.jpg",
        "xmlab1/\0source.jpg",
    ],
)
def test_an_image_outside_the_folder_is_a_reject(root: Path, name: str) -> None:
    leaves = ".." in name or "\0" in name  # the others would lie inside, but are no picture of the row
    assert rejected(root, row(8, img_name=name)).reason == ("path_leaves_folder" if leaves else "wrong_image")


@pytest.mark.parametrize("name", ["xmlab1/mask.png", "xmlab2/source.jpg", "xmlab1/./source.jpg", "source.jpg"])
def test_only_the_source_picture_of_the_row_is_an_image(root: Path, name: str) -> None:
    reject = rejected(root, row(8, img_name=name))
    assert reject.reason == "wrong_image"
    assert "masks show the answer" in reject.detail


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations(row(8)), language=st.sampled_from(["en", "zh", "all"]))
def test_every_row_becomes_one_record_or_one_reject(root: Path, broken: object, language: str) -> None:
    write_table(root, "train.json", [broken], ascii_only=True)
    reading = SlakeDataset(str(root), language=language).read("train")
    assert len(reading.samples) + len(reading.rejects) == 1
    assert_writable([*reading.samples, *reading.rejects, *reading.defects])


@pytest.mark.parametrize("linked", ["file", "folder", "images"])
def test_a_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path, linked: str) -> None:
    inside = {"file": root / "imgs/xmlab1/source.jpg", "folder": root / "imgs/xmlab1", "images": root / "imgs"}[linked]
    outside = tmp_path / "outside"
    shutil.move(inside, outside)
    inside.symlink_to(outside)
    write_table(root, "train.json", [row(1)])
    reading = SlakeDataset(str(root)).read("train")
    assert {reject.reason for reject in reading.rejects} == {"path_leaves_folder"}
    assert not reading.samples
    with pytest.raises(DataError, match="leaves the data folder"):
        SlakeDataset(str(root)).regions("xmlab1")


def test_links_inside_the_folder_and_a_linked_root_are_fine(root: Path, tmp_path: Path) -> None:
    (root / "imgs/xmlab2").symlink_to(root / "imgs/xmlab1")
    (tmp_path / "link").symlink_to(root)
    assert len(SlakeDataset(str(tmp_path / "link")).read("train").samples) == 3


def test_boxes_are_read_in_file_order(root: Path) -> None:
    boxes = [{"Liver": [0.0, 1.0, 4.0, 5.0]}, {"Spleen ": [20, 10, WIDTH - 20, HEIGHT - 10]}]
    write_image(root, 3, boxes=boxes)
    assert SlakeDataset(str(root)).regions("xmlab3") == (
        Region(label="Liver", box=(0.0, 1.0, 4.0, 5.0)),
        Region(label="Spleen", box=(20.0, 10.0, 4.0, 6.0)),
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_mask_values_get_their_labels(root: Path, mode: str) -> None:
    mask = root / "imgs/xmlab1/mask.png"
    picture = Image.fromarray(label_map([225, 0, 70, 145]))
    if mode == "P":
        picture = picture.copy()
        picture.putpalette([value for gray in range(256) for value in (gray, gray, gray)])
    else:
        picture = picture.convert(mode)
    picture.save(mask)
    assert [region.label for region in SlakeDataset(str(root)).regions("xmlab1")] == [
        "value_70",
        "value_145",
        "value_225",
    ]
    (root / "mask.txt").write_text("70:Liver\n\n225 : Right Lung\n", encoding="utf-8")
    assert SlakeDataset(str(root)).regions("xmlab1") == (
        Region(label="Liver", mask=mask, mask_value=70),
        Region(label="value_145", mask=mask, mask_value=145),
        Region(label="Right Lung", mask=mask, mask_value=225),
    )


@pytest.mark.parametrize("kind", ["coloured", "many grays"])
def test_a_picture_that_poses_as_mask_is_never_returned(root: Path, kind: str) -> None:
    pixels = np.repeat(label_map(range(10, 10 + (3 if kind == "coloured" else 24)))[..., None], 3, axis=-1)
    if kind == "coloured":
        pixels[2:4, 2:9] = (0, 0, 255)
    else:
        pixels[0] += 100
    Image.fromarray(pixels).save(root / "imgs/xmlab1/mask.png")
    (root / "imgs/xmlab1/detection.json").write_text('[{"Mass": [1, 1, 2, 2]}]')
    assert [region.label for region in SlakeDataset(str(root)).regions("xmlab1")] == ["Mass"]


def test_forty_gray_values_are_still_a_mask(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train.json": []})
    pixels = label_map(range(1, 21))
    pixels[0] = [*range(30, 49), *[0] * 5]
    Image.fromarray(pixels).save(tmp_path / "imgs/xmlab1/mask.png")
    assert len(SlakeDataset(str(tmp_path)).regions("xmlab1")) == 39


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        "[{}]",
        '[{"A": [0, 0, 1, 1], "B": [0, 0, 1, 1]}]',
        '[{"": [0, 0, 1, 1]}]',
        '[{"A": [0, 0, 1]}]',
        '[{"A": "0 0 1 1"}]',
        '[{"A": [0, 0, "1", 1]}]',
        '[{"A": [0, 0, true, 1]}]',
        '[{"A": [0, 0, NaN, 1]}]',
        '[{"A": [0, 0, Infinity, 1]}]',
        '[{"A": [0, 0, 0, 1]}]',
        '[{"A": [-1, 0, 2, 1]}]',
        f'[{{"A": [0, 0, {WIDTH + 1}, 1]}}]',
        f'[{{"A": [0, {HEIGHT - 1}, 1, 2]}}]',
    ],
)
def test_malformed_boxes_are_refused(root: Path, content: str) -> None:
    file = root / "imgs/xmlab1/detection.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"detection\.json"):
        SlakeDataset(str(root)).regions("xmlab1")


def test_a_mask_of_another_size_or_type_is_refused(root: Path) -> None:
    mask = root / "imgs/xmlab1/mask.png"
    Image.fromarray(label_map([70])[:-1]).save(mask)
    with pytest.raises(DataError, match="differ in size"):
        SlakeDataset(str(root)).regions("xmlab1")
    Image.fromarray(label_map([70]).astype(np.uint16)).save(mask)
    with pytest.raises(DataError, match="pixel type"):
        SlakeDataset(str(root)).regions("xmlab1")
    mask.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"mask\.png"):
        SlakeDataset(str(root)).regions("xmlab1")


@pytest.mark.parametrize("text", ["70 Liver", "70:", "256:Liver", "70:Liver\n70:Spleen", "-1:Liver"])
def test_a_malformed_label_table_is_refused(root: Path, text: str) -> None:
    Image.fromarray(label_map([70])).save(root / "imgs/xmlab1/mask.png")
    (root / "mask.txt").write_text(text)
    with pytest.raises(DataError, match=r"mask\.txt, line"):
        SlakeDataset(str(root)).regions("xmlab1")


@pytest.mark.parametrize("image_id", ["xmlab99", "xmlab1/../xmlab1", "../x", ""])
def test_an_unknown_image_has_no_regions(root: Path, image_id: str) -> None:
    with pytest.raises(DataError):
        SlakeDataset(str(root)).regions(image_id)


def test_parquet_files_of_the_hub_are_read(tmp_path: Path) -> None:
    rows = [("How many  organs?", " 2 "), ("Is it a CT?", "Yes"), (None, "No")]
    train = write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", rows[:1])
    dataset = SlakeDataset(str(tmp_path))
    assert dataset.splits() == ("train", "val")
    assert [path.name[:5] for path in dataset.sources()] == ["train", "valid"]
    reading = dataset.read("train")
    first, second = reading.samples
    assert first.sample_id == "slake-train-00000-of-00001.parquet:1"
    assert (first.answers, first.answer_type, second.answer_type) == (("2",), "open", "closed")
    assert not first.answer_type_stated
    assert first.image_id == first.group_id == second.image_id
    assert first.image.read_bytes().startswith(b"\x89PNG")
    assert [(reject.where, reject.reason) for reject in reading.rejects] == [(f"{train}, row 3", "wrong_type")]
    assert dataset.regions(first.image_id) == ()
    assert list(dataset.defects()) == []
    with pytest.raises(DataError, match="'test'"):
        dataset.read("test")


def test_the_mended_white_space_of_parquet_answers_is_reported(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [("Which plane?", "Transverse  Plane")])
    reading = SlakeDataset(str(tmp_path)).read("train")
    assert reading.samples[0].answers == ("Transverse Plane",)
    assert [defect.reason for defect in reading.defects] == ["white_space_in_answer"]


def test_defects_beside_the_tables_are_found(tmp_path: Path) -> None:
    """Image 1 is sound; 2 has no mask and an empty box list; 3 neither; 4 and 5 pose as masks; 6 has a box outside."""
    rows = [row(1), *(row(10 + number, img_id=2, q_lang="zh") for number in range(3)), row(20, img_id=3, q_lang="zh")]
    write_folder(tmp_path, {"train.json": rows, "validate.json": [row(30, img_id=3)]}, images=())
    box = {"Liver": [0, 0, 2, 2]}
    for number, boxes in {1: [box], 2: [], 3: [box], 4: [box], 5: [box], 6: [{"Liver": [0, 0, WIDTH + 1, 2]}]}.items():
        folder = write_image(tmp_path, number, boxes=boxes)
        if number != 2:
            Image.fromarray(label_map([70])).save(folder / "mask.png")
    (tmp_path / "imgs/xmlab3/detection.json").unlink()
    coloured = np.repeat(label_map([70])[..., None], 3, axis=-1)
    coloured[2:4, 2:9] = (0, 0, 255)
    Image.fromarray(coloured).save(tmp_path / "imgs/xmlab4/mask.png")
    Image.fromarray(label_map([70]).astype(np.uint16)).save(tmp_path / "imgs/xmlab5/mask.png")
    found = list(SlakeDataset(str(tmp_path)).defects())
    assert [(defect.subject, defect.reason) for defect in found] == [
        ("xmlab2", "no_mask"),
        ("xmlab2", "no_boxes"),
        ("xmlab3", "no_boxes"),
        ("xmlab4", "mask_is_no_mask"),
        ("xmlab5", "unreadable_regions"),
        ("xmlab6", "box_outside"),
        ("xmlab2", "image_only_in_chinese"),
    ]
    assert found[-1].detail.startswith("3 Chinese rows")


def test_an_undecodable_picture_is_a_defect_and_no_error(root: Path) -> None:
    (root / "imgs/xmlab1/source.jpg").write_bytes(b"no picture")
    assert next(defect.reason for defect in SlakeDataset(str(root)).defects()) == "unreadable_regions"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
def test_counts_of_the_published_files() -> None:
    dataset = SlakeDataset(str(REAL))
    train, val = dataset.read("train"), dataset.read("val")
    # 4,566 training rows have their image; one of them has no answer.
    assert (len(train.samples), len(val.samples)) == (4565, 941)
    assert Counter(reject.reason for reject in train.rejects) == {
        "other_language": 4916,
        "missing_image": 353,
        "empty_answer": 1,
    }
    assert Counter(reject.reason for reject in val.rejects) == {"other_language": 1046, "missing_image": 112}
    images = [{sample.image_id for sample in reading.samples} for reading in (train, val)]
    assert (len(images[0]), len(images[1]), len(images[0] & images[1])) == (422, 88, 0)
    for reading, english in ((train, 4919), (val, 1053)):
        left_out = Counter(reject.reason for reject in reading.rejects)
        assert len(reading.samples) + left_out.total() - left_out["other_language"] == english
    # All 80 are English and read "Transverse  Plane".
    defects = [Counter(defect.reason for defect in reading.defects) for reading in (train, val)]
    assert defects == [{"white_space_in_answer": 68}, {"white_space_in_answer": 12}]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
def test_both_languages_of_the_published_files_share_no_row() -> None:
    counts = []
    for language in ("en", "zh", "all"):
        dataset = SlakeDataset(str(REAL), language=language)
        counts.append([len(dataset.read("train").samples), len(dataset.read("val").samples)])
    assert counts == [[4565, 941], [3818, 801], [8383, 1742]]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
def test_defects_beside_the_published_tables() -> None:
    found = list(SlakeDataset(str(REAL)).defects())
    assert Counter(defect.reason for defect in found) == {
        "no_mask": 124,
        "mask_is_no_mask": 4,
        "no_boxes": 52,
        "image_only_in_chinese": 84,
    }
    chinese = [defect for defect in found if defect.reason == "image_only_in_chinese"]
    assert sum(int(defect.detail.split()[0]) for defect in chinese) == 922


@pytest.fixture(scope="module")
def published_rows() -> list[dict[str, object]]:
    return [row for row in read_json_list(REAL / "train.json") if isinstance(row, dict)][:1000]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_published_row_that_was_damaged_becomes_one_record_or_one_reject(
    root: Path, published_rows: list[dict[str, object]], data: st.DataObject
) -> None:
    write_table(root, "train.json", [data.draw(st.sampled_from(published_rows).flatmap(mutations))], ascii_only=True)
    reading = SlakeDataset(str(root), language="all").read("train")
    assert len(reading.samples) + len(reading.rejects) == 1


@pytest.mark.skipif(not HUB.is_dir(), reason="samples of hub files are not under shared/data")
def test_published_parquet_files_are_read() -> None:
    files = [HUB / f"mdwiratathya__SLAKE-vqa-english.{name}.parquet" for name in ("train", "validation")]
    readings = [
        SlakeDataset(str(file)).read(split)  # type: ignore[arg-type]
        for file, split in zip(files, ("train", "val"), strict=True)
    ]
    assert [(len(reading.samples), len(reading.rejects)) for reading in readings] == [(12, 0), (12, 0)]


@pytest.mark.skipif(not HUB.is_dir(), reason="samples of hub files are not under shared/data")
def test_published_tables_of_the_hub_ask_for_their_pictures(tmp_path: Path) -> None:
    source = HUB / "BoKelvin__SLAKE"
    with pytest.raises(DataError, match=r"unzip imgs\.zip"):
        SlakeDataset(str(source))
    (tmp_path / "imgs").mkdir()
    for name in ("train.json", "validation.json"):
        shutil.copy(source / name, tmp_path / name)
    for split in ("train", "val"):
        rejects = SlakeDataset(str(tmp_path), language="all").read(split).rejects  # type: ignore[arg-type]
        assert Counter(reject.reason for reject in rejects) == {"missing_image": 40}


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
def test_regions_of_the_published_files() -> None:
    dataset = SlakeDataset(str(REAL))
    regions = {folder.name: dataset.regions(folder.name) for folder in sorted((REAL / "imgs").iterdir())}
    assert len(regions) == 510
    assert sum(region.box is not None for found in regions.values() for region in found) == 1337
    masks = {region.mask for found in regions.values() for region in found if region.mask is not None}
    assert len(masks) == 382 - 51, "51 label maps hold background only"
