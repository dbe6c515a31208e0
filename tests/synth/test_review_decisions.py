import errno
import json
import multiprocessing
import os
from dataclasses import replace

import pytest

from radvqa.errors import DataError, RecipeError, RunError
from radvqa.synth.review import decisions
from radvqa.synth.review.decisions import Decision, DecisionFile, decision_fault, reader_name, standing

ACCEPT = Decision(sample_id="pair/1", reader="ana", verdict="accept", seconds=4.5)
EDIT = replace(ACCEPT, verdict="edit", question="Which organ?", answer="liver")
REJECT = replace(
    ACCEPT, verdict="reject", reasons=("not_visible", "other"), note="cut off \u2028 at the \U0001f600 edge"
)


@pytest.fixture
def file(tmp_path):
    return DecisionFile(tmp_path / "review" / "decisions.jsonl")


def test_what_is_appended_is_read(file):
    written = [file.append(one) for one in (ACCEPT, EDIT, REJECT)]
    assert file.read().decisions == tuple(written)
    assert [one.sequence for one in written] == [1, 2, 3]
    assert all(one.time.utcoffset().total_seconds() == 0 for one in written)
    assert replace(written[1], sequence=0, time=None) == EDIT


def test_the_file_only_grows(file):
    before = b""
    for one in (ACCEPT, replace(ACCEPT, verdict="withdraw"), EDIT):
        file.append(one)
        after = file.path.read_bytes()
        assert after.startswith(before) and after.count(b"\n") == before.count(b"\n") + 1
        before = after


def test_a_decision_that_is_sent_again_is_no_new_line(file):
    """A server that is killed between the disk and its answer gets the same decision again."""
    first = file.append(REJECT)
    assert DecisionFile(file.path).append(REJECT) == first
    file.append(replace(REJECT, reader="ben"))  # another reader in between
    assert file.append(REJECT) == first
    assert [one.sequence for one in file.read().decisions] == [1, 2]
    assert file.append(replace(REJECT, seconds=5.0)).sequence == 3
    assert file.append(replace(ACCEPT, sample_id="pair/2")).sequence == 4
    assert file.append(replace(REJECT, seconds=5.0)).sequence == 5  # decided anew after another


def test_no_file_is_no_decision(file):
    assert file.read().decisions == ()
    assert file.mend() == 0
    assert not file.path.exists()


def test_the_last_decision_of_a_reader_stands():
    other = replace(ACCEPT, reader="ben", verdict="reject", reasons=("other",), note="n")
    assert standing([ACCEPT, other, EDIT]) == {"pair/1": {"ana": EDIT, "ben": other}}
    withdrawn = replace(ACCEPT, verdict="withdraw")
    assert standing([ACCEPT, other, withdrawn]) == {"pair/1": {"ben": other}}
    assert standing([ACCEPT, withdrawn]) == {}
    assert standing([withdrawn, EDIT]) == {"pair/1": {"ana": EDIT}}


@pytest.mark.parametrize("kept", [1, 20, -1], ids=["one byte", "some", "all but the line end"])
def test_half_a_line_is_cut_and_counted(file, kept):
    file.append(ACCEPT)
    whole = file.path.read_bytes()
    file.append(EDIT)
    torn = file.path.read_bytes()[len(whole) :][:kept]
    file.path.write_bytes(whole + torn)
    again = DecisionFile(file.path)
    assert (again.read().unfinished, len(again.read().decisions)) == (1, 1)
    assert file.path.read_bytes() == whole + torn  # reading changes nothing
    assert again.mend() == 1
    assert file.path.read_bytes() == whole
    assert (again.mend(), again.read().unfinished) == (0, 0)


def test_appending_cuts_half_a_line_first(file):
    file.append(ACCEPT)
    with file.path.open("ab") as stream:
        stream.write(b'{"sample_id": "pair/2", "rea')
    assert file.append(EDIT).sequence == 2
    assert file.cut == 1
    assert [one.verdict for one in file.read().decisions] == ["accept", "edit"]


def test_half_of_the_first_line(file):
    file.path.parent.mkdir()
    file.path.write_bytes(b'{"sample')
    assert file.append(ACCEPT).sequence == 1
    assert len(file.read().decisions) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"verdict": "maybe"}, "verdict"),
        ({"reasons": ["because"]}, "reasons"),
        ({"verdict": "reject", "reasons": []}, "without a reason"),
        ({"sequence": 7}, "sequence 7"),
        ({"time": None}, "no time"),
        ({"time": "2030-01-01T00:00:00"}, "zone"),
        ({"time": "yesterday"}, "time"),
        ({"seconds": -1}, "seconds"),
    ],
)
def test_an_invalid_line_is_named(file, change, told):
    for number in range(3):
        file.append(replace(ACCEPT, seconds=number))
    lines = file.path.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    file.path.write_text("\n".join(lines) + "\n")
    for act in (file.read, lambda: file.append(ACCEPT), file.mend):
        with pytest.raises(DataError, match="line 2") as error:
            act()
        assert told in error.value.got


@pytest.mark.parametrize("line", [b"", b"not json", b"\xff\xfe", b"null", b"[]"])
def test_a_line_that_is_no_decision(file, line):
    file.append(ACCEPT)
    with file.path.open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(DataError, match="line 2"):
        file.read()


def test_an_empty_first_line(file):
    file.path.parent.mkdir()
    file.path.write_bytes(b"\n")
    with pytest.raises(DataError, match="line 1"):
        file.append(ACCEPT)


def test_a_missing_line_is_noticed(file):
    for number in range(3):
        file.append(replace(ACCEPT, seconds=number))
    lines = file.path.read_bytes().splitlines(keepends=True)
    file.path.write_bytes(lines[0] + lines[2])
    with pytest.raises(DataError, match="sequence 3"):
        file.read()


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (replace(ACCEPT, reader=""), "no reader"),
        (replace(ACCEPT, sample_id=""), "no pair"),
        (replace(REJECT, reasons=()), "without a reason"),
        (replace(REJECT, note=" "), "without a note"),
        (replace(REJECT, reasons=("other", "other")), "twice"),
        (replace(ACCEPT, reasons=("other",), note="n"), "without a rejection"),
        (replace(EDIT, question=" "), "without its question"),
        (replace(EDIT, answer=""), "without its question or answer"),
        (replace(ACCEPT, answer="liver"), "without an edit"),
        (replace(ACCEPT, note="n" * 2001), "2000 characters"),
        (replace(ACCEPT, note="\ud800"), "surrogate"),
        (replace(ACCEPT, seconds=float("nan")), "no number"),
        (replace(ACCEPT, seconds=float("inf")), "no number"),
        (replace(ACCEPT, seconds=-0.1), "outside"),
        (replace(ACCEPT, seconds=1e6), "outside"),
    ],
)
def test_what_is_no_whole_decision_is_not_written(file, decision, told):
    assert told in decision_fault(decision)
    with pytest.raises(DataError, match=told):
        file.append(decision)
    assert not file.path.exists()


def test_whole_decisions():
    for one in (ACCEPT, EDIT, REJECT, replace(ACCEPT, verdict="withdraw"), replace(ACCEPT, note="fine")):
        assert decision_fault(one) == ""


def test_a_full_disk_leaves_the_file_as_it_was(file, monkeypatch):
    file.append(ACCEPT)
    before = file.path.read_bytes()
    real = os.write

    def half(descriptor, content):
        if len(content) > 40:
            return real(descriptor, content[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(decisions.os, "write", half)
    monkeypatch.setattr(decisions, "_write_all", lambda d, c: (half(d, c), half(d, b"")))
    with pytest.raises(RunError, match="No space left"):
        file.append(EDIT)
    monkeypatch.undo()
    assert file.path.read_bytes() == before
    assert file.append(EDIT).sequence == 2
    assert file.cut == 0


def test_short_writes_are_continued(file, monkeypatch):
    real = os.write
    monkeypatch.setattr(decisions.os, "write", lambda descriptor, content: real(descriptor, content[:7]))
    file.append(EDIT)
    assert file.read().decisions[0].answer == "liver"


def test_each_decision_is_on_the_disk(file, monkeypatch):
    synced = []
    monkeypatch.setattr(decisions.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    file.append(ACCEPT)
    assert synced[-1] == file.path.stat().st_size
    assert len(synced) == 2  # the folder as well, when the file is new
    file.append(ACCEPT)
    assert synced[-1] == file.path.stat().st_size


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "review").write_text("a file")
    with pytest.raises(RunError, match="cannot be saved"):
        DecisionFile(tmp_path / "review" / "decisions.jsonl").append(ACCEPT)


def _append_many(path, reader):
    file = DecisionFile(path)
    for number in range(25):
        file.append(replace(ACCEPT, reader=reader, sample_id=f"pair/{number}"))


def test_several_processes_append(file):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(file.path, name)) for name in ("ana", "ben", "cem")]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
        assert one.exitcode == 0
    found = file.read().decisions
    assert [one.sequence for one in found] == list(range(1, 76))
    for name in ("ana", "ben", "cem"):
        assert [one.sample_id for one in found if one.reader == name] == [f"pair/{number}" for number in range(25)]


@pytest.mark.parametrize(
    ("given", "name"), [("Ito", "ito"), (" dr-ito ", "dr-ito"), ("Zoë", "zoë"), ("r.2_b", "r.2_b"), ("李", "李")]
)
def test_reader_names(given, name):
    assert reader_name(given) == name


@pytest.mark.parametrize("given", ["", " ", "a b", "-a", "a/b", "../x", "x" * 41, "<b>", "a\u202e"])
def test_no_reader_names(given):
    with pytest.raises(RecipeError):
        reader_name(given)
