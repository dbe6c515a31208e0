import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.errors import RunError
from radvqa.run.journal import Journal


def test_entries_are_there_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "deep" / "journal.jsonl") as journal:
        journal.append("a", {"n": 1})
        journal.append("b", {"n": 2})
        journal.append("a", {"n": 3})
        assert journal["a"] == {"key": "a", "n": 3}
    with Journal(tmp_path / "deep" / "journal.jsonl") as journal:
        assert len(journal) == 2
        assert "a" in journal
        assert "c" not in journal
        assert journal["a"]["n"] == 3
        assert [entry["n"] for entry in journal.entries()] == [1, 2, 3]
        with pytest.raises(KeyError):
            journal["c"]


@given(cut=st.integers(min_value=1, max_value=40))
def test_a_torn_line_is_cut_off_and_written_again(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("whole", {"text": "é\n\N{GRINNING FACE}"})
        journal.append("torn", {"text": "y" * 20})
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with Journal(path) as journal:
        assert ("torn" in journal) is False
        assert journal.cut_bytes == len(content.splitlines()[1]) + 1 - cut
        assert journal["whole"]["text"] == "é\n\N{GRINNING FACE}"
        journal.append("torn", {"text": "y" * 20})
    assert path.read_bytes() == content


def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key":"a"}\n{"kex":"b"}\n{"key":"c"}\n')
    with pytest.raises(RunError, match="line 2"):
        Journal(path)
    path.write_text('{"key":"a"}\n[1]\n')
    with pytest.raises(RunError, match="line 2"):
        Journal(path)


def test_only_one_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(RunError, match="another process"):
        Journal(path)
    Journal(path).close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("a", {"n": 1})
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda file, data, place: real(file, data[:5], place))
        with pytest.raises(RunError, match="free some space"):
            journal.append("b", {"n": 2})
        assert path.read_text() == '{"key":"a","n":1}\n'
        monkeypatch.undo()
        journal.append("b", {"n": 2})
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2]


def test_what_was_appended_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    code = (
        "import sys; from pathlib import Path; from radvqa.run.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(1_000_000):\n    journal.append(str(n), {'n': n})\n    print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    told += [int(line) for line in process.stdout.read().splitlines() if line.strip()]
    process.stdout.close()
    with Journal(path) as journal:
        assert all(str(n) in journal for n in told)
        assert len(journal) - len(told) in (0, 1)


def test_growth_is_linear(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        began = time.process_time()
        for n in range(2_000):
            journal.append(f"{n:06}", {"text": "x" * 100})
        first, size = time.process_time() - began, path.stat().st_size
        for n in range(2_000, 20_000):
            journal.append(f"{n:06}", {"text": "x" * 100})
        last = time.process_time() - began - first
    assert path.stat().st_size == 10 * size
    assert last < 9 * first * 3
