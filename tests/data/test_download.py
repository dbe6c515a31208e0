import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import COMMIT, Fault, Site, serving
from typer.testing import CliRunner

from radvqa.cli.app import app
from radvqa.data import DATASETS, open_dataset
from radvqa.data.download import archive, transfer
from radvqa.data.download import fetch as download
from radvqa.data.download.catalogue import CATALOGUE, Entry, GithubSource, HubSource, Unpack, WebSource, ZenodoSource
from radvqa.data.download.manifest import MANIFEST_FILE, UNFINISHED_FILE, Manifest, accept, read_manifest
from radvqa.data.download.sources import Addresses
from radvqa.data.download.transfer import Patience, RemoteFile, Web
from radvqa.errors import DataError, RadvqaError, RunError
from radvqa.run.progress import Progress

BIG = bytes(range(256)) * 4000
FAST = Patience(attempts=3, first_wait_seconds=0.25, longest_wait_seconds=9.0, connect_seconds=5, read_seconds=5)


def a_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


PICTURES = {f"imgs/xmlab{number}/source.jpg": BIG[number : number + 5000] for number in range(3)}
SLAKE_FILES = {
    "train.json": b"[]",
    "validation.json": b"[]",
    "test.json": b"[]",
    "imgs.zip": a_zip(PICTURES),
    "KG.zip": a_zip({"en_disease.csv": b"disease#attribute#value\n"}),
    "README.md": b"not wanted",
}
SLAKE = CATALOGUE["slake"]
IMAGES = f"/datasets/BoKelvin/SLAKE/resolve/{COMMIT}/imgs.zip"
WEB_ENTRY = Entry(
    name="web",
    about="a file",
    adapter="slake",
    source=WebSource(page="https://example.org", files={}),
    licence="CC0",
    licence_source="here",
    homepage="https://example.org",
)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as served:
        yield served


@pytest.fixture
def waits() -> list[float]:
    """The seconds that a patient client would have waited."""
    return []


@pytest.fixture
def web(waits: list[float]) -> Callable[[], Web]:
    return lambda: Web(FAST, sleep=waits.append)


@pytest.fixture
def fetch(site: Site, web: Callable[[], Web], tmp_path: Path) -> Callable[..., download.Fetched]:
    def fetched(entry: Entry = SLAKE, folder: Path = tmp_path / "data", **options: object) -> download.Fetched:
        addresses = Addresses(hub=site.address, zenodo=site.address, github_api=site.address, github_files=site.address)
        return download.get(
            entry, folder, acceptance=accept(entry.terms, how="test"), web=web(), addresses=addresses, **options
        )

    return fetched


def at(site: Site, content: bytes = BIG, path: str = "/file.bin") -> Entry:
    """An entry with one file at a plain address."""
    site.files[path] = content
    return replace(WEB_ENTRY, source=WebSource(page="https://example.org", files={"file.bin": site.address + path}))


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return set(below(folder)) - {".lock"}


def refused(action: Callable[[], object], *words: str, kind: type[RadvqaError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        action()
    text = str(caught.value)
    for word in ("where: ", "what to do: ", *words):
        assert word in text, text
    return text


# What a good download gives


def test_a_hub_data_set_is_fetched_verified_unpacked_and_noted(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    fetched = fetch()
    expected = {name: content for name, content in SLAKE_FILES.items() if name.endswith("n") and "README" not in name}
    expected |= PICTURES | {"KG/en_disease.csv": b"disease#attribute#value\n"}
    found = below(tmp_path / "data")
    manifest = read_manifest(tmp_path / "data" / MANIFEST_FILE)
    assert {path: content for path, content in found.items() if path not in (".lock", MANIFEST_FILE)} == expected
    assert manifest == fetched.manifest
    assert manifest.contents() == {
        path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in expected.items()
    }
    assert (manifest.revision, manifest.stated_licence, manifest.licence.how) == (COMMIT, "cc-by-4.0", "test")
    assert manifest.licence.sha256 == hashlib.sha256(SLAKE.terms.encode()).hexdigest()
    images = manifest.files["imgs.zip"]
    assert (images.unpacked_to, images.published) == ("imgs", f"sha256:{images.sha256}")
    assert manifest.files["train.json"].published.startswith("git-sha1:")
    assert fetched.root == tmp_path / "data"
    assert fetched.fresh


def test_what_is_there_is_not_fetched_again(site: Site, fetch: Callable) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    first = fetch()
    asked = len(site.seen)
    again = fetch()
    assert len(site.seen) == asked
    assert (again.fresh, again.manifest, again.bytes) == (False, first.manifest, first.bytes)


def test_a_changed_file_of_a_finished_data_set_is_told(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    fetch()
    (tmp_path / "data" / "train.json").write_bytes(b"[1]")
    refused(fetch, "train.json", "expected: 2 bytes", "got: 3 bytes")
    (tmp_path / "data" / "train.json").unlink()
    refused(fetch, "train.json", "got: no file")


def test_a_zenodo_record_is_held_to_its_checksums(site: Site, fetch: Callable, tmp_path: Path) -> None:
    inner = a_zip({"images/1.jpg": b"1"})
    files = {
        "README.txt": b"read",
        "VQAMed2019Test.zip": a_zip({"VQAMed2019Test/a.txt": b"a", "VQAMed2019Test/VQAMed2019_Test_Images.zip": inner}),
    }
    site.add_zenodo(10499039, files)
    manifest = fetch(CATALOGUE["vqa-med-2019"]).manifest
    assert names(tmp_path / "data") == {
        "README.txt", "VQAMed2019Test/a.txt", "VQAMed2019Test/VQAMed2019_Test_Images/1.jpg", MANIFEST_FILE,
    }  # fmt: skip
    assert set(manifest.contents()) == names(tmp_path / "data") - {MANIFEST_FILE}
    assert manifest.files["README.txt"].published == f"md5:{hashlib.md5(b'read').hexdigest()}"
    assert manifest.revision == "10499039"


def test_a_github_folder_is_fetched_at_a_commit(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_github("CHILab1/MedPix-2.0", {"MedPix-2-0/a b/1.png": b"png", "README.md": b"x", "code/x.py": b"x"})
    fetched = fetch(CATALOGUE["medpix"])
    assert names(tmp_path / "data") == {"MedPix-2-0/a b/1.png", MANIFEST_FILE}
    assert fetched.root == tmp_path / "data" / "MedPix-2-0"
    assert fetched.manifest.revision == COMMIT


def test_a_file_without_size_and_checksum_is_believed_once(site: Site, fetch: Callable, tmp_path: Path) -> None:
    entry = replace(at(site, a_zip({"a": b"1", "b": b"2"})), unpack=(Unpack(pattern="*.zip", into="X"),))
    entry = replace(entry, source=replace(entry.source, files={"x.zip": site.address + "/file.bin"}))
    site.chunked.add("/file.bin")
    site.etags = False
    manifest = fetch(entry).manifest
    assert names(tmp_path / "data") == {"X/a", "X/b", MANIFEST_FILE}
    assert (manifest.files["x.zip"].published, manifest.files["x.zip"].etag) == ("", "")


def minimal_files(name: str) -> dict[str, bytes]:
    """The fewest files with which an adapter opens the folder."""
    table = b"id,Caption\n"
    choices = b"Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D,Answer_label\n"
    empty = a_zip({"images/1.jpg": b"1"})
    return {
        "slake": SLAKE_FILES,
        "medpix": {
            "MedPix-2-0/images/a.png": b"1",
            "MedPix-2-0/splitted_dataset/descriptions_train.jsonl": b"{}",
            "MedPix-2-0/splitted_dataset/data_train.jsonl": b"{}",
            "MedPix-2-0/splitted_dataset/uid_list.json": b"{}",
        },
        "rocov2": {
            **{f"{split}_captions.csv": table for split in ("train", "valid", "test")},
            **{f"{split}_images.zip": a_zip({f"{split}/1.jpg": b"1"}) for split in ("train", "valid", "test")},
        },
        "vqa-med-2019": {
            "ImageClef-2019-VQA-Med-Training.zip": a_zip(
                {"T/All_QA_Pairs_train.txt": b"", "T/Train_images/1.jpg": b"1"}
            ),
            "VQAMed2019Test.zip": a_zip(
                {
                    "V/VQAMed2019_Test_Questions_w_Ref_Answers.txt": b"",
                    "V/VQAMed2019_Test_Images.zip": a_zip({"VQAMed2019_Test_Images/1.jpg": b"1"}),
                }
            ),
        },
        "pmc-vqa": {**dict.fromkeys(("train.csv", "test.csv", "test_clean.csv"), choices), "images.zip": empty},
        "pmc-vqa-2": {
            **dict.fromkeys(("train_2.csv", "test_2.csv"), b"index," + choices), "images_2.zip": empty
        },
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["slake", "medpix", "rocov2", "vqa-med-2019", "pmc-vqa", "pmc-vqa-2"])
def test_the_adapter_opens_what_was_fetched(site: Site, fetch: Callable, name: str) -> None:
    entry, files = CATALOGUE[name], minimal_files(name)
    if isinstance(entry.source, HubSource):
        site.add_hub(entry.source.repository, files)
    elif isinstance(entry.source, ZenodoSource):
        site.add_zenodo(entry.source.record, files)
    else:
        site.add_github(entry.source.repository, files)
    assert open_dataset(entry.adapter, {"root": str(fetch(entry).root), **entry.options}).splits()


def test_the_adapter_opens_the_official_vqa_rad(site: Site, fetch: Callable) -> None:
    site.files["/osf"] = a_zip(
        {
            "VQA_RAD Dataset Public.json": b'[{"phrase_type": "para"}]',
            "Readme.docx": b"x",
            "VQA_RAD Image Folder/synpic1.jpg": b"1",
        }
    )
    entry = CATALOGUE["vqa-rad"]
    entry = replace(entry, source=replace(entry.source, files={"VQA_RAD.zip": site.address + "/osf"}))
    assert open_dataset(entry.adapter, {"root": str(fetch(entry).root)}).splits()


# Interrupted transfers


def test_a_transfer_that_breaks_off_goes_on(site: Site, fetch: Callable, waits: list[float], tmp_path: Path) -> None:
    site.faults["/file.bin"].extend([Fault(cut=300_000), Fault(cut=500_000)])
    fetch(at(site))
    assert (tmp_path / "data" / "file.bin").read_bytes() == BIG
    ranges = [headers.get("Range") for headers in site.asked("/file.bin")]
    assert ranges == [None, "bytes=300000-", "bytes=800000-"]
    assert waits == [0.25, 0.25]


def test_the_next_call_takes_up_what_an_earlier_one_left(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    site.always[IMAGES] = Fault(cut=0)
    site.faults[IMAGES].append(Fault(cut=7000))
    text = refused(fetch, "imgs.zip", "3 times in a row", "peer closed", "goes on where it stopped")
    assert IMAGES in text
    assert (tmp_path / "data" / "imgs.zip.partial").stat().st_size == 7000
    assert not (tmp_path / "data" / "imgs.zip").exists()
    del site.always[IMAGES]
    site.seen.clear()
    fetch()
    assert [headers["Range"] for headers in site.asked(IMAGES)] == ["bytes=7000-"]
    assert not [path for path, _ in site.seen if path.endswith("KG.zip")]
    assert not [name for name in names(tmp_path / "data") if "partial" in name]


def test_a_file_that_changed_between_two_tries_is_fetched_anew(site: Site, fetch: Callable, tmp_path: Path) -> None:
    entry = at(site)
    site.always["/file.bin"] = Fault(cut=0)
    site.faults["/file.bin"].append(Fault(cut=300_000))
    refused(lambda: fetch(entry), "3 times in a row")
    del site.always["/file.bin"]
    site.files["/file.bin"] = changed = BIG[::-1]
    fetch(entry)
    assert (tmp_path / "data" / "file.bin").read_bytes() == changed


def test_a_server_that_ignores_ranges_is_read_from_the_start(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.ranges = False
    site.faults["/file.bin"].append(Fault(cut=300_000))
    fetch(at(site))
    assert (tmp_path / "data" / "file.bin").read_bytes() == BIG


def test_nothing_is_resumed_that_cannot_be_checked(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.etags = False
    site.faults["/file.bin"].append(Fault(cut=300_000))
    fetch(at(site))
    assert [headers.get("Range") for headers in site.asked("/file.bin")] == [None, None]
    assert (tmp_path / "data" / "file.bin").read_bytes() == BIG


def test_a_part_that_was_whole_is_not_fetched_again(site: Site, fetch: Callable, tmp_path: Path) -> None:
    entry, folder = at(site), tmp_path / "data"
    folder.mkdir()
    (folder / "file.bin.partial").write_bytes(BIG)
    etag = f'"{hashlib.sha256(BIG).hexdigest()[:16]}"'
    note = {"url": site.address + "/file.bin", "published": "", "etag": etag, "modified": ""}
    (folder / "file.bin.partial.json").write_text(json.dumps(note))
    fetch(entry)
    assert (folder / "file.bin").read_bytes() == BIG
    assert [headers["Range"] for headers in site.asked("/file.bin")] == [f"bytes={len(BIG)}-"]


@pytest.mark.parametrize("note", [None, "", "{", "[]", '{"url": 1}', '{"url": "http://other/"}'])
def test_a_part_of_unknown_origin_is_thrown_away(site: Site, fetch: Callable, tmp_path: Path, note: str | None) -> None:
    entry, folder = at(site), tmp_path / "data"
    folder.mkdir()
    (folder / "file.bin.partial").write_bytes(b"something else")
    if note is not None:
        (folder / "file.bin.partial.json").write_text(note)
    fetch(entry)
    assert (folder / "file.bin").read_bytes() == BIG
    assert names(folder) == {"file.bin", MANIFEST_FILE}


@pytest.mark.parametrize("moment", ["settle_file", "unpack", "settle", "_unlink"])
def test_a_process_that_dies_at_any_step_is_followed_by_one_that_ends_it(
    site: Site, fetch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    module = archive if moment == "settle" else download
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module, moment, die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                fetch()
    fetch()
    assert names(tmp_path / "data") == {
        "train.json", "validation.json", "test.json", *PICTURES, "KG/en_disease.csv", MANIFEST_FILE,
    }  # fmt: skip
    assert len(site.asked(IMAGES)) == 1


def test_a_killed_process_is_followed_by_one_that_fetches_only_the_rest(site: Site, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    site.slow = threading.Event()
    command = [sys.executable, "-m", "radvqa", "data", "get", "slake", "--to", str(tmp_path / "d"), "--accept-licence"]
    environment = {
        **os.environ,
        "HF_ENDPOINT": site.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        until(lambda: any((tmp_path / "d").glob("*.zip.partial")))
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    site.slow.set()
    # KG.zip comes first; half of it had come when the process was killed.
    killed = {one.name for one in (tmp_path / "d").iterdir()}
    assert {"KG.zip.partial", "KG.zip.partial.json", UNFINISHED_FILE} <= killed
    assert MANIFEST_FILE not in killed
    site.seen.clear()

    again = [argument for argument in command if argument != "--accept-licence"]
    done = subprocess.run([*again, "--json"], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == 7
    assert [headers.get("Range") for headers in site.asked(IMAGES.replace("imgs", "KG"))] == [
        f"bytes={len(SLAKE_FILES['KG.zip']) // 2}-"
    ]


def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(
        st.one_of(
            st.builds(Fault, cut=st.integers(0, 60_000)),
            st.sampled_from([Fault(status=500), Fault(status=429), Fault(status=416)]),
        ),
        max_size=8,
    ),
    ranges=st.booleans(),
    etags=st.booleans(),
    published=st.booleans(),
)
def test_whatever_breaks_the_file_is_whole_or_there_is_one_message(
    site: Site,
    web: Callable[[], Web],
    tmp_path_factory: pytest.TempPathFactory,
    *,
    faults: list[Fault],
    ranges: bool,
    etags: bool,
    published: bool,
) -> None:
    folder, content = tmp_path_factory.mktemp("any"), BIG[:50_000]
    site.files["/any"], site.ranges, site.etags = content, ranges, etags
    site.faults["/any"].clear()
    site.faults["/any"].extend(faults)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}" if published else ""
    file = RemoteFile(path="any", url=site.address + "/any", published=checksum)
    counted: list[int] = []
    with web() as opened:
        try:
            came = opened.fetch(file, folder / "any", advance=counted.append)
        except DataError as error:
            assert "3 times in a row" in str(error)
        else:
            assert (folder / "any.partial").read_bytes() == content
            assert came.sha256 == hashlib.sha256(content).hexdigest()
            assert sum(counted) == len(content)
    assert not (folder / "any").exists()


# Wrong content


def test_a_wrong_checksum_is_told_and_the_file_removed(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    right = hashlib.sha256(SLAKE_FILES["imgs.zip"]).hexdigest()
    site.files[IMAGES] = wrong = SLAKE_FILES["imgs.zip"][:-1] + b"?"
    got = hashlib.sha256(wrong).hexdigest()
    refused(fetch, "sha256 checksum", IMAGES, f"expected: {right}", f"got: {got}", "report it to the publisher")
    assert not [name for name in names(tmp_path / "data") if name.startswith("imgs")]
    site.files[IMAGES] = SLAKE_FILES["imgs.zip"]
    fetch()


@pytest.mark.parametrize("kind", ["md5", "git-sha1"])
def test_other_published_checksums_are_checked_too(site: Site, fetch: Callable, kind: str) -> None:
    if kind == "md5":
        site.add_zenodo(10499039, {"a.txt": b"a"}, md5={"a.txt": "0" * 32})
        refused(lambda: fetch(CATALOGUE["vqa-med-2019"]), "md5 checksum", "a.txt", "expected: " + "0" * 32)
    else:
        site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
        site.files[IMAGES.replace("imgs.zip", "test.json")] = b"{}"
        refused(fetch, "git-sha1 checksum", "test.json")


def test_a_body_that_is_shorter_than_published_is_told(site: Site, fetch: Callable) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    site.always[IMAGES] = Fault(cut=100, short=True)
    size = len(SLAKE_FILES["imgs.zip"])
    refused(fetch, "another size", "imgs.zip", f"expected: {size:,} bytes", "got: 100 bytes")


def test_a_body_that_is_longer_than_published_is_told(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    site.files[IMAGES] += b"more"
    site.chunked.add(IMAGES)
    refused(fetch, "another size", "bytes or more")
    assert not list((tmp_path / "data").glob("imgs.zip*"))


def test_an_archive_with_an_evil_member_is_refused(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", {**SLAKE_FILES, "imgs.zip": a_zip({"imgs/1.jpg": b"1", "../../evil": b"x"})})
    refused(fetch, "the archive was refused", "imgs.zip", "'../../evil'")
    assert not (tmp_path / "data" / "imgs").exists()
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("path", ["../evil.json", "/etc/evil.json", "a\\..\\evil.json"])
def test_a_listing_with_an_evil_path_is_refused(site: Site, fetch: Callable, path: str) -> None:
    site.add_zenodo(10499039, {path: b"x"})
    refused(lambda: fetch(CATALOGUE["vqa-med-2019"]), "the source lists a file with", "evil.json")


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b'{"files": [{"key": 1}], "metadata": {}}', b'{"files": [], "metadata": {}}']
)
def test_a_listing_that_is_none_is_told(site: Site, fetch: Callable, answer: bytes) -> None:
    site.files["/api/records/10499039"] = answer
    refused(lambda: fetch(CATALOGUE["vqa-med-2019"]), "/api/records/10499039")


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"id": "x"}', b'{"id": "x", "siblings": [1]}'])
def test_a_hub_listing_that_is_none_is_told(site: Site, fetch: Callable, answer: bytes) -> None:
    site.files["/api/datasets/BoKelvin/SLAKE"] = answer
    refused(fetch, "/datasets/BoKelvin/SLAKE")


def test_a_file_that_the_publisher_renamed_is_told(site: Site, fetch: Callable) -> None:
    site.add_hub("BoKelvin/SLAKE", {"train.json": b"[]", "images.zip": b""})
    refused(fetch, "expected: validation.json, test.json, imgs.zip, KG.zip", "got: images.zip, train.json")


# Refusals and faults of the server


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ("401 Unauthorized", "hf auth login")),
        (403, ("403 Forbidden", "accept its terms")),
        (404, ("404 Not Found", "moved or removed")),
        (410, ("410 Gone", "removed")),
        (418, ("418", "by hand")),
    ],
)
def test_a_refusal_is_told_at_once(
    site: Site, fetch: Callable, waits: list[float], status: int, words: tuple[str, ...]
) -> None:
    site.always["/file.bin"] = Fault(status=status)
    refused(lambda: fetch(at(site)), site.address + "/file.bin", *words)
    assert (waits, len(site.asked("/file.bin"))) == ([], 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=401), ("not for everyone", "401", "hf auth login")),
        (Fault(status=403, headers={"X-Error-Code": "GatedRepo"}), ("gated", "403", "accept the terms")),
        (Fault(status=403), ("does not list", "403", "hf auth login")),
        (Fault(status=404, headers={"X-Error-Code": "RepoNotFound"}), ("not there", "404")),
        (Fault(status=404, headers={"X-Error-Code": "RevisionNotFound"}), ("no such revision", "main")),
    ],
)
def test_a_refusal_of_the_hub_is_told_at_once(
    site: Site, fetch: Callable, waits: list[float], fault: Fault, words: tuple[str, ...]
) -> None:
    site.always["/api/datasets/BoKelvin/SLAKE/revision/main"] = fault
    refused(lambda: fetch(revision="main"), f"{site.address}/datasets/BoKelvin/SLAKE", *words)
    assert waits == []


def test_too_many_requests_are_waited_for_as_long_as_asked(site: Site, fetch: Callable, waits: list[float]) -> None:
    site.faults["/file.bin"].extend(
        [Fault(status=429, headers={"Retry-After": "7"}), Fault(status=503, headers={"Retry-After": "3600"})]
    )
    fetch(at(site))
    assert waits == [7.0, FAST.longest_wait_seconds]


def test_a_date_in_retry_after_is_understood(site: Site, fetch: Callable, waits: list[float]) -> None:
    site.faults["/file.bin"].append(Fault(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}))
    fetch(at(site))
    assert waits == [0.0]


def test_a_failing_server_is_tried_again(site: Site, fetch: Callable, waits: list[float]) -> None:
    site.faults["/file.bin"].extend([Fault(status=500), Fault(status=502)])
    fetch(at(site))
    assert waits == [0.25, 0.5]


def test_a_server_that_fails_for_ever_is_told(site: Site, fetch: Callable, waits: list[float]) -> None:
    site.always["/file.bin"] = Fault(status=500)
    refused(lambda: fetch(at(site)), "3 times in a row", "/file.bin", "500 Internal Server Error", "try again later")
    assert waits == [0.25, 0.5]


def test_a_failing_hub_listing_is_tried_again_and_told(site: Site, fetch: Callable, waits: list[float]) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    path = "/api/datasets/BoKelvin/SLAKE"
    site.faults[path].extend([Fault(status=500), Fault(status=429, headers={"Retry-After": "3"})])
    fetch()
    assert waits == [0.25, 3.0]


def test_a_hub_that_fails_for_ever_is_told(site: Site, fetch: Callable, waits: list[float]) -> None:
    site.always["/api/datasets/BoKelvin/SLAKE"] = Fault(status=503)
    refused(fetch, "3 times in a row", "503", "/datasets/BoKelvin/SLAKE")
    assert waits == [0.25, 0.5]


def test_a_server_that_cannot_be_reached_is_told(site: Site, fetch: Callable, waits: list[float]) -> None:
    entry = replace(WEB_ENTRY, source=WebSource(page="x", files={"a": "http://127.0.0.1:9/a"}))
    refused(lambda: fetch(entry), "http://127.0.0.1:9/a", "check the network")
    assert len(waits) == 2


def test_the_quota_of_github_is_told(site: Site, fetch: Callable) -> None:
    site.always["/repos/CHILab1/MedPix-2.0/commits/main"] = Fault(403, {"X-RateLimit-Remaining": "0"})
    refused(lambda: fetch(CATALOGUE["medpix"]), "too many requests from this address")


def test_the_offline_switch_of_the_hub_is_told(site: Site, fetch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(fetch, "HF_HUB_OFFLINE")
    assert site.seen == []


# Redirects and credentials


def test_a_redirect_to_an_unencrypted_address_is_refused(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.always["/file.bin"] = Fault(302, {"Location": "http://example.org/file.bin"})
    refused(lambda: fetch(at(site)), "unencrypted", site.address, "a redirect to http://example.org/file.bin")
    assert names(tmp_path / "data") == {UNFINISHED_FILE}


@pytest.mark.parametrize("url", ["http://example.org/a", "ftp://example.org/a", "file:///etc/passwd"])
def test_an_unencrypted_address_is_refused(site: Site, fetch: Callable, url: str) -> None:
    refused(
        lambda: fetch(replace(WEB_ENTRY, source=WebSource(page="x", files={"a": url}))),
        "unencrypted",
        url.partition("/")[0],
    )


def test_an_address_elsewhere_may_not_lead_to_this_machine() -> None:
    import httpx2

    with pytest.raises(DataError, match="unencrypted"):
        transfer._checked_url(httpx2.URL("http://127.0.0.1/a"), came_from=httpx2.URL("https://example.org/"))


def test_redirects_are_followed_but_not_in_circles(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.always["/file.bin"] = Fault(302, {"Location": "/other.bin"})
    entry = at(site)
    site.files["/other.bin"] = b"other"
    fetch(entry)
    assert (tmp_path / "data" / "file.bin").read_bytes() == b"other"
    site.always["/other.bin"] = Fault(302, {"Location": "/file.bin"})
    refused(lambda: fetch(entry, tmp_path / "circle"), "circle")


def test_credentials_go_to_the_hub_only(site: Site, web: Callable[[], Web], tmp_path: Path) -> None:
    with serving() as other:
        other.files["/b"] = site.files["/a"] = b"1"
        site.faults["/a"].append(Fault(302, {"Location": other.address + "/b"}))
        file = RemoteFile(path="a", url=site.address + "/a", headers={"Authorization": "Bearer secret"})
        with web() as opened:
            opened.fetch(file, tmp_path / "a")
        assert site.asked("/a")[0]["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.asked("/b")[0]


# Disk


def test_a_full_disk_is_told_and_the_part_kept(
    site: Site, fetch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = at(site)
    with monkeypatch.context() as patch:
        append = transfer._Part.append

        def full(part: transfer._Part, chunk: bytes) -> None:
            if part.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            append(part, chunk[:1000])

        patch.setattr(transfer._Part, "append", full)
        refused(lambda: fetch(entry), "the disk is full", "file.bin", "No space left", "--to", kind=RunError)
    assert (tmp_path / "data" / "file.bin.partial").stat().st_size == 1000
    fetch(entry)
    assert (tmp_path / "data" / "file.bin").read_bytes() == BIG
    assert site.asked("/file.bin")[-1]["Range"] == "bytes=1000-"


def test_a_file_system_that_is_really_full_is_told(
    site: Site, fetch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SPARE_BYTES", 0)
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        refused(lambda: fetch(at(site), folder / "data"), "the disk is full", "file.bin", kind=RunError)
        left = (folder / "data" / "file.bin.partial").stat().st_size
        assert 0 < left < len(BIG)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_too_little_room_is_told_before_anything_is_fetched(
    site: Site, fetch: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 50_000_000, 50_000_000))
    refused(fetch, "too little room", "expected: 100.", "MB free", "got: 50.0 MB free", "--to", kind=RunError)
    assert not [path for path, _ in site.seen if "/resolve/" in path]


def test_a_folder_that_cannot_be_written_is_told(site: Site, fetch: Callable, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    refused(lambda: fetch(at(site)), "cannot write to the data folder", str(tmp_path / "data"), kind=RunError)


def test_two_processes_do_not_share_a_folder(site: Site, fetch: Callable, tmp_path: Path) -> None:
    with download._locked(tmp_path / "data"):
        refused(lambda: fetch(at(site)), "another process", kind=RunError)


# What is already in the folder


def test_the_users_files_are_never_overwritten(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text("mine")
    refused(fetch, "another file is in the way", "train.json", "git-sha1:", "move it away")
    (tmp_path / "data" / "train.json").write_bytes(SLAKE_FILES["train.json"])
    (tmp_path / "data" / "imgs").mkdir()
    refused(fetch, "another folder is in the way", "imgs", "imgs.zip")
    assert not site.asked(IMAGES.replace("imgs.zip", "train.json"))


def test_a_folder_keeps_to_one_data_set_and_one_revision(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    fetch()
    refused(lambda: fetch(at(site)), "another data set", "expected: web", "got: slake")
    refused(lambda: fetch(revision="f" * 40), "another revision", "f" * 40, COMMIT)
    assert not fetch(revision=COMMIT).fresh


def test_a_download_goes_on_at_the_revision_where_it_began(site: Site, fetch: Callable) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    site.always[IMAGES] = Fault(status=404)
    refused(fetch, "404")
    del site.always[IMAGES]
    del site.files["/api/datasets/BoKelvin/SLAKE"]
    assert fetch().manifest.revision == COMMIT


def test_a_branch_may_be_asked_for_again(site: Site, fetch: Callable, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    page = site.files["/api/datasets/BoKelvin/SLAKE/revision/" + COMMIT]
    site.files["/api/datasets/BoKelvin/SLAKE/revision/main"] = page
    site.always[IMAGES] = Fault(status=404)
    refused(lambda: fetch(revision="main"), "404")
    del site.always[IMAGES]
    del site.files["/api/datasets/BoKelvin/SLAKE/revision/main"]  # the commit is known by now
    first = fetch(revision="main")
    assert (first.manifest.revision, first.manifest.requested) == (COMMIT, "main")
    assert not fetch(revision="main").fresh
    assert not fetch(revision=COMMIT).fresh
    refused(lambda: fetch(revision="dev"), "another revision", "dev", COMMIT)
    other = fetch(SLAKE, tmp_path / "other", revision="main", pinned=first.manifest)
    assert other.manifest.contents() == first.manifest.contents()


def test_a_source_without_revisions_tells_so(site: Site, fetch: Callable) -> None:
    refused(lambda: fetch(at(site), revision="abc"), "no revisions", "got: abc")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1, "files": {"a": 1}}'])
def test_a_manifest_that_is_none_is_told(site: Site, fetch: Callable, tmp_path: Path, content: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / MANIFEST_FILE).write_text(content)
    refused(fetch, "not a manifest", MANIFEST_FILE)


# A colleague's manifest


@pytest.fixture
def pinned(site: Site, fetch: Callable, tmp_path: Path) -> Manifest:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    return fetch(SLAKE, tmp_path / "colleague").manifest


def test_a_manifest_asks_for_its_revision(site: Site, fetch: Callable, pinned: Manifest) -> None:
    del site.files["/api/datasets/BoKelvin/SLAKE"]
    assert fetch(pinned=pinned).manifest.contents() == pinned.contents()
    assert not fetch(pinned=pinned).fresh


def test_a_manifest_finds_a_difference_in_the_listing(site: Site, fetch: Callable, pinned: Manifest) -> None:
    site.add_hub("BoKelvin/SLAKE", {**SLAKE_FILES, "KG.zip": a_zip({"b": b"2"})})
    site.seen.clear()
    refused(lambda: fetch(pinned=pinned), "where: KG.zip", pinned.files["KG.zip"].sha256)
    assert not [path for path, _ in site.seen if "/resolve/" in path]


def test_a_manifest_finds_a_difference_in_a_file(site: Site, fetch: Callable, pinned: Manifest, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", {**SLAKE_FILES, "test.json": b"{}"})
    expected, got = pinned.files["test.json"].sha256, hashlib.sha256(b"{}").hexdigest()
    words = ("where: test.json", f"expected: 2 bytes, sha256 {expected}", f"got: 2 bytes, sha256 {got}")
    refused(lambda: fetch(pinned=pinned), *words)
    assert not (tmp_path / "data" / "test.json").exists()


def test_a_manifest_finds_other_files(site: Site, fetch: Callable, pinned: Manifest) -> None:
    files = {path: one for path, one in pinned.files.items() if path != "KG.zip"}
    refused(lambda: fetch(pinned=replace(pinned, files=files)), "KG.zip at", "expected: no such file", "got: a file")


def test_a_manifest_finds_a_file_changed_here(fetch: Callable, pinned: Manifest, tmp_path: Path) -> None:
    (tmp_path / "colleague" / "test.json").write_bytes(b"{}")
    refused(lambda: fetch(SLAKE, tmp_path / "colleague", pinned=pinned), "where: test.json", "differs")


def test_a_manifest_of_another_data_set_is_refused(site: Site, fetch: Callable, pinned: Manifest) -> None:
    refused(lambda: fetch(at(site), pinned=pinned), "of another data set", "expected: web", "got: slake")
    refused(lambda: fetch(pinned=pinned, revision="f" * 40), "--revision is not that of the manifest")


# Progress, catalogue, command line


def test_progress_counts_bytes(site: Site, fetch: Callable) -> None:
    site.faults["/file.bin"].append(Fault(cut=300_000))
    entry = at(site)
    lines = io.StringIO()
    fetch(entry, progress=Progress(stream=lines))
    assert f"fetching web: {len(BIG) // 1000} of " in lines.getvalue()


def test_every_entry_of_the_catalogue_is_complete() -> None:
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert all((entry.about, entry.adapter, entry.licence, entry.licence_source, entry.homepage))
        assert entry.source.address.startswith("https://")
        assert entry.homepage.startswith("https://")
        assert isinstance(entry.source, HubSource | ZenodoSource | GithubSource | WebSource)
        if isinstance(entry.source, WebSource):
            assert all(url.startswith("https://") for url in entry.source.files.values())
        assert entry.terms.startswith(f"{name}: ")


def test_the_adapters_of_the_catalogue_exist() -> None:
    assert {entry.adapter for entry in CATALOGUE.values()} <= set(DATASETS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_verb_lists_what_there_is() -> None:
    result = CliRunner().invoke(app, ["data", "get"])
    assert result.exit_code == 0
    assert "slake\n  about: SLAKE 1.0" in result.stdout
    assert "licence: CC BY 4.0" in result.stdout
    listed = json.loads(CliRunner().invoke(app, ["data", "get", "--json"]).stdout)
    assert [one["name"] for one in listed] == list(CATALOGUE)


def test_the_verb_wants_the_licence_accepted(here: Path, site: Site) -> None:
    result = CliRunner().invoke(app, ["data", "get", "slake"])
    assert result.exit_code == 2
    for words in (SLAKE.terms, "error: the licence of the data set was not accepted", "--accept-licence"):
        assert words in result.stderr
    assert (list(here.iterdir()), site.seen) == ([], [])


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2)])
def test_the_verb_asks_on_a_terminal(
    here: Path, site: Site, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    from huggingface_hub import constants

    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    monkeypatch.setattr(constants, "ENDPOINT", site.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", site.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("radvqa.cli.data._on_terminal", lambda: True)
    result = CliRunner().invoke(app, ["data", "get", "slake", "--quiet"], input=answer)
    assert result.exit_code == code, result.stderr
    if code == 0:
        assert read_manifest(here / "data" / "slake" / MANIFEST_FILE).licence.how == "yes on the terminal"
        assert "slake: {adapter: slake, root: data/slake}" in result.stdout
        assert "radvqa data audit data/slake" in result.stdout
        assert "Liu" in result.stdout


def test_the_verb_tells_errors_without_traceback_and_loads_no_torch(site: Site, tmp_path: Path) -> None:
    site.add_hub("BoKelvin/SLAKE", SLAKE_FILES)
    site.always[IMAGES] = Fault(status=404)
    code = (
        "import sys\nfrom radvqa.cli.app import app\n"
        "try:\n    app(sys.argv[1:])\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": site.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "get", "slake", "--to", str(tmp_path / "d"), "--accept-licence"],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "error: the server does not give the file\n  where: " + site.address + IMAGES in done.stderr
    assert done.stderr.rstrip().endswith("False")
