import bz2
import hashlib
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radvqa.data.download import archive as archive_module
from radvqa.data.download.archive import (
    Member,
    check_members,
    is_archive,
    members_of,
    unpack,
    why_unsafe,
    without_suffix,
)
from radvqa.errors import DataError, RadvqaError, RunError

ROOM = 10**9


def zipped(path: Path, members: Iterable[tuple[str | zipfile.ZipInfo, bytes]], *, deflate: bool = True) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return path


def tarred(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as opened:
        for info, content in members:
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(path: Path, tmp_path: Path, *words: str) -> None:
    """Nothing is left behind, neither inside nor outside of the folder."""
    before = files_below(tmp_path)
    with pytest.raises(DataError) as caught:
        unpack(path, tmp_path / "out", limit_bytes=ROOM)
    for word in (str(path), "what to do", *words):
        assert word in str(caught.value)
    assert files_below(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_zip_is_unpacked_and_hashed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("b/2.txt", b"two"), ("1.txt", b"one")])
    seen: list[int] = []
    found = unpack(path, tmp_path / "out", limit_bytes=ROOM, advance=seen.append)
    assert files_below(tmp_path / "out") == {"1.txt": b"one", "b/2.txt": b"two"}
    assert [(one.path, one.bytes, one.sha256) for one in found] == [
        ("1.txt", 3, hashlib.sha256(b"one").hexdigest()),
        ("b/2.txt", 3, hashlib.sha256(b"two").hexdigest()),
    ]
    assert sum(seen) == 6


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_is_unpacked(tmp_path: Path, mode: str) -> None:
    path = tarred(
        tmp_path / f"a.tar{mode.removeprefix('w').replace(':', '.')}",
        [
            (entry(".", tarfile.DIRTYPE), b""),
            (entry("./x", tarfile.DIRTYPE), b""),
            (entry("./x/1"), b"one"),
            (entry("./2"), b"two"),
        ],
        mode,
    )
    unpack(path, tmp_path / "out", limit_bytes=ROOM)
    assert files_below(tmp_path / "out") == {"x/1": b"one", "2": b"two"}


def test_a_single_folder_is_left_out_and_notes_of_macos_too(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "imgs.zip",
        [("imgs/", b""), ("imgs/1/a.jpg", b"a"), ("imgs/.DS_Store", b"x"), ("__MACOSX/imgs/._a.jpg", b"x")],
    )
    unpack(path, tmp_path / "out", limit_bytes=ROOM)
    assert files_below(tmp_path / "out") == {"1/a.jpg": b"a"}


def test_a_single_file_keeps_its_name(tmp_path: Path) -> None:
    unpack(zipped(tmp_path / "a.zip", [("one", b"1")]), tmp_path / "out", limit_bytes=ROOM)
    assert files_below(tmp_path / "out") == {"one": b"1"}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("../evil", "`..`"),
        ("a/../../evil", "`..`"),
        ("/tmp/evil", "absolute"),
        ("C:/evil", "drive letter"),
        ("c:evil", "drive letter"),
        ("..\\evil", "backslash"),
        ("a//b", "empty or `.`"),
        ("a/./b", "empty or `.`"),
        ("a\nb", "control character"),
        ("x" * 300, "longer than 255"),
        ("/".join("a" * 70), "nested"),
    ],
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str, word: str) -> None:
    assert_refused(zipped(tmp_path / "a.zip", [("good", b"1"), (name, b"evil")]), tmp_path, word)
    (tmp_path / "b").mkdir()
    assert_refused(tarred(tmp_path / "b" / "b.tar.gz", [(entry("good"), b"1"), (entry(name), b"evil")]), tmp_path, word)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.FIFOTYPE, "device"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, word: str) -> None:
    members = [(entry("good"), b"1"), (entry("bad", kind, "/etc/passwd"), b"")]
    assert_refused(tarred(tmp_path / "a.tar.gz", members), tmp_path, word, "bad")


@pytest.mark.parametrize(("mode", "word"), [(stat.S_IFLNK | 0o777, "symbolic link"), (stat.S_IFIFO | 0o600, "device")])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int, word: str) -> None:
    members = [(zip_entry("good", stat.S_IFREG | 0o644), b"1"), (zip_entry("bad", mode), b"/etc/passwd")]
    assert_refused(zipped(tmp_path / "a.zip", members), tmp_path, word, "bad")


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b"), ("a/", "a")], ids="+".join)
def test_members_that_overwrite_each_other_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    path = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate") if names[0] == names[1] else nullcontext():
        zipped(path, [(name, b"") for name in names])
    assert_refused(path, tmp_path, "overwrites another")


def test_names_that_differ_in_case_clash_where_the_file_system_has_one_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "a.zip", [("A.png", b"1"), ("a.png", b"2")])
    unpack(path, tmp_path / "two", limit_bytes=ROOM)
    assert len(files_below(tmp_path / "two")) == 2
    monkeypatch.setattr(archive_module, "_one_case", lambda _: True)
    assert_refused(path, tmp_path, "overwrites another", "a.png")


@pytest.mark.parametrize("second", ["../evil", "/etc/evil", "other"])
def test_a_member_with_a_second_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    # As CPython 3.13 does for the extra field 0x7075.
    def decoded(self: zipfile.ZipInfo, *_: object) -> None:
        self.filename = second

    path = zipped(tmp_path / "a.zip", [("good", b"1")])
    monkeypatch.setattr(zipfile.ZipInfo, "_decodeExtra", decoded)
    assert members_of(path)[0].second_name == second
    assert_refused(path, tmp_path, "two names", "good", second)


@pytest.mark.parametrize("name", ["../evil", "/evil", "link/evil"])
def test_nothing_is_written_outside_even_if_no_check_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def contents(_: Path) -> Iterable[tuple[str, io.BytesIO, int]]:
        (tmp_path / ".out.unpacking" / "link").symlink_to(tmp_path)
        yield name, io.BytesIO(b"1"), 1

    monkeypatch.setattr(archive_module, "_contents", contents)
    assert_refused(zipped(tmp_path / "a.zip", [("good", b"1")]), tmp_path, "outside the folder")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("secret", b"1")])
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(bytes(content))
    assert_refused(path, tmp_path, "encrypted", "secret")


def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "EXPANSION_COUNTS_FROM", 1_000_000)
    zeros = bytes(3_000_000)
    monkeypatch.setattr(archive_module, "_write", lambda *_, **__: pytest.fail("written"))
    assert_refused(zipped(tmp_path / "a.zip", [("zeros", zeros)]), tmp_path, "bomb", "zeros")
    assert_refused(tarred(tmp_path / "a.tar.gz", [(entry("zeros"), zeros)]), tmp_path, "bomb", "zeros")
    many = [(f"{number}", zeros[:500_000]) for number in range(6)]
    packed = zipped(tmp_path / "b.zip", many)
    assert_refused(packed, tmp_path, "bomb", "6 members")


def test_what_has_no_room_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("a", bytes(1000))])
    with pytest.raises(DataError, match=r"at most 999 bytes(.|\n)*1,000 bytes"):
        unpack(path, tmp_path / "out", limit_bytes=999)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MOST_MEMBERS", 3)
    assert_refused(zipped(tmp_path / "a.zip", [(f"{n}", b"") for n in range(4)]), tmp_path, "too many members")
    assert_refused(tarred(tmp_path / "a.tar", [(entry(f"{n}"), b"") for n in range(4)], "w"), tmp_path, "too many")


def test_a_size_that_lies_is_found_while_unpacking(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("a", b"x" * 1000)], deflate=False)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    assert struct.unpack("<I", content[place : place + 4]) == (1000,)
    content[place : place + 4] = struct.pack("<I", 900)
    path.write_bytes(bytes(content))
    assert_refused(path, tmp_path, "cannot be unpacked")


def test_a_wrong_crc_is_told(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("good", b"1"), ("bad", b"x" * 100)], deflate=False)
    path.write_bytes(path.read_bytes().replace(b"x" * 100, b"x" * 99 + b"y"))
    assert_refused(path, tmp_path, "cannot be unpacked", "CRC", "bad")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
def test_what_is_no_archive_is_told(tmp_path: Path, name: str) -> None:
    for content in (
        b"",
        b"<html>not found</html>",
        b"PK\x03\x04 cut",
        b"\x1f\x8b\x08 cut",
        bz2.compress(b"x" * 99)[:-9],
    ):
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name, tmp_path, "cannot be unpacked")


def test_a_header_of_a_huge_stated_length_is_not_read(tmp_path: Path) -> None:
    info = entry("pax", tarfile.XHDTYPE)
    info.size = 5_000_000_000
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(10_000))
    assert_refused(tmp_path / "a.tar", tmp_path, "cannot be unpacked", "5,000,000,")


def test_zip64_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened, opened.open("big", "w", force_zip64=True) as member:
        member.write(b"content")
    unpack(path, tmp_path / "out", limit_bytes=ROOM)
    assert files_below(tmp_path / "out") == {"big": b"content"}


def test_a_full_disk_is_told_and_nothing_half_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", [("a", b"1"), ("b", b"2")])
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: object, **keywords: object) -> object:
        if mode == "xb" and self.name == "b":
            raise OSError(28, os.strerror(28), str(self))
        return opened(self, mode, *args, **keywords)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match=r"(?s)cannot unpack.*No space left.*--to"):
        unpack(path, tmp_path / "out", limit_bytes=ROOM)
    assert [one.name for one in tmp_path.iterdir()] == ["a.zip"]


def test_the_result_is_told_before_the_folder_appears(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("a", b"1")])
    there: list[bool] = []
    unpack(
        path, tmp_path / "out", limit_bytes=ROOM, before_settling=lambda _: there.append((tmp_path / "out").exists())
    )
    assert there == [False]


def test_remains_of_a_killed_call_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking" / "old").mkdir(parents=True)
    unpack(zipped(tmp_path / "a.zip", [("a", b"1"), ("b", b"2")]), tmp_path / "out", limit_bytes=ROOM)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.zip", "out"]
    assert sorted(files_below(tmp_path / "out")) == ["a", "b"]


def test_suffixes() -> None:
    assert [without_suffix(name) for name in ("a.zip", "a.tar.gz", "a.TGZ", "x/b.tar", "c.txt")] == [
        "a", "a", "a", "x/b", "c.txt",
    ]  # fmt: skip
    assert is_archive("A.ZIP")
    assert not is_archive("table.csv.gz")


STEPS = st.lists(st.sampled_from(["..", ".", "", "a", "b..", "C:", "..\\a"]), max_size=4).map("/".join)


@given(st.one_of(STEPS, st.text(r"./\ab", max_size=12), st.text(max_size=40)))
def test_a_name_that_is_not_refused_stays_below_its_folder(name: str) -> None:
    if why_unsafe(name) is None:
        root = Path("/root/of/all")
        assert os.path.normpath(root / name).startswith(f"{root}/")
        assert not name.startswith("/")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2"]))
def test_a_mutated_archive_gives_files_or_one_message(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("mutated")
    path = tmp_path / kind
    if kind.endswith("zip"):
        zipped(path, [("a/1", b"one" * 40), ("a/2", b"two"), ("b", b"")])
    else:
        members = [(entry("a/1"), b"one" * 40), (entry("a/2"), b"two")]
        tarred(path, members, {"tar": "w", "gz": "w:gz", "bz2": "w:bz2"}[kind.rpartition(".")[2]])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    try:
        found = unpack(path, tmp_path / "out" / "in", limit_bytes=ROOM)
    except RadvqaError:
        assert not (tmp_path / "out" / "in").exists()
    else:
        assert len(files_below(tmp_path / "out" / "in")) == len(found)
    assert {one.name for one in tmp_path.iterdir()} <= {kind, "out"}


def test_members_state_what_the_listing_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("a", b"11")], deflate=False)
    assert members_of(path) == [Member(name="a", size=2, stored=2)]
    check_members(path, members_of(path), limit_bytes=2)
