"""Bundles: what is written is what is read; what was tampered with, moved or cut is refused."""

import dataclasses
import json

import numpy as np
import pytest
from planted_bundle import MARKUP, planted_case, planted_cases

from radvqa.errors import DataError, RunError
from radvqa.explain.bundle_files import (
    ARRAYS_FILE,
    CASES_FILE,
    IMAGE_FILE,
    MANIFEST_FILE,
    PIXELS,
    VALUES,
    case_folder,
    case_key,
    is_whole,
    read_bundle,
    read_cases,
    write_bundle,
)

SMALL = {"layers": 2, "heads": 3, "methods": ("raw", "token_occlusion"), "run": "r", "stage": "", "seed": 0}


@pytest.fixture
def planted():
    """A CT with a view of the model's answer and values in Hounsfield units."""
    manifest, arrays, _ = planted_case(1, hostile=False, **SMALL)
    return manifest, arrays


@pytest.fixture
def written(planted, tmp_path):
    manifest, arrays = planted
    folder = case_folder(tmp_path, manifest.key)
    write_bundle(folder, manifest, arrays)
    return folder


def test_what_is_written_is_read_exactly(planted, tmp_path):
    manifest, arrays = planted
    assert VALUES in arrays
    folder = case_folder(tmp_path, manifest.key)
    written = write_bundle(folder, manifest, arrays)
    bundle = read_bundle(folder)
    assert bundle.manifest == written
    assert dataclasses.replace(written, files={}) == manifest
    assert set(bundle.array_names) == set(arrays) - {PIXELS}
    for name in bundle.array_names:
        found = bundle.array(name)
        assert found.dtype == arrays[name].dtype
        assert np.array_equal(found, arrays[name]), name
    assert np.array_equal(bundle.pixels, arrays[PIXELS])
    assert sorted(path.name for path in folder.iterdir()) == sorted([ARRAYS_FILE, IMAGE_FILE, MANIFEST_FILE])


def test_colour_pictures_keep_their_pixels(planted, tmp_path):
    manifest, arrays = planted
    colour = np.random.default_rng(0).integers(0, 256, (*arrays[PIXELS].shape, 3), dtype=np.uint8)
    folder = case_folder(tmp_path, manifest.key)
    write_bundle(folder, manifest, {**arrays, PIXELS: colour})
    assert np.array_equal(read_bundle(folder).pixels, colour)


def test_arrays_are_read_when_they_are_asked_for(written):
    (written / ARRAYS_FILE).unlink()
    bundle = read_bundle(written)
    assert bundle.manifest.question
    with pytest.raises(RunError, match="cannot be read"):
        bundle.array("model/attention")


@pytest.mark.parametrize("name", [ARRAYS_FILE, IMAGE_FILE])
def test_a_changed_byte_is_noticed(written, name):
    content = bytearray((written / name).read_bytes())
    content[-1] ^= 1
    (written / name).write_bytes(content)
    bundle = read_bundle(written)
    with pytest.raises(RunError, match="not the one that was written"):
        bundle.picture if name == IMAGE_FILE else bundle.array("model/attention")


def test_arrays_that_are_no_safetensors_are_refused_even_with_the_right_hash(written):
    import hashlib

    (written / ARRAYS_FILE).write_bytes(b"\x00" * 64)
    manifest = json.loads((written / MANIFEST_FILE).read_text())
    manifest["files"][ARRAYS_FILE] = hashlib.sha256(b"\x00" * 64).hexdigest()
    (written / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="cannot be read"):
        read_bundle(written).array("model/attention")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "another version"),
        ({"key": "../../etc"}, "in the folder that its key names"),
        ({"files": {"../../../etc/passwd": "0"}}, "files that a case does not have"),
        ({"grid": "x"}, "damaged or from another version"),
    ],
)
def test_a_manifest_that_is_not_right_is_refused(written, change, message):
    manifest = json.loads((written / MANIFEST_FILE).read_text())
    (written / MANIFEST_FILE).write_text(json.dumps({**manifest, **change}))
    with pytest.raises(RunError, match=message):
        read_bundle(written)


def test_half_a_manifest_is_refused(written):
    text = (written / MANIFEST_FILE).read_text()
    (written / MANIFEST_FILE).write_text(text[: len(text) // 2])
    with pytest.raises(RunError, match="damaged"):
        read_bundle(written)


def test_a_moved_case_is_refused(written):
    written.rename(written.with_name("another-name"))
    with pytest.raises(RunError, match="in the folder that its key names"):
        read_bundle(written.with_name("another-name"))


def test_no_case_no_bundle(tmp_path):
    with pytest.raises(RunError, match="no such case"):
        read_bundle(tmp_path / "0123456789abcdef")


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".", "..", "A" * 16, "x" * 41, "a\x00b", "%2e%2e", "ab\n"])
def test_keys_that_could_leave_the_folder_are_refused(tmp_path, key):
    with pytest.raises(RunError, match="no name of a case"):
        case_folder(tmp_path, key)


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "../../elsewhere"},
        {"folder": "cases/0000000000000000"},
        {"folder": "/etc"},
        {"key": "../../../etc"},
    ],
)
def test_a_list_that_leads_elsewhere_is_refused(tmp_path, change):
    planted_cases(tmp_path, 1, layers=1, heads=1)
    path = tmp_path / CASES_FILE
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, **change}) + "\n")
    with pytest.raises(RunError):
        read_cases(tmp_path)


def test_a_list_with_a_bad_line_is_refused(tmp_path):
    (tmp_path / CASES_FILE).write_text('{"key": 1}\n')
    with pytest.raises(DataError, match="not a valid record"):
        read_cases(tmp_path)


def test_hostile_names_stay_inside_the_folder(tmp_path):
    explained = tmp_path / "run" / "explain"
    lines = planted_cases(explained, 3, hostile=True, layers=1, heads=1)
    assert any(MARKUP in line.sample_id and ".." in line.sample_id for line in lines)
    assert read_cases(explained) == lines
    assert {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()} == {
        ("run", "explain")
    }
    for path in explained.rglob("*"):
        assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-"), path.name
    for line in lines:
        manifest = read_bundle(case_folder(explained, line.key)).manifest
        assert (manifest.sample_id, manifest.question) == (line.sample_id, line.question)


def test_an_array_that_does_not_fit_is_not_written(planted, tmp_path):
    manifest, arrays = planted
    folder = case_folder(tmp_path, manifest.key)
    for name, array in [
        ("model/attention", arrays["model/attention"][1:]),
        ("model/maps/raw", arrays["model/maps/raw"][..., :-1]),
        ("model/maps/unknown", arrays["model/maps/raw"]),
        ("reference/attention", arrays["model/attention"]),
        ("../../x", arrays["model/attention"]),
        (PIXELS, arrays[PIXELS][1:]),
    ]:
        with pytest.raises(RunError, match="does not fit the manifest"):
            write_bundle(folder, manifest, {**arrays, name: array})
    assert not folder.exists()


def test_a_number_that_browsers_cannot_read_is_not_written(planted, tmp_path):
    manifest, arrays = planted
    view = dataclasses.replace(manifest.views["model"], reliance=float("nan"))
    folder = case_folder(tmp_path, manifest.key)
    with pytest.raises(ValueError, match="Out of range float"):
        write_bundle(folder, dataclasses.replace(manifest, views={"model": view}), arrays)
    assert not folder.exists()
    assert not list(folder.parent.iterdir())


def test_a_new_case_takes_the_place_of_the_old_one_at_once(planted, written, monkeypatch):
    manifest, arrays = planted
    newer = dataclasses.replace(manifest, question="Another one?")
    # The disk is full while the new one is written: the old one stays.
    with monkeypatch.context() as patch:
        patch.setattr("radvqa.explain.bundle_files.write_text", _no_space)
        with pytest.raises(RunError, match="cannot write"):
            write_bundle(written, newer, arrays)
    assert read_bundle(written).manifest.question == manifest.question
    write_bundle(written, newer, arrays)
    assert read_bundle(written).manifest.question == "Another one?"
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_case_is_whole_if_its_files_are_those_that_were_written(planted, tmp_path):
    manifest, arrays = planted
    folder = case_folder(tmp_path, manifest.key)
    for name in (IMAGE_FILE, ARRAYS_FILE):
        write_bundle(folder, manifest, arrays)
        assert is_whole(read_bundle(folder))
        (folder / name).write_bytes(b"")
        assert not is_whole(read_bundle(folder))


def test_keys_are_short_hashes():
    assert case_key("slake-1") == case_key("slake-1") != case_key("slake-2")
    assert len(case_key("../../" * 500)) == 16
    assert case_key("\ud800")  # half a surrogate pair, as a damaged table may hold it
