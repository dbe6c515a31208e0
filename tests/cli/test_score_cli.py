import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from radvqa.cli.app import app
from radvqa.evaluate.metrics import METRICS
from radvqa.evaluate.prediction_files import read_predictions
from radvqa.evaluate.protocols import PROTOCOLS

ROWS = [
    {"qid": n, "question": "Is the lung normal?", "pred": text, "answer": "Yes", "img_id": n // 2, "modality": "CT"}
    for n, text in enumerate(["Yes", "no", "The answer is yes.", "yes or no", "", None])
]
OFFLINE = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.argv = ["radvqa", *sys.argv[1:]]
from radvqa.cli.app import main
try:
    main()
finally:
    heavy = [name for name in ("torch", "transformers", "peft", "matplotlib") if name in sys.modules]
    print("loaded:", heavy, file=sys.stderr)
"""


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"model": "m", "results": ROWS}))
    return path


def score(*arguments, code=0):
    done = CliRunner().invoke(app, ["score", "--resamples", "200", *map(str, arguments)])
    assert done.exit_code == code, done.output
    assert code or done.exception is None
    return done


def test_json_alone_is_on_standard_output(answers):
    done = score(answers, "--json")
    scores = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert scores["counts"]["states"] == {"answered": 3, "missing": 1, "empty": 1, "ambiguous": 1}
    assert scores["summary"]["overall"]["metrics"]["accuracy"]["mean"] == pytest.approx(2 / 6)
    assert list(scores["protocols"]) == list(PROTOCOLS)
    assert scores["reading"]["columns"]["text"] == "pred"
    assert "items" not in scores
    assert "text <- pred" in done.stderr and "references <- answer" in done.stderr


def test_the_tables_name_everything(answers):
    shown = score(answers).stdout
    assert "6 answers in 3 groups" in shown
    assert "answered 3, missing 1, empty 1, ambiguous 1" in shown
    assert all(name in shown for name in (*METRICS, *PROTOCOLS, "overall (6)", "closed (6)", "bootstrap", "wilson"))
    assert "33.3 [" in shown
    assert shown.rstrip().endswith("Research tool, not for clinical use.")
    assert "nan" not in shown.lower()


def test_rejects_and_missing_groups_are_warnings_on_standard_output_too(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,pred,gt\n1,yes,Yes\n2,no,No\n2,no,No\n3,no,No\n")
    shown = score(path).stdout
    assert "1 rows not scored" in shown
    assert "warning: 1 rows not scored (duplicate_id)" in shown
    assert "warning: no column of groups" in shown


def test_gold_mapping_protocol_items_and_folder(answers, tmp_path):
    gold = tmp_path / "gold.jsonl"
    rows = [
        {"n": n, "question": "?", "target": "Yes", "text": "x", "q_lang": "en" if n < 8 else "zh"} for n in range(10)
    ]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "out"
    done = score(
        answers, "--gold", gold, "--map", "gold.sample_id=n", "--gold-only", "q_lang=en", "--map", "text=pred",
        "--protocol", "mumc", "--items", "--to", folder, "--json",
    )  # fmt: skip
    scores = json.loads(done.stdout)
    assert scores["counts"]["states"]["missing"] == 3
    assert list(scores["protocols"]) == ["mumc"]
    assert [one["sample_id"] for one in scores["items"]] == [str(n) for n in range(8)]
    assert "3 of 8 questions of the gold file have no answer" in done.stderr
    assert json.loads((folder / "scores.json").read_text()) == scores
    assert len(read_predictions(folder / "predictions.jsonl").predictions) == 8
    assert (folder / "rejects.jsonl").read_text() == ""


def test_several_files_are_a_list(answers, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(answers.read_text())
    found = json.loads(score(answers, other, "--json", "--to", tmp_path / "out").stdout)
    assert [one["file"] for one in found] == [str(answers), str(other)]
    assert (tmp_path / "out" / "answers" / "scores.json").is_file()
    assert (tmp_path / "out" / "other" / "scores.json").is_file()
    score(answers, answers, "--to", tmp_path / "out", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "mum"], "no protocol 'mum'"),
        (["--map", "text"], "--map takes NAME=VALUE"),
        (["--map", "text=a", "--map", "text=b"], "twice"),
        (["--map", "txt=a"], "no field that exists"),
        (["--map", "gold.text=a"], "no gold file"),
        (["--gold", "nowhere.json"], "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_message(answers, arguments, message):
    done = score(answers, *arguments, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_neither_torch_nor_the_network_is_needed(answers):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "score", str(answers), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["samples"] == 6
    assert "loaded: []" in done.stderr
