"""Follows docs/add_a_dataset.md word for word: writes its files, types its commands, compares what they print."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import radvqa

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "add_a_dataset.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`(?P<name>[\w/.]+)`\n\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(?P<typed>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "python": [sys.executable],
    "radvqa": [sys.executable, "-m", "radvqa"],
    # The environment of the tests stays as it is, and there may be no package index.
    "pip": [sys.executable, "-m", "pip", "--disable-pip-version-check"],
}
PIP_OPTIONS = ["--no-deps", "--no-build-isolation", "--target", "site"]


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> str:
    program, *rest = arguments
    extra = PIP_OPTIONS if program == "pip" else []
    done = subprocess.run(
        [*PROGRAMS[program], *rest, *extra],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def assert_prints(printed: str, shown: str, command: str) -> None:
    """What the page shows; a line ``...`` at its end stands for all the rest."""
    got, expected = ([line.rstrip() for line in text.strip().splitlines()] for text in (printed, shown))
    if expected and expected[-1] == "...":
        expected.pop()
        got = got[: len(expected)]
    assert got == expected, f"docs/add_a_dataset.md shows something else for {command!r}"


def write_files(folder: Path) -> list[str]:
    names = []
    for match in FILE.finditer(PAGE):
        names.append(match["name"])
        path = folder / match["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(match["text"], encoding="utf-8")
    return names


def test_the_page_followed_word_for_word_adds_a_data_set(tmp_path: Path) -> None:
    assert write_files(tmp_path) == ["make_films.py", "hospital/teaching.py", "films.yaml", "pyproject.toml"]
    environment = {**os.environ, "COLUMNS": "80"}
    environment.pop("PYTHONPATH", None)
    typed = 0
    for block in CONSOLE.finditer(PAGE):
        for entry in re.split(r"^\$ ", block["typed"], flags=re.MULTILINE)[1:]:
            command, _, shown = entry.partition("\n")
            typed += 1
            program, *rest = shlex.split(command)
            if program == "export":
                name, _, value = rest[0].partition("=")
                environment[name] = value
            elif program == "unset":
                # Where pip puts the package here; a normal installation needs no path.
                environment[rest[0]] = "site"
            else:
                printed = run([program, *rest], tmp_path, environment)
                if shown.strip():
                    assert_prints(printed, shown, command)
    assert typed == 8
    assert (tmp_path / "audit" / "audit.html").is_file()
    assert (tmp_path / "films_hub" / "data" / "validation-00000-of-00001.parquet").is_file()


def test_the_file_of_the_page_can_be_put_among_the_built_in_ones(tmp_path: Path) -> None:
    package = tmp_path / "src" / "radvqa"
    shutil.copytree(Path(radvqa.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    write_files(tmp_path)
    shutil.copy(tmp_path / "hospital" / "teaching.py", package / "data" / "adapters" / "teaching.py")
    printed = run(["radvqa", "list", "datasets"], tmp_path, {**os.environ, "PYTHONPATH": str(package.parent)})
    (entry,) = re.findall(r"^teaching\n(?:  .*\n)+", printed, flags=re.MULTILINE)
    assert "what: Teaching films of our hospital, with questions." in entry
    assert "options: root: str" in entry
    assert "licence: for use inside the hospital" in entry


def test_a_page_that_shows_something_else_is_noticed() -> None:
    assert_prints("train: 3 records  \nval: 1\n", "train: 3 records\n...\n", "x")
    with pytest.raises(AssertionError, match="shows something else for 'x'"):
        assert_prints("train: 3 records\n", "train: 4 records\n...\n", "x")
