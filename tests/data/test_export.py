import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_rows import mutations
from PIL import Image
from typer.testing import CliRunner

from radvqa.cli.app import app
from radvqa.cli.console import NOTICE
from radvqa.data import open_dataset
from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.adapters.exported import ExportedDataset
from radvqa.data.adapters.slake import SlakeDataset
from radvqa.data.adapters.vqa_rad import VqaRadDataset
from radvqa.data.detect import open_path
from radvqa.data.export import writing as export_module
from radvqa.data.export.card import hub_licence
from radvqa.data.export.layouts import FORMATS, MANIFEST, Format, row_of
from radvqa.data.export.writing import Source, export_dataset
from radvqa.data.imaging import open_image
from radvqa.errors import DataError, RunError
from radvqa.models.layout import prompt_text
from radvqa.run.progress import Progress
from radvqa.sample import SPLITS, CaptionedImage, Defect, Reject, Split, VqaSample

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = {
    "slake": SHARED / "slake" / "Slake1.0",
    "vqa_rad": SHARED / "vqa_rad",
    "medpix": SHARED / "medpix2" / "MedPix-2-0",
}
SOURCE = Source(name="toy", adapter="tests.memory")
TEXT_FORMATS = ("llava", "messages", "paligemma")

every_format = pytest.mark.parametrize("layout", FORMATS)
text_formats = pytest.mark.parametrize("layout", TEXT_FORMATS)


class MemoryDataset(DatasetAdapter):
    licence = "CC BY-SA 4.0"
    citation = "A. Author. A toy. 2026."
    homepage = "https://example.org/toy"

    def __init__(self, items: Iterable[Item | Exception], *, tables: Sequence[Path] = ()) -> None:
        self._items, self._sources = tuple(items), tuple(tables)

    def splits(self) -> tuple[Split, ...]:
        there = {getattr(item, "split", "train") for item in self._items}
        return tuple(split for split in SPLITS if split in there)

    def rows(self, split: Split) -> Iterator[Item]:
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            if getattr(item, "split", "train") == split:
                yield item

    def sources(self) -> tuple[Path, ...]:
        return self._sources


def picture(folder: Path, name: str = "a.png", *, shade: int = 9) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 4), shade).save(path, "PNG")
    return path


def sample(number: int, image: Path, **changes: Any) -> VqaSample:
    return VqaSample(
        **{
            "sample_id": f"toy-{number}",
            "image_id": image.stem,
            "image": image,
            "question": "Is the liver in view?",
            "answers": ("Yes",),
            "answer_type": "closed",
            "group_id": "case 1",
            "split": "train",
            **changes,
        }
    )


def caption(number: int, image: Path, **changes: Any) -> CaptionedImage:
    return CaptionedImage(
        **{
            "sample_id": f"toy-{number}",
            "image_id": image.stem,
            "image": image,
            "text": "CT of the liver.",
            "group_id": "case 1",
            "split": "train",
            **changes,
        }
    )


def written(items: Iterable[Item | Exception], to: Path, layout: Format = "llava", **options: Any) -> dict[str, Any]:
    adapter = MemoryDataset(items, tables=options.pop("tables", ()))
    return export_dataset(adapter, to, layout=layout, **{"source": SOURCE, **options})


def records(folder: Path) -> list[Item]:
    dataset = open_dataset("exported", {"root": str(folder)})
    return [item for split in dataset.splits() for item in dataset.records(split)]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_path(record: Item) -> Item:
    assert isinstance(record, VqaSample | CaptionedImage), record
    return dataclasses.replace(record, image=Path())


def assert_same(found: Sequence[Item], expected: Sequence[Item]) -> None:
    assert list(map(without_path, found)) == list(map(without_path, expected))
    for one, other in zip(found, expected, strict=True):
        assert one.image.read_bytes() == other.image.read_bytes()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.one_of(
    st.text(min_size=1, max_size=8), st.sampled_from(["CON", "con", "..", "a/b", "A", "a", "x" * 300, "肝"])
)
names = names.filter(lambda name: not re.search("[\ud800-\udfff]", name))
mappings = st.dictionaries(texts, texts, max_size=3)


@st.composite
def corpora(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Fields of up to six records of both kinds; ``image`` is the number of one of three pictures."""
    shared = {"image_id": names, "group_id": texts, "split": st.sampled_from(SPLITS), "language": texts}
    shared |= {"tags": mappings, "image": st.integers(0, 2)}
    vqa = {
        "question": texts,
        "answers": st.lists(texts, max_size=3).map(tuple),
        "answer_type": st.sampled_from(["closed", "open"]),
        "answer_type_stated": st.booleans(),
        "choices": st.lists(texts, max_size=3).map(tuple),
        "link_id": texts,
    }
    kinds = st.one_of(
        st.fixed_dictionaries({"kind": st.just(VqaSample), **shared, **vqa}),
        st.fixed_dictionaries({"kind": st.just(CaptionedImage), **shared, "text": texts, "withheld": mappings}),
    )
    rows = draw(st.lists(kinds, min_size=1, max_size=6))
    return [{**row, "sample_id": f"{number}{draw(texts)}"} for number, row in enumerate(rows)]


@every_format
@given(rows=corpora())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_records_come_back_in_their_order(layout: Format, rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The last is the first again, under another name.
        images = [picture(Path(folder), f"{number}.png", shade=number % 2) for number in range(3)]
        corpus = [row["kind"](**{name: value for name, value in row.items() if name != "kind"}) for row in rows]
        corpus = [dataclasses.replace(record, image=images[record.image]) for record in corpus]
        manifest = written(corpus, Path(folder) / "out", layout)
        found = records(Path(folder) / "out")
        assert_same(found, sorted(corpus, key=lambda record: SPLITS.index(record.split)))
        assert manifest["images"] == len({record.image.read_bytes() for record in corpus})


@every_format
@pytest.mark.parametrize("name", REAL)
def test_real_records_come_back(name: str, layout: Format, tmp_path: Path) -> None:
    if not REAL[name].is_dir():
        pytest.skip(f"the shared data set {name} is not here")
    label, adapter_name, adapter = open_path(f"{name}={REAL[name]}")
    export_dataset(adapter, tmp_path / "out", layout=layout, source=Source(name=label, adapter=adapter_name), limit=200)
    expected = []
    for split in adapter.splits():
        every = (item for item in adapter.records(split) if isinstance(item, VqaSample | CaptionedImage))
        expected += [item for item, _ in zip(every, range(200), strict=False)]
    assert len(expected) >= 200
    assert_same(records(tmp_path / "out"), expected)


@every_format
def test_two_exports_of_the_same_data_are_equal_byte_for_byte(layout: Format, tmp_path: Path) -> None:
    items = [
        sample(1, picture(tmp_path)),
        caption(2, picture(tmp_path, "b.png", shade=3)),
        Reject(sample_id="x", reason="r", where="w", detail="d"),
        sample(3, tmp_path / "no_picture.png"),
    ]
    (tmp_path / "no_picture.png").write_bytes(b"not a picture")
    for name in ("one", "two"):
        written(items, tmp_path / name, layout)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) >= 5
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_three_text_formats_are_written_as_the_field_knows_them(tmp_path: Path) -> None:
    asked = sample(1, picture(tmp_path), question="Which\nplane?", answers=("Axial", "Transverse"), language="zh")
    shown = caption(2, picture(tmp_path, "b.jpg", shade=3))
    for layout in TEXT_FORMATS:
        written([asked, shown], tmp_path / layout, layout)

    rows = json.loads((tmp_path / "llava" / "train.json").read_text(encoding="utf-8"))
    assert [(row["id"], row["image"]) for row in rows] == [("toy-1", "images/a.png"), ("toy-2", "images/b.jpg")]
    assert [row["conversations"] for row in rows] == [
        [{"from": "human", "value": "<image>\nWhich\nplane?"}, {"from": "gpt", "value": "Axial"}],
        [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": "CT of the liver."}],
    ]
    first, second = lines(tmp_path / "messages" / "train.jsonl")
    assert first["images"] == ["images/a.png"]
    assert first["messages"] == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which\nplane?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Axial"}]},
    ]
    assert second["messages"][0]["content"][1]["text"] == "Describe the image."
    first, second = lines(tmp_path / "paligemma" / "train.jsonl")
    assert (first["image"], first["prefix"], first["suffix"]) == ("images/a.png", "answer zh Which plane?", "Axial")
    assert (second["prefix"], second["suffix"]) == ("caption en", "CT of the liver.")
    assert first["radvqa"]["answers"] == ["Axial", "Transverse"]


def test_the_exported_prefix_is_the_prompt_that_radvqa_trains_with(tmp_path: Path) -> None:
    asked = sample(1, tmp_path / "a.png", question=" Is \t this\nleft? ")
    prefix = row_of(asked, layout="paligemma", image="a.png")["prefix"]
    assert prefix + "\n" == prompt_text(asked.question, asked.language)


def test_a_hub_table_marks_its_pictures_for_the_datasets_library(tmp_path: Path) -> None:
    path = picture(tmp_path)
    written(
        [sample(1, path, split="val", tags={"modality": "CT"}), caption(2, path, split="val")], tmp_path / "out", "hub"
    )
    table = pq.read_table(tmp_path / "out" / "data" / "validation-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}}
    first, second = table.to_pylist()
    assert first["image"] == {"bytes": path.read_bytes(), "path": "a.png"}
    assert (first["question"], first["answers"], first["text"]) == ("Is the liver in view?", ["Yes"], None)
    assert first["tags"] == [{"key": "modality", "value": "CT"}]
    assert (second["kind"], second["text"], second["question"]) == ("caption", "CT of the liver.", None)


def test_a_long_hub_table_is_cut_into_numbered_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "ROW_GROUP_ROWS", 3)
    monkeypatch.setattr(export_module, "SHARD_BYTES", 1)
    items = [sample(number, picture(tmp_path)) for number in range(8)]
    manifest = written(items, tmp_path / "out", "hub")
    expected = [f"data/train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert list(manifest["splits"]["train"]["tables"]) == expected
    assert_same(records(tmp_path / "out"), items)

    (tmp_path / "out" / expected[1]).unlink()
    with pytest.raises(DataError, match="not complete"):
        records(tmp_path / "out")


def test_a_picture_with_many_questions_is_stored_once_in_a_hub_table(tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    Image.effect_noise((256, 256), 90).save(noise)
    manifest = written([sample(number, noise) for number in range(200)], tmp_path / "out", "hub")
    (table,) = manifest["splits"]["train"]["tables"]
    assert (tmp_path / "out" / table).stat().st_size < 2 * noise.stat().st_size


def test_a_split_without_records_still_has_a_table(tmp_path: Path) -> None:
    gone = sample(2, tmp_path / "gone.png", split="val")
    for layout in FORMATS:
        manifest = written([sample(1, picture(tmp_path)), gone], tmp_path / layout, layout)
        assert manifest["splits"]["val"]["rejects"] == {"missing_image": 1}
        assert len(records(tmp_path / layout)) == 1
        assert ExportedDataset(str(tmp_path / layout)).splits() == ("train", "val")


def test_file_names_are_safe_and_free_on_every_system(tmp_path: Path) -> None:
    odd = ["../../etc/x", "CON", "Scan", "scan", "肝", "a b", ".hidden", "x" * 300, "fine-1_b"]
    items = [
        sample(number, picture(tmp_path, f"{number}.PNG", shade=number), image_id=image_id)
        for number, image_id in enumerate(odd)
    ]
    written(items, tmp_path / "out")
    found = [path.name for path in (tmp_path / "out" / "images").iterdir()]
    assert len({name.casefold() for name in found}) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,150}\.png", name) for name in found)
    assert {"Scan.png", "fine-1_b.png"} <= set(found)
    assert "CON.png" not in found
    assert_same(records(tmp_path / "out"), items)


@every_format
def test_a_picture_that_cannot_be_decoded_is_a_counted_reject(layout: Format, tmp_path: Path) -> None:
    whole = picture(tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(whole.read_bytes()[:50])
    items = [sample(1, whole), sample(2, broken), sample(3, broken), sample(4, whole)]
    manifest = written(items, tmp_path / "out", layout)
    assert manifest["splits"]["train"]["records"] == 2
    assert manifest["splits"]["train"]["rejects"] == {"unreadable_image": 2}
    rejects = lines(tmp_path / "out" / "rejects.jsonl")
    assert [(one["sample_id"], one["reason"], one["split"]) for one in rejects] == [
        ("toy-2", "unreadable_image", "train"),
        ("toy-3", "unreadable_image", "train"),
    ]
    assert_same(records(tmp_path / "out"), [items[0], items[3]])


@every_format
def test_of_a_dicom_file_only_the_picture_is_passed_on(layout: Format, tmp_path: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientName = "Doe^Jane"
    dataset.Modality, dataset.PhotometricInterpretation = "OT", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 4, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = bytes(range(0, 160, 10))
    dataset.save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    items = [sample(1, tmp_path / "scan.dcm"), sample(2, picture(tmp_path)), sample(3, tmp_path / "scan.dcm")]

    manifest = written(items, tmp_path / "out", layout)
    found = records(tmp_path / "out")
    assert list(map(without_path, found)) == list(map(without_path, items))
    assert (manifest["images"], manifest["converted_from_dicom"]) == (2, 1)
    assert open_image(found[0].image).tobytes() == open_image(items[0].image).tobytes()
    assert found[0].image.suffix == ".png"
    for path in (tmp_path / "out").rglob("*.*"):
        assert path.is_dir() or b"Jane" not in path.read_bytes()


@every_format
def test_a_record_that_is_no_unicode_is_a_counted_reject(layout: Format, tmp_path: Path) -> None:
    items = [sample(1, picture(tmp_path)), sample(2, picture(tmp_path), group_id="a\udcff")]
    assert written(items, tmp_path / "out", layout)["splits"]["train"]["rejects"] == {"not_unicode": 1}
    assert_same(records(tmp_path / "out"), items[:1])


def test_rejects_and_defects_are_counted_and_kept(tmp_path: Path) -> None:
    defect = Defect(subject="toy-1", reason="integer_answer", where="a.csv, row 1", detail="3")
    reject = Reject(sample_id="a\udcff", reason="wrong_type", where="a.csv, row 2", detail="d", malformed=True)
    manifest = written([sample(1, picture(tmp_path)), defect, reject], tmp_path / "out")
    train = manifest["splits"]["train"]
    assert (train["defects"], train["rejects"], train["malformed_rejects"]) == (
        {"integer_answer": 1},
        {"wrong_type": 1},
        1,
    )
    assert lines(tmp_path / "out" / "defects.jsonl") == [{**dataclasses.asdict(defect), "split": "train"}]
    assert lines(tmp_path / "out" / "rejects.jsonl")[0]["where"] == "a.csv, row 2"


def test_an_export_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    root = tmp_path / "home" / "someone" / "data"
    table = root / "tables" / "rows.csv"
    image = picture(root)
    table.parent.mkdir()
    table.write_text("x")
    items = [
        sample(1, image),
        sample(2, root / "gone.png"),
        Defect(subject="toy-1", reason="r", where=f"{table}, row 1", detail=f"see {root}, {Path.home()}/x"),
    ]
    source = Source(name="toy", adapter="own", root=root, options={"table": str(table), "language": "en"})
    manifest = written(items, tmp_path / "out", source=source, tables=[table])
    for path in (tmp_path / "out").glob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert str(tmp_path) not in text, path.name
        assert f"{Path.home()}/" not in text, path.name
    assert lines(tmp_path / "out" / "rejects.jsonl")[0]["detail"] == "there is no file gone.png"
    assert lines(tmp_path / "out" / "defects.jsonl")[0]["where"] == "tables/rows.csv, row 1"
    assert manifest["source"]["options"] == {"table": "rows.csv", "language": "en"}
    assert list(manifest["source"]["files"]) == ["rows.csv"]


def test_the_folder_of_a_table_that_is_exported_is_cut_too(tmp_path: Path) -> None:
    table = tmp_path / "someone" / "rows.csv"
    image = picture(table.parent)
    table.write_text("x")
    items = [sample(1, image), sample(2, table.parent / "gone.png")]
    written(items, tmp_path / "out", source=Source(name="toy", adapter="own", root=table), tables=[table])
    for path in (tmp_path / "out").glob("*.*"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path.name
    assert lines(tmp_path / "out" / "rejects.jsonl")[0]["detail"] == "there is no file gone.png"


def test_text_that_llava_would_take_for_a_picture_is_rejected(tmp_path: Path) -> None:
    image = picture(tmp_path)
    items = [
        sample(1, image),
        sample(2, image, question="What does <image> show?"),
        sample(3, image, answers=("<image>",)),
        caption(4, image, text="A <image> of the liver."),
    ]
    manifest = written(items, tmp_path / "llava")
    assert manifest["splits"]["train"]["rejects"] == {"placeholder_in_answer": 2, "placeholder_in_question": 1}
    assert_same(records(tmp_path / "llava"), items[:1])
    written(items, tmp_path / "messages", "messages")
    assert_same(records(tmp_path / "messages"), items)


def test_limit_and_splits_choose_what_is_written(tmp_path: Path) -> None:
    image = picture(tmp_path)
    items = [
        sample(number, image, split=split) for number, split in enumerate(("train", "val", "train", "train", "val"))
    ]
    manifest = written(items, tmp_path / "out", limit=2, splits=["train"])
    assert [record.sample_id for record in records(tmp_path / "out")] == ["toy-0", "toy-2"]
    assert (manifest["limit"], list(manifest["splits"])) == (2, ["train"])
    assert "at most 2 records of each split" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="no split 'test'"):
        written(items, tmp_path / "other", splits=["test"])


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    items = [sample(1, picture(tmp_path, "in/a.png"))]
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("used", "file", "link"):
        with pytest.raises(RunError, match="in use"):
            written(items, tmp_path / name)
    assert (used / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    written(items, tmp_path / "empty")
    assert len(records(tmp_path / "empty")) == 1


@every_format
def test_a_failed_export_leaves_nothing_behind(layout: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(tmp_path, "in/a.png")
    with pytest.raises(DataError, match="table ends here"):
        written([sample(1, image), DataError("table ends here")], tmp_path / "out", layout)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "card", full)
    with pytest.raises(RunError, match="No space left on device") as caught:
        written([sample(1, image)], tmp_path / "out", layout)
    assert "--to DIR" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_an_export_without_a_single_record_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 missing_image; the first: .*gone\.png"):
        written([sample(1, tmp_path / "gone.png")], tmp_path / "out")
    with pytest.raises(DataError, match="no rows at all"):
        written([], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_records_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "SECONDS_BETWEEN_LINES", 0.0)
    said: list[str] = []
    progress = Progress()
    monkeypatch.setattr(Progress, "say", lambda self, text: said.append(text))
    written([sample(number, picture(tmp_path)) for number in range(2)], tmp_path / "out", progress=progress)
    assert said == [
        "train: 1 records, 1 images so far",
        "train: 2 records, 1 images so far",
        "train: 2 records, 1 images",
    ]


def test_an_export_streams(tmp_path: Path) -> None:
    image = picture(tmp_path)
    alive: set[str] = set()

    class Counted(MemoryDataset):
        def rows(self, split: Split) -> Iterator[Item]:
            for number in range(600):
                if number == 599:
                    partial = next(path for path in tmp_path.iterdir() if path.name.startswith(".out."))
                    alive.update(path.name for path in partial.rglob("*") if path.stat().st_size > 10_000)
                # Text that cannot be packed, so that whole blocks reach the disk.
                yield sample(number, image, question=hashlib.sha256(b"%d" % number).hexdigest())

        def splits(self) -> tuple[Split, ...]:
            return ("train",)

    for layout, name in (("llava", "train.json"), ("hub", "train-00000.parquet")):
        alive.clear()
        export_dataset(Counted([]), tmp_path / f"out.{layout}", layout=layout, source=SOURCE)
        assert name in alive


def test_the_card_states_licence_counts_and_what_was_left_out(tmp_path: Path) -> None:
    image = picture(tmp_path)
    items = [
        sample(1, image),
        sample(2, image, answers=("Two",), answer_type="open", split="val", language="zh"),
        caption(3, image),
        Reject(sample_id="x", reason="wrong_type", where="w", detail="d"),
    ]
    written(items, tmp_path / "out", "hub")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "pretty_name": "toy",
        "license": "cc-by-sa-4.0",
        "language": ["en", "zh"],
        "task_categories": ["visual-question-answering", "image-to-text"],
        "tags": ["medical", "radiology"],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "data/train-*.parquet"},
                    {"split": "validation", "path": "data/validation-*.parquet"},
                ],
            }
        ],
    }
    for part in (
        "not for clinical use",
        "- Licence, as the source states it: CC BY-SA 4.0",
        "- Cite: A. Author. A toy. 2026.",
        "| train | 2 | 1 | 0 | 1 | 1 |",
        "| val | 1 | 0 | 1 | 0 | 1 |",
        "| train | wrong_type | 1 |",
        "data/train-00000-of-00001.parquet",
    ):
        assert part in body


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC0 1.0", "cc0-1.0"),
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("MIT", "mit"),
        ("CC BY 4.0 or CC BY-NC 4.0, the cards disagree", "other"),
        ("none stated", "other"),
        (SlakeDataset.licence, "other"),
        (VqaRadDataset.licence, "other"),
        ("", "other"),
    ],
)
def test_only_an_exact_licence_gets_an_identifier_of_the_hub(text: str, identifier: str) -> None:
    assert hub_licence(text) == identifier


def test_an_opened_export_states_licence_and_citation_of_its_source(tmp_path: Path) -> None:
    written([sample(1, picture(tmp_path))], tmp_path / "out")
    opened = ExportedDataset(str(tmp_path / "out"))
    assert (opened.licence, opened.citation, opened.homepage) == (
        "CC BY-SA 4.0",
        "A. Author. A toy. 2026.",
        "https://example.org/toy",
    )
    assert ExportedDataset.licence == "as the folder's own README.md states it"
    assert opened.sources() == (tmp_path / "out" / "train.json",)


@text_formats
def test_a_row_that_was_edited_on_one_side_is_rejected(layout: Format, tmp_path: Path) -> None:
    written([sample(1, picture(tmp_path)), sample(2, picture(tmp_path), answers=("Left",))], tmp_path / "out", layout)
    table = tmp_path / "out" / ("train.json" if layout == "llava" else "train.jsonl")
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace('["Left"]', '["Right"]'), encoding="utf-8")
    _, reject = records(tmp_path / "out")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.malformed) == ("fields_disagree", True)
    table.write_text(text.replace('"Left"', '"Right"'), encoding="utf-8")
    assert records(tmp_path / "out")[1].answers == ("Right",)


def test_rows_that_were_taken_out_are_noticed(tmp_path: Path) -> None:
    written([sample(number, picture(tmp_path)) for number in range(3)], tmp_path / "out", "paligemma")
    table = tmp_path / "out" / "train.jsonl"
    table.write_text(table.read_text(encoding="utf-8").partition("\n")[0], encoding="utf-8")
    _, defect = records(tmp_path / "out")
    assert isinstance(defect, Defect)
    assert (defect.subject, defect.reason) == ("train", "other_row_count")
    assert "3 records were exported, the tables hold 1 rows" in defect.detail


@text_formats
@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "C:\\a.png", ""])
def test_no_picture_outside_the_folder_is_read(layout: Format, name: str, tmp_path: Path) -> None:
    written([sample(1, picture(tmp_path))], tmp_path / "out", layout)
    table = next((tmp_path / "out").glob("train.*"))
    table.write_text(
        table.read_text(encoding="utf-8").replace("images/a.png", json.dumps(name)[1:-1]), encoding="utf-8"
    )
    (reject,) = records(tmp_path / "out")
    assert isinstance(reject, Reject)
    assert reject.reason == "path_leaves_folder"


@text_formats
def test_any_mutated_row_is_a_record_or_a_reject(layout: Format, tmp_path: Path) -> None:
    image = picture(tmp_path)
    written([sample(1, image), caption(2, image)], tmp_path / "out", layout)
    table = next((tmp_path / "out").glob("train.*"))
    text = table.read_text(encoding="utf-8")
    rows = json.loads(text) if layout == "llava" else [json.loads(line) for line in text.splitlines()]

    @given(data=st.data())
    @settings(max_examples=150, deadline=None)
    def read(data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(rows))
        if data.draw(st.booleans()):
            row = {**row, "radvqa": data.draw(mutations(row["radvqa"]))}
        else:
            row = data.draw(mutations(row))
        changed = json.dumps([row]) if layout == "llava" else json.dumps(row)
        table.write_text(changed + "\n", encoding="utf-8")
        found = records(tmp_path / "out")
        # The second item says that a row is missing.
        assert len(found) == 2
        assert isinstance(found[0], VqaSample | CaptionedImage | Reject)

    read()


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_hub_row_is_a_record_or_a_reject(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("hub")
    image = picture(folder)
    written([sample(1, image, tags={"plane": "Axial"}), caption(2, image)], folder / "out", "hub")
    (table,) = (folder / "out" / "data").iterdir()
    content = pq.read_table(table)
    column = data.draw(st.sampled_from(content.column_names))
    change = data.draw(st.sampled_from(["drop", "null", "other"]))
    rows = content.to_pylist()
    for row in rows:
        if change == "drop":
            del row[column]
        else:
            row[column] = (
                None if change == "null" else data.draw(st.sampled_from([3, "x", True, [], [1], {"key": "x"}, b"x"]))
            )
    schema = content.schema if change == "null" else None
    try:
        changed = export_module.pa.Table.from_pylist(rows, schema=schema)
    except (export_module.pa.ArrowException, TypeError):
        return  # the two rows got values of two types, which no Parquet file can hold
    pq.write_table(changed, table)
    found = records(folder / "out")
    assert len(found) == 2
    assert all(isinstance(item, VqaSample | CaptionedImage | Reject) for item in found)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{",
        {"layout": 2},
        {"format": "coco"},
        {"format": ["llava"]},
        {"splits": {}},
        {"splits": {"dev": {"records": 1}}},
        {"splits": {"train": {"records": "1"}}},
        {"source": {}},
        {"source": {"licence": 1, "citation": "", "homepage": ""}},
    ],
)
def test_a_damaged_manifest_is_told_in_one_message(damage: Any, tmp_path: Path) -> None:
    manifest = written([sample(1, picture(tmp_path))], tmp_path / "out")
    text = damage if isinstance(damage, str) else json.dumps({**manifest, **damage})
    (tmp_path / "out" / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="no folder that radvqa exported"):
        ExportedDataset(str(tmp_path / "out"))


def test_an_export_is_recognised_by_its_manifest(tmp_path: Path) -> None:
    for layout in FORMATS:
        written([sample(1, picture(tmp_path))], tmp_path / f"from_{layout}", layout)
        label, name, adapter = open_path(str(tmp_path / f"from_{layout}"))
        assert (label, name, type(adapter)) == (f"from_{layout}", "exported", ExportedDataset)


def test_an_export_of_an_export_keeps_the_records(tmp_path: Path) -> None:
    items: list[Item] = [sample(1, picture(tmp_path)), caption(2, picture(tmp_path, "b.png", shade=3))]
    written(items, tmp_path / "hub", "hub")
    export_dataset(ExportedDataset(str(tmp_path / "hub")), tmp_path / "llava", layout="llava", source=SOURCE)
    assert_same(records(tmp_path / "llava"), items)


def test_the_verb_exports_and_its_folder_is_read_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["data", "export", "phantom", "--format", "messages", "--to", str(out)]
    options = ["--split", "val", "--set", "count={val: 2}", "--set", "size=112", "--quiet"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"phantom: {out} (messages)\n\nval: 12 records about 2 images\n")
    assert done.stdout.endswith(f"{NOTICE}\n")
    assert done.stderr == ""
    assert len(records(out)) == 12

    again = CliRunner().invoke(app, [*arguments, *options])
    assert again.exit_code == 2
    assert "in use" in again.stderr


def test_the_verb_prints_its_manifest_as_json(tmp_path: Path) -> None:
    written([sample(1, picture(tmp_path)), sample(2, tmp_path / "gone.png")], tmp_path / "first")
    arguments = [
        "data",
        "export",
        f"exported={tmp_path / 'first'}",
        "--format",
        "hub",
        "--to",
        str(tmp_path / "second"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed.pop("folder") == str(tmp_path / "second")
    assert printed == json.loads((tmp_path / "second" / MANIFEST).read_text(encoding="utf-8"))
    assert "train: 1 records, 1 images" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--format", "llava"], "there is no such folder or file"),
        (["phantom", "--format", "llava", "--set", "size"], "--set needs option=value"),
        (["phantom", "--format", "llava", "--set", "colour=red"], "has no option 'colour'"),
        (["phantom", "--format", "llava", "--set", "slake.size=1"], "does not take the option 'slake.size'"),
        (["phantom", "--format", "llava", "--split", "dev"], "has no split 'dev'"),
        (["phantom", "--format", "coco"], "coco"),
    ],
)
def test_what_the_user_can_mend_is_told_without_traceback(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "export", *arguments, "--to", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
