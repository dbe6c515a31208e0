import json
import random

import pytest
from typer.testing import CliRunner

from radvqa.cli.app import app
from radvqa.errors import RunError
from radvqa.records import write_json, write_records, write_text
from radvqa.report.folder import predictions_file
from radvqa.sample import Prediction

FIELDS = {"prompt_id": "p", "finished": True, "token_ids": (), "logprob": None}


def answers(name, share, count=60):
    choose = random.Random(name)
    return [
        Prediction(
            sample_id=f"q{number}", group_id=f"g{number // 2}", image_id=f"i{number // 2}", question="Is it?",
            references=("Yes",), answer_type="closed" if number % 2 else "open",
            text="Yes" if choose.random() < share else "No", tags={"modality": "CT"}, **FIELDS,
        )
        for number in range(count)
    ]  # fmt: skip


def call(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{name}.jsonl" for name in ("a", "b")]
    write_records(paths[0], answers("a", 0.3))
    write_records(paths[1], answers("b", 0.9))
    return paths


def test_files_are_compared_in_words(files):
    result = call(*files)
    assert result.exit_code == 0, result.output
    assert "b is better than a by" in result.stdout
    assert "Compared by accuracy on 60 questions in 30 groups" in result.stdout
    assert "Research tool, not for clinical use." in result.stdout


def test_json_holds_numbers_and_conclusions_and_nothing_else_is_on_stdout(files):
    told = json.loads(call(*files, "--json", "--margin", "3", "--by", "modality").stdout)
    assert told["reference"] == "a"
    assert told["margin"] == pytest.approx(0.03)
    assert list(told["models"]["b"]["slices"]) == ["modality"]
    assert told["conclusions"]["b"][0].startswith("b is better than a")
    assert told["page"] is None


def test_the_reference_can_be_chosen_and_names_given(files, tmp_path):
    told = json.loads(call(f"old={files[0]}", f"new={files[1]}", "--reference", "new", "--json").stdout)
    assert told["reference"] == "new"
    assert list(told["models"]) == ["old"]
    assert told["models"]["old"]["parts"]["all"]["verdict"] == "worse"
    wrong = call(*files, "--reference", "c")
    assert wrong.exit_code == 2
    assert "no predictions named 'c'" in wrong.stderr


def test_folders_are_named_by_what_tells_them_apart(tmp_path):
    for run, share in (("one", 0.3), ("two", 0.9)):
        folder = tmp_path / run / "slake"
        write_records(folder / "predictions" / "val.jsonl", answers(run, share))
        write_records(folder / "predictions" / "val_blank.jsonl", answers("blank", 0.1))
        write_json(folder / "summary.json", {"split": "val"})
    told = json.loads(call(tmp_path / "one" / "slake", tmp_path / "two" / "slake", "--json").stdout)
    assert told["reference"] == "one/slake"
    assert list(told["models"]) == ["two/slake"]
    assert told["models"]["two/slake"]["parts"]["all"]["model"] > 0.7


def test_a_page_is_written(files, tmp_path):
    result = call(*files, "--to", tmp_path / "page")
    assert result.exit_code == 0
    text = (tmp_path / "page" / "comparison.html").read_text(encoding="utf-8")
    assert "b is better than a by" in text
    assert str(tmp_path) not in text


def test_other_questions_need_common(files):
    write_records(files[1], answers("b", 0.9)[:50])
    refused = call(*files)
    assert refused.exit_code == 2
    assert "--common" in refused.stderr
    told = json.loads(call(*files, "--common", "--json").stdout)
    assert (told["samples"], told["models"]["b"]["only_reference"]) == (50, 10)


def test_one_set_and_unknown_metrics_are_refused(files):
    assert "nothing to compare" in call(files[0]).stderr
    assert call(*files, "--metric", "beauty").exit_code == 2
    assert "called 'x'" in call(f"x={files[0]}", f"x={files[1]}").stderr


def test_the_answers_of_a_folder_are_found(tmp_path):
    with pytest.raises(RunError, match="holds no answers"):
        predictions_file(tmp_path)
    write_text(tmp_path / "predictions" / "val.jsonl", "")
    write_text(tmp_path / "predictions" / "val_blank.jsonl", "")
    assert predictions_file(tmp_path).name == "val.jsonl"
    write_text(tmp_path / "predictions" / "test.jsonl", "")
    with pytest.raises(RunError, match="unclear"):
        predictions_file(tmp_path)
    write_json(tmp_path / "summary.json", {"split": "test"})
    assert predictions_file(tmp_path).name == "test.jsonl"
