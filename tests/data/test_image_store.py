import json
import logging
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radvqa.data.image_store import ImageStore
from radvqa.data.imaging import fit, open_image
from radvqa.errors import DataError, RunError
from radvqa.run.engine import LocalEngine

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0" / "imgs"


def noise(height: int, width: int, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return make_pictures(tmp_path, 4)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache"


def make_pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"picture{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        noise(10 + number % 5, 14, seed=number).save(path)
    return paths


def squashed(path: Path, size: int) -> np.ndarray:
    return fit(open_image(path), size, aspect="squash")


def files(cache: Path, pattern: str) -> list[Path]:
    return sorted(cache.glob(f"*/{pattern}"))


def refuse_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radvqa.data.image_store.fit_channels", lambda *_, **__: pytest.fail("decoded again"))


def test_the_store_holds_the_squashed_pictures(pictures: list[Path], cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    store = ImageStore.build(pictures, size=6, cache=cache, progress=lambda *call: calls.append(call))
    for path in pictures:
        assert np.array_equal(store.pixels(path), squashed(path, 6))
    assert calls == [(4, 4)]
    assert (len(store), store.size, store.aspect) == (4, 6, "squash")
    assert len(store.sha256(pictures[0])) == 64
    store.pixels(pictures[0])[:] = 0
    assert store.pixels(pictures[0]).any(), "a caller's change must not reach the store"
    with pytest.raises(KeyError):
        store.pixels(cache / "other.png")


def test_the_store_pads_where_it_is_told_to(pictures: list[Path], cache: Path) -> None:
    padded = ImageStore.build(pictures, size=6, cache=cache, aspect="pad")
    assert np.array_equal(padded.pixels(pictures[0]), fit(open_image(pictures[0]), 6, aspect="pad"))
    ImageStore.build(pictures, size=6, cache=cache)
    assert sorted(path.name.rsplit("-", 1)[0] for path in cache.iterdir()) == ["6px-pad", "6px-squash"]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_gray_pictures_take_a_third_of_the_space(cache: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "gray.png"
    noise(20, 30).convert("L").convert(mode).save(path)
    store = ImageStore.build([path], size=6, cache=cache)
    assert np.array_equal(store.pixels(path), squashed(path, 6))
    assert [path.stat().st_size for path in files(cache, "*.pixels")] == [6 * 6]
    store.pixels(path)[:] = 0  # an own array


def test_gray_and_colour_lie_side_by_side(pictures: list[Path], cache: Path) -> None:
    for path in pictures[::2]:
        Image.open(path).convert("L").save(path)
    for _ in range(2):
        store = ImageStore.build(pictures, size=6, cache=cache)
        assert all(np.array_equal(store.pixels(path), squashed(path, 6)) for path in pictures)


def test_a_picture_with_little_colour_is_not_gray(cache: Path, tmp_path: Path) -> None:
    pixels = np.full((40, 40, 3), 90, dtype=np.uint8)
    pixels[21, 5, 1] = 91
    Image.fromarray(pixels).save(tmp_path / "a.png")
    store = ImageStore.build([tmp_path / "a.png"], size=40, cache=cache)
    assert np.array_equal(store.pixels(tmp_path / "a.png"), pixels)


def test_equal_files_share_a_row(pictures: list[Path], cache: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.png"
    twin.write_bytes(pictures[2].read_bytes())
    store = ImageStore.build([*pictures, twin, pictures[0]], size=4, cache=cache)
    assert len(store) == 4
    assert np.array_equal(store.pixels(twin), store.pixels(pictures[2]))
    assert store.sha256(twin) == store.sha256(pictures[2])
    assert sum(path.stat().st_size for path in files(cache, "*.pixels")) == 4 * 4 * 4 * 3


def test_stored_pictures_are_not_decoded_again(
    pictures: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = ImageStore.build(pictures, size=6, cache=cache)
    refuse_to_decode(monkeypatch)
    calls: list[tuple[int, int]] = []
    again = ImageStore.build(pictures[::-1], size=6, cache=cache, progress=lambda *call: calls.append(call))
    assert np.array_equal(again.pixels(pictures[1]), first.pixels(pictures[1]))
    assert calls == [(4, 4)]
    assert not caplog.records


def test_adding_a_picture_decodes_that_one_only(
    pictures: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ImageStore.build(pictures[:3], size=6, cache=cache)
    decoded: list[Image.Image] = []
    monkeypatch.setattr(
        "radvqa.data.image_store.fit_channels",
        lambda image, *rest, **named: decoded.append(image) or fit(image, *rest, **named),
    )
    store = ImageStore.build(pictures, size=6, cache=cache)
    assert len(decoded) == 1
    assert all(np.array_equal(store.pixels(path), squashed(path, 6)) for path in pictures)


def test_a_moved_folder_finds_its_pictures_again(
    pictures: list[Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ImageStore.build(pictures, size=6, cache=cache)
    moved = tmp_path / "moved"
    moved.mkdir()
    paths = [path.rename(moved / path.name) for path in pictures]
    refuse_to_decode(monkeypatch)
    after = ImageStore.build(paths, size=6, cache=cache)
    assert after.digest(paths) == before.digest(pictures)


@pytest.mark.parametrize("change", ["size", "bytes", "aspect", "pillow", "conversion"])
def test_no_stale_pixels_are_met(
    pictures: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    ImageStore.build(pictures, size=6, cache=cache)
    before = set(files(cache, "*.pixels"))
    if change == "bytes":
        noise(9, 9, seed=99).save(pictures[0])
    if change == "pillow":
        monkeypatch.setattr("PIL.__version__", "0.0")
    if change == "conversion":
        monkeypatch.setattr("radvqa.data.image_store.CONVERSION", 0)
    size, aspect = 7 if change == "size" else 6, "pad" if change == "aspect" else "squash"
    after = ImageStore.build(pictures, size=size, cache=cache, aspect=aspect)
    assert np.array_equal(after.pixels(pictures[0]), fit(open_image(pictures[0]), size, aspect=aspect))
    (new,) = set(files(cache, "*.pixels")) - before
    assert new.stat().st_size == (1 if change == "bytes" else 4) * size * size * 3


@pytest.mark.parametrize("damage", ["short", "long", "no pixels", "bad index", "no list", "row", "variant"])
def test_a_damaged_segment_is_replaced_with_a_warning(
    pictures: list[Path], cache: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    ImageStore.build(pictures, size=6, cache=cache)
    (pixels,), (index,) = files(cache, "*.pixels"), files(cache, "*.json")
    content, described = pixels.read_bytes(), json.loads(index.read_text())
    match damage:
        case "short":
            pixels.write_bytes(content[:-10])
        case "long":
            pixels.write_bytes(content + b"x")
        case "no pixels":
            pixels.unlink()
        case "bad index":
            index.write_text("{")
        case "no list":
            index.write_text("[]")
        case "row":
            described["rows"][0][2] ^= 1
            index.write_text(json.dumps(described))
        case "variant":
            index.write_text(json.dumps({**described, "variant": {}}))
    with caplog.at_level(logging.WARNING):
        store = ImageStore.build(pictures, size=6, cache=cache)
    assert ["is damaged" in record.getMessage() for record in caplog.records] == [True]
    assert all(np.array_equal(store.pixels(path), squashed(path, 6)) for path in pictures)
    assert [path.read_bytes() for path in files(cache, "*.pixels")] == [content]
    caplog.clear()
    ImageStore.build(pictures, size=6, cache=cache)
    assert not caplog.records


def test_a_segment_without_its_index_is_none(pictures: list[Path], cache: Path) -> None:
    ImageStore.build(pictures, size=6, cache=cache)
    files(cache, "*.json")[0].unlink()
    store = ImageStore.build(pictures, size=6, cache=cache)
    assert np.array_equal(store.pixels(pictures[0]), squashed(pictures[0], 6))


def test_a_flipped_bit_is_mended_when_it_is_read(
    pictures: list[Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ImageStore.build(pictures, size=6, cache=cache)
    (array,) = files(cache, "*.pixels")
    content = array.read_bytes()
    array.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    for _ in range(2):
        assert np.array_equal(store.pixels(pictures[3]), squashed(pictures[3], 6))
        assert ["is damaged" in record.getMessage() for record in caplog.records] == [True]
    assert array.read_bytes() == content


def test_pixels_that_are_lost_while_in_use_are_decoded_again(pictures: list[Path], cache: Path) -> None:
    store = ImageStore.build(pictures, size=6, cache=cache)
    files(cache, "*.pixels")[0].unlink()
    assert np.array_equal(store.pixels(pictures[0]), squashed(pictures[0], 6))


def test_lost_pixels_of_a_changed_picture_are_an_error(pictures: list[Path], cache: Path) -> None:
    store = ImageStore.build(pictures, size=6, cache=cache)
    files(cache, "*.pixels")[0].unlink()
    noise(9, 9, seed=99).save(pictures[0])
    with pytest.raises(DataError, match="changed while it was in use"):
        store.pixels(pictures[0])


def test_all_bad_pictures_are_reported_together(pictures: list[Path], cache: Path, tmp_path: Path) -> None:
    bad = [tmp_path / f"bad{number}.png" for number in range(6)]
    for number, path in enumerate(bad[:5]):
        path.write_bytes(b"bad" if number < 2 else f"bad {number}".encode())  # two of them are equal
    with pytest.raises(DataError) as caught:
        ImageStore.build([*bad, *pictures], size=6, cache=cache)
    assert "6 of 10" in caught.value.what
    where = str(caught.value.where)
    assert all(path.name in where for path in bad[:5]) and bad[5].name not in where and "and 1 more" in where


def test_good_pictures_beside_bad_ones_need_not_be_decoded_again(
    pictures: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pictures[1].read_bytes()
    pictures[1].write_bytes(content[:100])
    with pytest.raises(DataError, match="truncated") as caught:
        ImageStore.build(pictures, size=6, cache=cache)
    assert caught.value.where == str(pictures[1])
    refuse_to_decode(monkeypatch)
    assert len(ImageStore.build([pictures[0], *pictures[2:]], size=6, cache=cache)) == 3


def test_no_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        ImageStore.build([], size=6, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_a_run_error(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="image store"):
        ImageStore.build(pictures, size=6, cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize("step", ["rename", "write"])
def test_a_full_disk_leaves_nothing_behind(
    pictures: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace" if step == "rename" else "write_text", full)
    with pytest.raises(RunError, match="No space left"):
        ImageStore.build(pictures, size=6, cache=cache)
    assert files(cache, "*") == []


def test_an_interrupted_build_is_used_by_the_next(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_pictures(tmp_path, 100)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageStore.build(paths, size=6, cache=cache, progress=interrupt, engine=InThisProcess())
    assert [path.suffix for path in files(cache, "*")] == [".json", ".pixels"]
    refuse_to_decode(monkeypatch)
    assert len(ImageStore.build(paths[:64], size=6, cache=cache)) == 64


def test_what_killed_processes_left_is_removed_after_a_day(pictures: list[Path], cache: Path) -> None:
    ImageStore.build(pictures, size=6, cache=cache)
    folder = files(cache, "*")[0].parent
    old, young = folder / ".old.pixels.partial", folder / ".young.pixels.partial"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    ImageStore.build(pictures, size=6, cache=cache)
    assert not old.exists() and young.exists()


def test_worker_processes_give_the_same_store(tmp_path: Path, cache: Path) -> None:
    paths = make_pictures(tmp_path, 150)
    twin = tmp_path / "twin.png"  # of another group, so that both may be decoded
    twin.write_bytes(paths[0].read_bytes())
    calls: list[tuple[int, int]] = []
    store = ImageStore.build(
        [*paths, twin], size=6, cache=cache, engine=LocalEngine(2), progress=lambda *call: calls.append(call)
    )
    assert calls == [(64, 151), (128, 151), (151, 151)]
    assert len(store) == 150
    assert all(np.array_equal(store.pixels(path), squashed(path, 6)) for path in [*paths, twin])


def test_builders_at_the_same_time_do_not_disturb_each_other(tmp_path: Path, cache: Path) -> None:
    paths = make_pictures(tmp_path, 40)
    stores: list[ImageStore] = []

    def build() -> None:
        stores.append(ImageStore.build(paths, size=6, cache=cache))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4
    for store in stores:
        assert all(np.array_equal(store.pixels(path), squashed(path, 6)) for path in paths)
    assert not files(cache, ".*.partial")


def test_segments_are_plain_files(pictures: list[Path], cache: Path) -> None:
    ImageStore.build(pictures, size=6, cache=cache)
    (array,), (index,) = files(cache, "*.pixels"), files(cache, "*.json")
    rows = np.fromfile(array, dtype=np.uint8).reshape(4, 6, 6, 3)
    assert [crc32 for _, _, crc32 in json.loads(index.read_text())["rows"]] == [
        zlib.crc32(row.tobytes()) for row in rows
    ]
    assert np.array_equal(rows[0], squashed(pictures[0], 6))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
def test_the_store_of_the_published_images(tmp_path: Path) -> None:
    paths = sorted(REAL.glob("*/source.jpg"))
    store = ImageStore.build(paths, size=224, cache=tmp_path)
    assert len(store) == 510
    for path in paths[::100]:
        assert np.array_equal(store.pixels(path), fit(open_image(path, root=REAL), 224, aspect="squash"))


class InThisProcess:
    """An engine without workers."""

    def map(self, function: Callable, items, *, group: int = 32):
        return map(function, items)
