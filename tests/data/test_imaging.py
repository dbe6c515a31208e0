import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from radvqa.data.imaging import (
    fit,
    fitted_box,
    open_image,
    open_unconverted,
    thumbnail,
    window_to_8_bit,
)
from radvqa.data.paths import path_inside
from radvqa.errors import DataError

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


def test_a_link_that_leads_out_is_told_without_its_target(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret-place").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "secret-place")
    with pytest.raises(DataError, match="a symbolic link that leads out of the folder") as caught:
        path_inside(tmp_path / "root", "out/x.png")
    assert "secret-place" not in str(caught.value)


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


@pytest.mark.parametrize("name", ["x.eps", "x.png"])
def test_postscript_is_refused_and_no_program_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for function in ("Popen", "check_call", "run"):
        monkeypatch.setattr(subprocess, function, lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match="in no format that is read") as caught:
        open_image(path)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp", "x.gif", "x.webp", "x.jp2", "x.ppm"])
def test_the_formats_of_the_field_are_read(tmp_path: Path, name: str) -> None:
    noise(6, 5).save(tmp_path / name)
    assert open_image(tmp_path / name).size == (5, 6)


def test_several_pictures_in_one_jpeg_are_read(tmp_path: Path) -> None:
    first, second = noise(6, 5), noise(6, 5, seed=1)
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert open_image(tmp_path / "x.jpg").size == (5, 6)


@pytest.mark.parametrize(("kind", "values"), [("<u2", np.arange(0, 4096)), ("<f4", np.linspace(-1, 1, 4096))])
def test_white_is_zero_is_turned_in_wide_gray(tmp_path: Path, kind: str, values: np.ndarray) -> None:
    pixels = values.astype(kind).reshape(64, 64)
    for photometric in (0, 1):
        Image.fromarray(pixels).save(tmp_path / f"{photometric}.tif", tiffinfo={262: photometric})
        with Image.open(tmp_path / f"{photometric}.tif") as stored:
            assert stored.tag_v2[262] == photometric
    white, black = (np.asarray(open_image(tmp_path / f"{one}.tif")).astype(int) for one in (0, 1))
    assert white[0, 0, 0] == 255 and white[-1, -1, 0] == 0
    assert np.abs(white - (255 - black)).max() <= 1


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_several_16_bit_channels_is_refused(tmp_path: Path, colour: int, channels: int) -> None:
    rows = b"".join(b"\0" + struct.pack(">H", value) * channels for value in (0, 2000, 4095))
    (tmp_path / "deep.png").write_bytes(png(1, 3, depth=16, colour=colour, rows=rows))
    with pytest.raises(DataError, match="16-bit gray, or as 8-bit colour") as caught:
        open_image(tmp_path / "deep.png")
    assert caught.value.got == "16 bits per channel"


def test_a_tiff_of_several_16_bit_channels_is_refused(tmp_path: Path) -> None:
    entries = [
        (256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 128),
        (277, 3, 1, 3), (278, 4, 1, 1), (279, 4, 1, 6),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *one) for one in entries) + bytes(4)
    content = b"II*\0" + struct.pack("<I", 8) + directory
    assert len(content) == 122
    (tmp_path / "deep.tif").write_bytes(content + struct.pack("<3H", 16, 16, 16) + struct.pack("<3H", 9, 9, 9))
    with pytest.raises(DataError, match="16 bits per channel"):
        open_image(tmp_path / "deep.tif")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(200 * 10**9)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    with pytest.raises(DataError, match=r"(?s)at most 1,073,741,824 bytes.*200,000,000,000 bytes"):
        open_image(path)


def test_a_lack_of_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[Path]) -> None:
    def lack(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", lack)
    with pytest.raises(DataError, match="MemoryError"):
        open_image(pictures[0])
    monkeypatch.setattr(Path, "read_bytes", lack)
    with pytest.raises(DataError, match="memory"):
        open_image(pictures[0])


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "palette.png", "gray.tif"])
def test_no_metadata_of_the_file_is_written_again(tmp_path: Path, name: str) -> None:
    marker = "Jane Doe 1970"
    text = PngInfo()
    text.add_text("Comment", marker)
    text.add_itxt("Description", marker)
    exif = Image.Exif()
    exif[0x010E] = marker
    mode = {"palette.png": "P", "gray.tif": "L"}.get(name, "RGB")
    more = {"x.jpg": {"comment": marker}, "gray.tif": {}}.get(name, {"pnginfo": text})
    noise(8, 8).convert(mode).save(tmp_path / name, exif=exif, icc_profile=marker.encode(), **more)
    assert marker.encode() in (tmp_path / name).read_bytes()
    for image in (open_image(tmp_path / name), open_unconverted(tmp_path / name)):
        assert image.info == {}
        for again in ("again.jpg", "again.png", "again.tif", "again.webp"):
            image.convert("RGB").save(tmp_path / again)
            assert marker.encode() not in (tmp_path / again).read_bytes()


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file of rows that begin with their filter."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def huge_png(width: int, height: int) -> bytes:
    """A small PNG whose header promises a huge picture."""
    return png(width, height, depth=1, colour=0, rows=b"\0")


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


# --- squash and pad ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(512, 512), (300, 700), (90, 31), (224, 224), (1, 1)])
@pytest.mark.parametrize("size", [224, 56])
def test_squash_equals_the_stock_processor(shape: tuple[int, int], size: int) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    image = noise(*shape)
    stock = SiglipImageProcessorPil(size={"height": size, "width": size}, resample=3)
    pixels = fit(image, size, aspect="squash")
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
    resized = stock(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(pixels, resized.transpose(1, 2, 0))
    normalised = stock(image, image_mean=[0.5] * 3, image_std=[0.5] * 3, return_tensors="np")["pixel_values"][0]
    ours = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    assert np.abs(ours - normalised).max() < 1e-6


def test_squash_does_not_keep_the_aspect_ratio() -> None:
    left_half = np.zeros((10, 40, 3), dtype=np.uint8)
    left_half[:, :20] = 200
    pixels = fit(Image.fromarray(left_half), 8, aspect="squash")
    assert (pixels[:, :3] > 190).all() and (pixels[:, 5:] < 10).all()


@pytest.mark.parametrize(
    ("image_size", "box"),
    [
        ((100, 100), (0, 0, 8, 8)),
        ((40, 10), (0, 3, 8, 2)),
        ((10, 40), (3, 0, 2, 8)),
        ((80, 30), (0, 2, 8, 3)),  # five rows of padding: the odd one is below
        ((1000, 1), (0, 3, 8, 1)),
        ((2, 1), (0, 2, 8, 4)),
    ],
)
def test_pad_keeps_the_aspect_ratio_and_lies_centred_on_black(
    image_size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert fitted_box(image_size, 8, aspect="pad") == box
    x, y, width, height = box
    pixels = fit(Image.new("L", image_size, 200), 8, aspect="pad")
    assert (pixels[y : y + height, x : x + width] == 200).all()
    assert np.count_nonzero(pixels) == width * height * 3


def test_pad_and_squash_agree_on_squares() -> None:
    image = noise(50, 50)
    assert np.array_equal(fit(image, 24, aspect="pad"), fit(image, 24, aspect="squash"))


# --- thumbnails ----------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_the_whole_picture_in_gray() -> None:
    halves = np.zeros((90, 200, 3), dtype=np.uint8)
    halves[:, 100:] = (255, 0, 0)
    small = thumbnail(Image.fromarray(halves))
    assert (small.shape, small.dtype) == ((48, 48), np.uint8)
    assert (small[:, :22] == 0).all() and (small[:, 26:] == 76).all()  # red has a luma of 0.299


def test_a_thumbnail_hardly_changes_with_size_and_compression() -> None:
    ramp = np.linspace(0, 255, 240)
    image = Image.fromarray((ramp[:, None] * 0.5 + ramp[None, :] * 0.5).astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((200, 180)).save(buffer, format="JPEG", quality=60)
    again = thumbnail(Image.open(buffer))
    assert np.abs(again.astype(int) - thumbnail(image).astype(int)).mean() < 2.0


def test_opening_images_loads_no_torch() -> None:
    code = "import sys, radvqa.data.adapters.slake, radvqa.data.imaging; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
