import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from planted import caption, picture, question, report
from typer.testing import CliRunner

from radvqa.audit.page import _place, make_room, write_audit
from radvqa.cli.app import app
from radvqa.errors import RunError

HOSTILE = '<script>alert("1")</script>'


class Tags(HTMLParser):
    """Collects the names of all tags, and the addresses that they load."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.loaded += [str(value) for name, value in attrs if name == "src"]


def written(folder: Path, **datasets: Sequence[object]) -> tuple[dict[str, object], str]:
    data, page = write_audit(report(**datasets), folder / "audit")  # type: ignore[arg-type]
    return json.loads(data.read_text(encoding="utf-8")), page.read_text(encoding="utf-8")


def test_everything_from_the_data_is_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    rows = [question(tmp_path, n, question=HOSTILE, answers=(HOSTILE, "x"), tags={HOSTILE: HOSTILE}) for n in (1, 2)]
    rows.append(question(tmp_path, 1, sample_id=HOSTILE, split="val", group_id=HOSTILE))
    rows.append(question(tmp_path, 2, sample_id="copy", split="val", image=picture(tmp_path, "i1", seed=1)))
    _, page = written(tmp_path, a=rows)
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert tags.loaded
    assert all(address.startswith("data:image/jpeg;base64,") for address in tags.loaded)
    assert "Research tool. Not for clinical use." in page


def test_no_folder_of_the_machine_is_on_the_page(tmp_path: Path) -> None:
    rows = [question(tmp_path, 1), question(tmp_path, 2, image=tmp_path / "lost.png")]
    _, page = written(tmp_path, a=rows)
    assert "lost.png" in page
    assert str(tmp_path) not in page


def test_the_json_holds_every_row_and_the_page_the_first(tmp_path: Path) -> None:
    rows = [caption(tmp_path, number, text="Chest film") for number in range(12)]
    data, page = written(tmp_path, a=rows)
    (short,) = [one for one in data["findings"] if one["check"] == "short_caption"]  # type: ignore[attr-defined]
    assert [one["subjects"] for one in short["evidence"]] == [[f"c{number}"] for number in range(12)]
    assert "7 more in audit.json" in page


def test_an_audit_without_findings_says_what_it_cannot_find(tmp_path: Path) -> None:
    data, page = written(tmp_path, a=[question(tmp_path, number) for number in range(4)])
    assert data["findings"] == []
    assert "No leak was found." in page
    assert "burnt-in text" in page


def test_a_folder_that_cannot_be_written_is_told_before_the_audit(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("")
    with pytest.raises(RunError, match="cannot write the audit here"):
        make_room(tmp_path / "audit")
    make_room(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("/home/Smith, John 1970/ds/train.csv, row 8 (line 9)", "train.csv, row 8 (line 9)"),
        ("/data/x.jsonl, line 3", "x.jsonl, line 3"),
        ("/data/Smith, John/a.png", "a.png"),
        ("", ""),
    ],
)
def test_folders_are_cut_from_places(where: str, shown: str) -> None:
    assert _place(where) == shown


# The verb


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of own data with a leak: one picture in train and val."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed, name in ((1, "a"), (2, "b")):
        picture(tmp_path, name, seed=seed)
    table = "image,question,answer,split\na.png,Is it big?,yes,train\nb.png,Where?,left,train\na.png,What?,a lung,val\n"
    (tmp_path / "table.csv").write_text(table)
    return tmp_path


def test_the_verb_writes_both_and_tells_the_leak(hospital: Path) -> None:
    result = CliRunner().invoke(app, ["data", "audit", str(hospital), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "leak" in result.stdout
    assert "page: audit/audit.html" in result.stdout
    assert (hospital / "audit" / "audit.json").is_file()


def test_json_goes_to_stdout_and_a_leak_can_fail(hospital: Path) -> None:
    result = CliRunner().invoke(app, ["data", "audit", str(hospital), "--json", "--quiet", "--fail-on-leak"])
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert told["severities"]["leak"] >= 1
    assert told == json.loads((hospital / "audit" / "audit.json").read_text())


def test_an_option_for_nobody_is_refused(hospital: Path) -> None:
    result = CliRunner().invoke(app, ["data", "audit", str(hospital), "--set", "slake.language=zh"])
    assert result.exit_code == 2
    assert "no audited data set takes the option 'slake.language'" in result.stderr
