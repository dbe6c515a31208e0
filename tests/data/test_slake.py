import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slake_folder import HEIGHT, WIDTH, label_map, row, write_folder, write_image, write_table

from radvqa.data import open_dataset
from radvqa.data.adapters.slake import SlakeDataset
from radvqa.errors import DataError, RecipeError
from radvqa.records import read_records, write_records
from radvqa.sample import Region, VqaSample

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [
        row(7, question=" Which  plane? \n", answer=" Transverse  Plane ", answer_type="OPEN", content_type="Plane"),
        row(3, q_lang="zh", question="这是什么器官?", answer="肝"),
        row(5, img_id=2),
        row(4),
    ]
    return write_folder(tmp_path / "Slake1.0", {"train.json": rows, "validate.json": [row(9)]})


def read_one(root: Path, **changes: object) -> VqaSample:
    write_table(root, "train.json", [row(0, **changes)])
    (sample,) = SlakeDataset(str(root)).read("train").samples
    return sample


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
    assert rejects[1].where.endswith("train.json, row 3")
    assert "xmlab2" in rejects[1].detail


def test_chinese_is_read_on_request(root: Path) -> None:
    reading = SlakeDataset(str(root), language="zh").read("train")
    assert [(sample.language, sample.answers) for sample in reading.samples] == [("zh", ("肝",))]
    assert Counter(reject.reason for reject in reading.rejects) == {"other_language": 3}


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
    assert SlakeDataset.licence == "CC BY 4.0"
    assert "2102.09542" in SlakeDataset.citation
    assert SlakeDataset.homepage.startswith("https://")


def test_an_unknown_language_is_refused(root: Path) -> None:
    with pytest.raises(RecipeError, match="one of en, zh"):
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
def test_a_missing_key_names_row_and_qid(root: Path, key: str) -> None:
    broken = row(8)
    del broken[key]
    write_table(root, "train.json", [row(1), broken])
    with pytest.raises(DataError, match=repr(key)) as caught:
        SlakeDataset(str(root)).read("train")
    assert caught.value.where is not None
    assert "train.json, row 2, qid" in caught.value.where
    if key != "qid":
        assert caught.value.where.endswith("qid 8")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("answer", ""),
        ("answer", " \t"),
        ("answer", 3),
        ("answer", None),
        ("answer", "\ud800"),
        ("question", ""),
        ("question", ["Is it?"]),
        ("answer_type", "YES/NO"),
        ("answer_type", "closed"),
        ("q_lang", None),
        ("modality", 1),
        ("location", ""),
        ("qid", "8"),
        ("qid", True),
        ("qid", 1.5),
        ("qid", -1),
        ("img_id", "1"),
        ("img_name", {"path": "xmlab1/source.jpg"}),
    ],
)
def test_a_wrong_value_names_what_was_expected_and_got(root: Path, key: str, value: object) -> None:
    broken = {**row(8), "img_name": "xmlab1/source.jpg", key: value}
    (root / "train.json").write_text(json.dumps([row(1), broken]), encoding="utf-8")
    with pytest.raises(DataError, match=f"(bad|unknown) {key}") as caught:
        SlakeDataset(str(root)).read("train")
    error = caught.value
    assert error.where is not None
    assert "train.json, row 2, qid" in error.where
    assert error.expected and error.got and error.fix


def test_rows_that_are_no_objects_are_refused(root: Path) -> None:
    write_table(root, "train.json", [row(1), [1, 2]])
    with pytest.raises(DataError, match="row 2"):
        SlakeDataset(str(root)).read("train")


def test_rows_of_the_other_language_are_checked_too(root: Path) -> None:
    write_table(root, "train.json", [row(1, q_lang="zh", answer="")])
    with pytest.raises(DataError, match="bad answer"):
        SlakeDataset(str(root)).read("train")


def test_the_one_row_published_without_an_answer_is_a_reject(root: Path) -> None:
    write_image(root, 281)
    known = row(1622, img_id=281, question="Does the picture contain liver?", answer="", answer_type="OPEN")
    write_table(root, "train.json", [known, row(1)])
    reading = SlakeDataset(str(root)).read("train")
    assert [sample.sample_id for sample in reading.samples] == ["slake-1"]
    assert [reject.reason for reject in reading.rejects] == ["empty_answer"]


def test_a_repeated_qid_names_both_rows(root: Path) -> None:
    write_table(root, "train.json", [row(1), row(2), row(1, q_lang="zh")])
    with pytest.raises(DataError, match="row 3, qid 1") as caught:
        SlakeDataset(str(root)).read("train")
    assert "row 1" in str(caught.value.got)


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
def test_an_image_outside_the_folder_is_refused(root: Path, name: str) -> None:
    with pytest.raises(DataError, match="leaves the data folder") as caught:
        read_one(root, img_name=name)
    assert "row 1, qid 0" in str(caught.value.where)


@pytest.mark.parametrize("name", ["xmlab1/mask.png", "xmlab2/source.jpg", "xmlab1/./source.jpg", "source.jpg"])
def test_only_the_source_picture_of_the_row_is_an_image(root: Path, name: str) -> None:
    with pytest.raises(DataError, match="do not agree"):
        read_one(root, img_name=name)


@pytest.mark.parametrize("linked", ["file", "folder", "images"])
def test_a_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path, linked: str) -> None:
    inside = {"file": root / "imgs/xmlab1/source.jpg", "folder": root / "imgs/xmlab1", "images": root / "imgs"}[linked]
    outside = tmp_path / "outside"
    shutil.move(inside, outside)
    inside.symlink_to(outside)
    with pytest.raises(DataError, match="leaves the data folder"):
        SlakeDataset(str(root)).read("train")
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
    assert Counter(sample.answer_type for sample in val.samples).total() == 941


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
def test_regions_of_the_published_files() -> None:
    dataset = SlakeDataset(str(REAL))
    regions = {folder.name: dataset.regions(folder.name) for folder in sorted((REAL / "imgs").iterdir())}
    assert len(regions) == 510
    assert sum(region.box is not None for found in regions.values() for region in found) == 1337
    masks = {region.mask for found in regions.values() for region in found if region.mask is not None}
    assert len(masks) == 382 - 51, "51 label maps hold background only"
