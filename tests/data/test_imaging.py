import io
import json
import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radvqa.data.imaging import ImageStore, open_image, open_unconverted, path_inside, squash, window_to_8_bit
from radvqa.errors import DataError, RunError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0" / "imgs"


def noise(height: int, width: int, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"picture{number}.png")
        noise(10 + number, 14, seed=number).save(paths[-1])
    return paths


# --- paths ---------------------------------------------------------------------------------------------------------


def test_a_path_inside_is_returned_even_if_nothing_is_there(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "a/b.jpg") == tmp_path / "a" / "b.jpg"


@pytest.mark.parametrize("relative", ["", " ", "/a", "..", "a/../../b", "a/..", "..\\b", "C:\\b", "C:b", "\\b", "a\0b"])
def test_paths_that_leave_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(DataError) as caught:
        path_inside(tmp_path, relative)
    assert repr(relative) == caught.value.where
    assert caught.value.fix


def test_links_are_followed_before_judging(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "rootlike").mkdir()  # shares the prefix of the name, not the folder
    (root / "in").symlink_to(root)
    (root / "out").symlink_to(tmp_path / "rootlike")
    (root / "loop").symlink_to(root / "loop")
    assert path_inside(root, "in/x.png") == root / "in" / "x.png"
    for name in ("out/x.png", "out"):
        with pytest.raises(DataError, match="leaves"):
            path_inside(root, name)
    with pytest.raises(DataError):
        path_inside(root, "loop/x.png")


def test_open_image_keeps_to_its_root(tmp_path: Path, pictures: list[Path]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(DataError, match="leaves"):
        open_image(pictures[0], root=root)
    assert open_image(pictures[0], root=tmp_path).size == (14, 10)


# --- opening -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    noise(5, 7).convert(mode).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (7, 5))


def test_gray_values_are_kept_and_alpha_is_dropped(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "gray.png")), np.repeat(gray[..., None], 3, axis=-1))
    rgba = np.dstack([gray, gray, gray, np.zeros_like(gray)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "rgba.png")), rgba[..., :3])


def test_palette_transparency_gives_no_warning(tmp_path: Path) -> None:
    image = noise(4, 4).quantize(8)
    image.save(tmp_path / "p.png", transparency=bytes([0, 128, *[255] * 6]))
    assert open_image(tmp_path / "p.png").mode == "RGB"


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = noise(8, 12)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    expected = np.rot90(np.asarray(image), k=-1)
    assert np.array_equal(np.asarray(open_image(tmp_path / "turned.png")), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_is_windowed_and_not_saturated(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)  # a 12-bit scan
    path = tmp_path / f"scan.{suffix}"
    Image.fromarray(values).save(path)
    gray = np.asarray(open_image(path))[..., 0].ravel()
    assert np.all(np.diff(gray.astype(int)) >= 0)
    assert (gray == 255).mean() < 0.01
    assert (gray == 0).mean() < 0.01
    assert len(np.unique(gray)) == 256


def test_float_pictures_are_windowed_and_nan_is_refused(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 100, dtype=np.float32).reshape(10, 10)
    Image.fromarray(values).save(tmp_path / "float.tif")
    assert np.asarray(open_image(tmp_path / "float.tif")).max() == 255
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(DataError, match="not numbers") as caught:
        open_image(tmp_path / "nan.tif")
    assert caught.value.where == str(tmp_path / "nan.tif")


def test_the_window_rule() -> None:
    values = np.arange(1001, dtype=np.float64)
    mapped = window_to_8_bit(values)
    assert mapped[5] == 0 and mapped[995] == 255 and mapped[500] in (127, 128)
    assert mapped[4] == 0 and mapped[6] == 0 and mapped[8] == 1
    # One bright pixel of many: the percentiles coincide, so minimum and maximum take over.
    lone = np.zeros((40, 40), dtype=np.uint16)
    lone[3, 3] = 900
    assert window_to_8_bit(lone)[3, 3] == 255
    assert not window_to_8_bit(np.full((3, 3), 700, dtype=np.uint16)).any()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.png", "x.tif", "x.gif", "x.bmp"):
        path = tmp_path / name
        noise(40, 40).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="truncated") as caught:
            open_image(path)
        assert caught.value.where == str(path)
        assert caught.value.got and caught.value.expected and caught.value.fix


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_an_undecodable_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be decoded"):
        open_image(path)
    with pytest.raises(DataError, match="cannot be decoded"):
        open_unconverted(path)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_damaged_bytes_give_a_picture_or_a_data_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise(20, 20).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            assert open_image(path).mode == "RGB"
        except DataError as error:
            assert error.where == str(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match="folder"):
        open_image(tmp_path)


def huge_png(width: int, height: int) -> bytes:
    """A small PNG whose header promises a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.parametrize("warnings", ["error", "default"])
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int, warnings: str) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side, side))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="too large") as caught:
        if warnings == "default":
            patch.setattr("warnings.warn", lambda *arguments, **options: None)
        open_image(path)
    assert caught.value.where == str(path)


# --- squash --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(512, 512), (300, 700), (90, 31), (224, 224), (1, 1)])
@pytest.mark.parametrize("size", [224, 56])
def test_squash_equals_the_stock_processor(shape: tuple[int, int], size: int) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    image = noise(*shape)
    stock = SiglipImageProcessorPil(size={"height": size, "width": size}, resample=3)
    pixels = squash(image, size)
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
    resized = stock(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(pixels, resized.transpose(1, 2, 0))
    normalised = stock(image, image_mean=[0.5] * 3, image_std=[0.5] * 3, return_tensors="np")["pixel_values"][0]
    ours = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    assert np.abs(ours - normalised).max() < 1e-6


def test_squash_does_not_keep_the_aspect_ratio() -> None:
    left_half = np.zeros((10, 40, 3), dtype=np.uint8)
    left_half[:, :20] = 200
    pixels = squash(Image.fromarray(left_half), 8)
    assert (pixels[:, :3] > 190).all() and (pixels[:, 5:] < 10).all()


# --- store ---------------------------------------------------------------------------------------------------------


def test_the_store_holds_the_squashed_pictures(pictures: list[Path], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    store = ImageStore.build(
        pictures, size=6, cache=tmp_path / "new" / "cache", progress=lambda *call: calls.append(call)
    )
    for path in pictures:
        assert np.array_equal(store.pixels(path), squash(open_image(path), 6))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(store.sha256(pictures[0])) == 64
    store.pixels(pictures[0])[:] = 0
    assert store.pixels(pictures[0]).any(), "a caller's change must not reach the store"
    with pytest.raises(KeyError):
        store.pixels(tmp_path / "other.png")


def test_equal_files_share_a_row(pictures: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin.png"
    twin.write_bytes(pictures[2].read_bytes())
    store = ImageStore.build([*pictures, twin, pictures[0]], size=4, cache=tmp_path / "cache")
    assert len(store) == 4
    assert np.array_equal(store.pixels(twin), store.pixels(pictures[2]))
    assert store.sha256(twin) == store.sha256(pictures[2])


def test_an_intact_store_is_opened_without_decoding(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = ImageStore.build(pictures, size=6, cache=tmp_path / "cache")
    monkeypatch.setattr("radvqa.data.imaging.squash", lambda *_: pytest.fail("decoded again"))
    calls: list[tuple[int, int]] = []
    again = ImageStore.build(
        pictures[::-1], size=6, cache=tmp_path / "cache", progress=lambda *call: calls.append(call)
    )
    assert again.key == first.key
    assert np.array_equal(again.pixels(pictures[1]), first.pixels(pictures[1]))
    assert calls == [(4, 4)]
    assert not caplog.records


@pytest.mark.parametrize("change", ["size", "bytes", "paths", "pillow"])
def test_the_key_follows_everything_the_pixels_depend_on(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = ImageStore.build(pictures, size=6, cache=tmp_path / "cache")
    if change == "bytes":
        noise(9, 9, seed=99).save(pictures[0])
    if change == "pillow":
        monkeypatch.setattr("PIL.__version__", "0.0")
    paths = pictures[:3] if change == "paths" else pictures
    after = ImageStore.build(paths, size=7 if change == "size" else 6, cache=tmp_path / "cache")
    assert after.key != before.key
    assert np.array_equal(after.pixels(pictures[0]), squash(open_image(pictures[0]), 7 if change == "size" else 6))


@pytest.mark.parametrize("damage", ["bit", "short", "long", "no array", "no index", "bad index", "other index", "rows"])
def test_a_damaged_store_is_built_again_with_a_warning(
    pictures: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = tmp_path / "cache"
    expected = ImageStore.build(pictures, size=6, cache=cache).pixels(pictures[0])
    (array,), (index,) = cache.glob("*.npy"), cache.glob("*.json")
    content = array.read_bytes()
    described = json.loads(index.read_text())
    match damage:
        case "bit":
            array.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
        case "short":
            array.write_bytes(content[:-10])
        case "long":
            array.write_bytes(content + b"x")
        case "no array":
            array.unlink()
        case "no index":
            index.unlink()
        case "bad index":
            index.write_text("{")
        case "other index":
            index.write_text(json.dumps({**described, "key": "0"}))
        case "rows":
            described["images"][0]["row"], described["images"][1]["row"] = 1, 0
            index.write_text(json.dumps(described))
    with caplog.at_level(logging.WARNING):
        store = ImageStore.build(pictures, size=6, cache=cache)
    assert np.array_equal(store.pixels(pictures[0]), expected)
    assert ["is damaged" in record.getMessage() for record in caplog.records] == [True]
    assert array.read_bytes() == content
    caplog.clear()
    ImageStore.build(pictures, size=6, cache=cache)
    assert not caplog.records


def test_all_bad_pictures_are_reported_together(pictures: list[Path], tmp_path: Path) -> None:
    bad = [tmp_path / f"bad{number}.png" for number in range(6)]
    for number, path in enumerate(bad[:5]):
        path.write_bytes(b"bad" if number < 2 else f"bad {number}".encode())  # two of them are equal
    with pytest.raises(DataError) as caught:
        ImageStore.build([*bad, *pictures], size=6, cache=tmp_path / "cache")
    assert "6 of 10" in caught.value.what
    where = str(caught.value.where)
    assert all(path.name in where for path in bad[:5]) and bad[5].name not in where and "and 1 more" in where
    assert not list((tmp_path / "cache").glob("*")) or not (tmp_path / "cache").exists()


def test_undecodable_pictures_leave_no_store(pictures: list[Path], tmp_path: Path) -> None:
    pictures[1].write_bytes(pictures[1].read_bytes()[:100])
    pictures[3].write_bytes(b"")
    with pytest.raises(DataError, match="2 of 4"):
        ImageStore.build(pictures, size=6, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    noise(9, 9).save(pictures[3])
    with pytest.raises(DataError, match="truncated") as caught:
        ImageStore.build(pictures, size=6, cache=tmp_path / "cache")
    assert caught.value.where == str(pictures[1])


def test_no_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        ImageStore.build([], size=6, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_a_run_error(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="image store"):
        ImageStore.build(pictures, size=6, cache=tmp_path / "file" / "cache")


def test_a_full_disk_leaves_nothing_behind(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        ImageStore.build(pictures, size=6, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_build_leaves_no_store(pictures: list[Path], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageStore.build(pictures, size=6, cache=tmp_path / "cache", progress=interrupt)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_array_is_a_plain_npy_file(pictures: list[Path], tmp_path: Path) -> None:
    ImageStore.build(pictures, size=6, cache=tmp_path / "cache")
    (array,) = (tmp_path / "cache").glob("*.npy")
    loaded = np.load(io.BytesIO(array.read_bytes()))
    assert (loaded.shape, loaded.dtype) == ((4, 6, 6, 3), np.uint8)


def test_opening_images_loads_no_torch() -> None:
    code = "import sys, radvqa.data.adapters.slake, radvqa.data.imaging; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real SLAKE is not under shared/data")
def test_the_store_of_the_published_images(tmp_path: Path) -> None:
    paths = sorted(REAL.glob("*/source.jpg"))
    store = ImageStore.build(paths, size=224, cache=tmp_path)
    assert len(store) == 510
    for path in paths[::100]:
        assert np.array_equal(store.pixels(path), squash(open_image(path, root=REAL), 224))
