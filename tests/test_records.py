import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from radvqa import records
from radvqa.errors import DataError, RunError
from radvqa.records import RecordFile, read_records, unwritable, write_bytes, write_json, write_records, write_text
from radvqa.sample import Prediction, Region, Reject, VqaSample

SAMPLE = VqaSample(
    sample_id="a-1",
    image_id="a",
    image=Path("images/a.png"),
    question="Où est le foie?",
    answers=("right", "à droite"),
    answer_type="open",
    group_id="patient-1",
    split="train",
    tags={"modality": "CT"},
)


@pytest.mark.parametrize(
    "record",
    [
        SAMPLE,
        Region(label="liver", box=(1.0, 2.0, 3.0, 4.5), mask=Path("m.png"), mask_value=3),
        Reject(sample_id="b", reason="missing_image", where="t.json, row 3", detail="there is no file"),
        Prediction(
            sample_id="a-1", group_id="g", image_id="a", question="q", references=("yes",), answer_type="closed",
            text="", prompt_id="p", finished=False, token_ids=(), logprob=-1.5,
        ),
    ],
    ids=lambda record: type(record).__name__,
)  # fmt: skip
def test_records_read_back_the_same(tmp_path: Path, record: object) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    assert write_records(path, [record, record]) == 2
    assert read_records(path, type(record)) == [record, record]


@pytest.mark.parametrize("line_end", ["\u2028", "\u2029", "\x85"])
def test_unusual_line_ends_inside_a_text_survive(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "records.jsonl"
    sample = replace(SAMPLE, question=f"one{line_end}two")
    write_records(path, [sample])
    assert read_records(path, VqaSample) == [sample]


def test_a_missing_file_and_a_bad_line_are_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with pytest.raises(DataError, match="records file not found"):
        read_records(path, VqaSample)
    write_records(path, [SAMPLE])
    row = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(path.read_text(encoding="utf-8") + "\n" + json.dumps({**row, "split": "Vaild"}), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_records(path, VqaSample)
    assert "line 3, field split" in str(caught.value)
    assert "Vaild" in str(caught.value)
    path.write_text("{half", encoding="utf-8")
    with pytest.raises(DataError, match="whole line"):
        read_records(path, VqaSample)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="not a file of VqaSample records"):
        read_records(path, VqaSample)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": "é"})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError) as caught:
        write_text(path, "new")
    assert caught.value.got == "No space left on device"
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": "é"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="cannot write to the output folder"):
        write_bytes(tmp_path / "runs" / "a.bin", b"")


def test_a_full_cache_is_told_apart_from_a_full_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    full = OSError(28, "No space left on device")
    assert "XDG_CACHE_HOME" in str(unwritable(tmp_path / "radvqa" / "pictures" / "a.npy", full))
    assert "--set output=DIR" in str(unwritable(tmp_path / "runs" / "a.json", full))


def some_samples(count: int) -> list[VqaSample]:
    return [
        replace(SAMPLE, sample_id=f"a-{n}", image=Path(f"images/é{n % 3}.png"), question=f"{n}?") for n in range(count)
    ]


@pytest.fixture(params=[64, 1 << 22])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that are read at a time: less than a line, or everything."""
    monkeypatch.setattr(records, "_BLOCK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("block")
def test_a_record_file_reads_what_is_asked_for(tmp_path: Path) -> None:
    path, written = tmp_path / "s.jsonl", some_samples(7)
    write_records(path, written)
    file = RecordFile(path, VqaSample)
    assert len(file) == 7
    assert list(file) == written
    assert file[3] == written[3]
    assert file[-1] == written[6]
    assert file[2:5] == written[2:5]
    assert file.line_bytes().sum() == path.stat().st_size
    assert file.containing('"5?"').tolist() == [5]
    assert file.containing("foie").tolist() == []
    with pytest.raises(IndexError):
        file[7]


def test_a_column_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_records(path, some_samples(7))
    values, which = RecordFile(path, VqaSample).column("image")
    assert values == [f"images/é{n}.png" for n in range(3)]
    assert which.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_an_empty_record_file(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_records(path, [])
    file = RecordFile(path, VqaSample)
    assert len(file) == 0
    assert list(file) == []
    assert file.column("image")[0] == []


def test_a_record_file_names_a_line_that_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_records(path, some_samples(3))
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], '{"sample_id": 3}', lines[2]]) + "\n", encoding="utf-8")
    file = RecordFile(path, VqaSample)
    assert file[2].sample_id == "a-2"
    with pytest.raises(DataError, match="not a valid record") as caught:
        file[1]
    assert "line 2" in caught.value.where
    with pytest.raises(DataError, match="records file not found"):
        RecordFile(tmp_path / "none.jsonl", VqaSample)
