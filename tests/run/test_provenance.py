import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from radvqa.errors import DataError
from radvqa.run import provenance
from radvqa.run.provenance import collect_provenance, core_dependencies, digest_files, git_state

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout with one commit; returns src/radvqa in it."""
    package = tmp_path / "checkout" / "src" / "radvqa"
    package.mkdir(parents=True)
    (package / "code.py").write_text("a = 1\n")
    root = tmp_path / "checkout"
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return package


def test_everything_is_there_and_is_json(tmp_path: Path) -> None:
    table = tmp_path / "train.json"
    table.write_bytes(b"[]")
    facts = collect_provenance(files=[table], extra={"seed": 3})
    json.dumps(facts, allow_nan=False)
    assert facts["seed"] == 3
    assert facts["files"] == {str(table): hashlib.sha256(b"[]").hexdigest()}
    assert facts["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["argv"] == sys.argv
    assert {"radvqa", "git", "platform", "cpu", "cores", "time"} <= facts.keys()


def test_dependencies_leave_extras_out() -> None:
    names = core_dependencies()
    assert {"torch", "transformers", "PyYAML"} <= set(names)
    assert not {"pytest", "ruff"} & set(names)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        digest_files([tmp_path / "absent.json"])
    assert caught.value.where == str(tmp_path / "absent.json")


@needs_git
def test_a_clean_checkout_has_a_commit_and_no_diff(package: Path) -> None:
    commit = git(package, "rev-parse", "HEAD")
    (package.parents[1] / "data.bin").write_text("not code")
    assert git_state(package) == {"commit": commit, "dirty": False, "diff_sha256": None}


@needs_git
def test_every_change_of_the_code_changes_the_hash(package: Path) -> None:
    seen = [git_state(package)]
    for name, text in (("code.py", "a = 2\n"), ("code.py", "a = 3\n"), ("new.py", ""), ("new.py", "b = 1\n")):
        (package / name).write_text(text)
        seen.append(git_state(package))
    assert [state["dirty"] for state in seen if state] == [False, True, True, True, True]
    assert len({state["diff_sha256"] for state in seen if state}) == 5


@needs_git
def test_before_the_first_commit_the_hash_covers_all_files(tmp_path: Path) -> None:
    package = tmp_path / "src" / "radvqa"
    package.mkdir(parents=True)
    (package / "code.py").write_text("a = 1\n")
    git(tmp_path, "init", "--quiet")
    first = git_state(package)
    (package / "code.py").write_text("a = 2\n")
    second = git_state(package)
    assert first is not None
    assert second is not None
    assert (first["commit"], first["dirty"]) == (None, True)
    assert first["diff_sha256"] != second["diff_sha256"]


@needs_git
def test_another_repository_around_the_package_is_not_ours(package: Path) -> None:
    inner = package.parents[1] / ".venv" / "radvqa"
    inner.mkdir(parents=True)
    assert git_state(inner) is None


@needs_git
def test_git_variables_do_not_lead_elsewhere(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    state = git_state(package)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert state is not None
    assert git_state(package) == state


def test_without_git_there_is_no_state(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert git_state(package) is None


def test_the_cpu_is_named() -> None:
    assert isinstance(provenance.cpu_model(), str)
