import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from radvqa.data import open_dataset
from radvqa.data.adapters.synthetic import SyntheticDataset
from radvqa.data.detect import open_path
from radvqa.errors import DataError
from radvqa.sample import VqaSample


def sample(number: int, **changes: Any) -> VqaSample:
    values: dict[str, Any] = {
        "sample_id": f"s{number}", "image_id": "i", "image": Path("i.png"), "question": f"Question {number}?",
        "answers": (f"answer {number}",), "answer_type": "open", "group_id": "g", "split": "train",
        "synthetic": True, "tags": {"content_type": "organ"},
    }  # fmt: skip
    return VqaSample(**{**values, **changes})


def line(one: VqaSample) -> str:
    return json.dumps({"sample": dataclasses.asdict(one), "reason": ""}, default=str) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "i.png").write_bytes(b"")
    (tmp_path / "pairs").mkdir()
    samples = [
        sample(1), sample(2), sample(3, dialogue_id="d", turn=1), sample(4, dialogue_id="d", turn=2),
        sample(5, dialogue_id="d", turn=3),
    ]  # fmt: skip
    pairs = [dataclasses.replace(one, image=tmp_path / "i.png") for one in samples]
    (tmp_path / "pairs" / "train.jsonl").write_text("".join(map(line, pairs)))
    source = {"adapter": "medpix", "licence": "CC", "citation": "who", "homepage": "https://example.org"}
    (tmp_path / "summary.json").write_text(json.dumps({"captions": {"source": source}}))
    return tmp_path


def decide(folder: Path, *decisions: dict[str, Any], tail: str = "") -> None:
    (folder / "review").mkdir(exist_ok=True)
    lines = "".join(json.dumps({"reader": "r", **one}) + "\n" for one in decisions)
    (folder / "review" / "decisions.jsonl").write_text(lines + tail)


def questions(folder: Path, **options: Any) -> list[str]:
    return [one.question for one in open_dataset("synthetic", {"root": str(folder), **options}).read("train").samples]


def test_pairs_are_read_with_the_terms_of_their_captions(folder: Path) -> None:
    adapter = SyntheticDataset(root=str(folder))
    reading = adapter.read("train")
    assert adapter.splits() == ("train",)
    assert (adapter.licence, adapter.citation, adapter.homepage) == ("CC", "who", "https://example.org")
    assert reading.samples[0] == sample(1, image=folder / "i.png")
    assert not reading.rejects
    assert all(one.synthetic for one in reading.samples)


def test_later_turns(folder: Path) -> None:
    joined = questions(folder)
    assert joined[2] == "Question 3?"
    assert joined[4] == "Question 3? answer 3. Question 4? answer 4. Question 5?"
    assert questions(folder, dialogues="leave")[4] == "Question 5?"
    assert len(questions(folder, dialogues="drop")) == 3
    rejects = open_dataset("synthetic", {"root": str(folder), "dialogues": "drop"}).read("train").reasons()
    assert rejects == {"later_turn": 2}


def test_reviewers_are_heard(folder: Path) -> None:
    decide(
        folder,
        {"sample_id": "s1", "verdict": "accept"},
        {"sample_id": "s1", "verdict": "reject", "reasons": ["wrong_answer"], "reader": "other"},
        {"sample_id": "s2", "verdict": "edit", "question": "Better?", "answer": "better"},
        {"sample_id": "s3", "verdict": "reject"},
        {"sample_id": "s3", "verdict": "withdraw"},
    )
    reading = open_dataset("synthetic", {"root": str(folder)}).read("train")
    assert reading.reasons() == {"reviewer_rejected": 1}
    assert "wrong_answer" in reading.rejects[0].detail
    assert (reading.samples[0].question, reading.samples[0].answers) == ("Better?", ("better",))
    assert len(reading.samples) == 4
    assert len(questions(folder, review="ignore")) == 5
    assert questions(folder, review="accepted") == ["Better?"]


def test_the_last_decision_of_a_reader_counts(folder: Path) -> None:
    decide(folder, {"sample_id": "s1", "verdict": "reject"}, {"sample_id": "s1", "verdict": "accept"}, tail='{"rea')
    assert len(questions(folder)) == 5
    decide(folder, {"sample_id": "s1", "verdict": "maybe"})
    with pytest.raises(DataError, match="row 1"):
        open_dataset("synthetic", {"root": str(folder)})


def test_a_damaged_pair_is_a_reject(folder: Path) -> None:
    table = folder / "pairs" / "train.jsonl"
    table.write_text(table.read_text() + '{"sample": {"sample_id": 5}}\n{"other": 1}\n')
    assert SyntheticDataset(root=str(folder)).read("train").reasons() == {"not_a_record": 1, "missing_key": 1}


def test_the_folder_is_recognised_and_must_be_finished(folder: Path) -> None:
    assert open_path(str(folder), options={}, for_audit=True)[1] == "synthetic"
    (folder / "summary.json").unlink()
    assert not SyntheticDataset.recognises(folder)
    with pytest.raises(DataError, match="goes on where it stopped"):
        SyntheticDataset(root=str(folder))


def test_another_split_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="no split 'val'"):
        SyntheticDataset(root=str(folder)).read("val")


def test_what_screens_removed_and_a_part(folder: Path) -> None:
    removed = [dataclasses.replace(sample(n), image=folder / "i.png") for n in (6, 7)]
    other = dataclasses.replace(sample(8), image=folder / "i.png", split="val")
    (folder / "rejected_pairs.jsonl").write_text("".join(map(line, [*removed, other])))
    assert len(questions(folder)) == 5
    assert len(questions(folder, screens="ignore")) == 7
    adapter = open_dataset("synthetic", {"root": str(folder), "screens": "ignore"})
    assert [path.name for path in adapter.sources()] == ["train.jsonl", "rejected_pairs.jsonl"]
    small = open_dataset("synthetic", {"root": str(folder), "size": 2}).read("train")
    larger = open_dataset("synthetic", {"root": str(folder), "size": 3}).read("train")
    assert small.reasons() == {"not_drawn": 3}
    assert len(larger.samples) == 3
    assert all(one in larger.samples for one in small.samples)


def test_no_turn_is_asked_without_those_before_it(folder: Path) -> None:
    decide(folder, {"sample_id": "s4", "verdict": "reject"})
    reading = open_dataset("synthetic", {"root": str(folder)}).read("train")
    assert reading.reasons() == {"reviewer_rejected": 1, "broken_dialogue": 1}
    assert [one.sample_id for one in reading.samples] == ["s1", "s2", "s3"]


def test_turns_that_a_screen_removed_are_read_in_their_place(folder: Path) -> None:
    lines = (folder / "pairs" / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "pairs" / "train.jsonl").write_text("".join(lines[:3] + lines[4:]))
    (folder / "rejected_pairs.jsonl").write_text(lines[3])
    assert questions(folder, screens="ignore")[4] == "Question 3? answer 3. Question 4? answer 4. Question 5?"
    assert len(questions(folder)) == 3
