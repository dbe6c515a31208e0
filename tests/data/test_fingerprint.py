import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radvqa.data.fingerprint import Fingerprint, Unreadable, fingerprint


def picture(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def of(path: Path) -> Fingerprint:
    found = fingerprint(str(path))
    assert isinstance(found, Fingerprint)
    return found


def test_a_fingerprint_says_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture().save(path)
    found = of(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.width, found.height, found.mode) == (60, 40, "RGB")
    assert len(found.thumbnail) == 48 * 48
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_same_pixels_in_another_file_are_recognised(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    picture().save(tmp_path / "a.bmp")
    one, other = of(tmp_path / "a.png"), of(tmp_path / "a.bmp")
    assert one.sha256 != other.sha256
    assert one.pixels_sha256 == other.pixels_sha256
    picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    assert of(tmp_path / "b.png").pixels_sha256 != one.pixels_sha256


def test_gray_and_the_same_gray_as_colour_have_equal_pixels(tmp_path: Path) -> None:
    gray = picture().convert("L")
    gray.save(tmp_path / "a.png")
    gray.convert("RGB").save(tmp_path / "b.png")
    one, other = of(tmp_path / "a.png"), of(tmp_path / "b.png")
    assert (one.mode, other.mode) == ("L", "RGB")
    assert one.pixels_sha256 == other.pixels_sha256 and one.thumbnail == other.thumbnail


def test_equal_bytes_of_another_shape_are_other_pixels(tmp_path: Path) -> None:
    for name, size in (("a.png", (20, 80)), ("b.png", (40, 40))):
        Image.new("RGB", size, 7).save(tmp_path / name)
    assert of(tmp_path / "a.png").pixels_sha256 != of(tmp_path / "b.png").pixels_sha256


@pytest.mark.parametrize("reason", ["missing_image", "unreadable_image", "undecodable_image"])
def test_a_file_without_a_fingerprint_says_why(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "a.png"
    if reason == "unreadable_image":
        path.mkdir()
    if reason == "undecodable_image":
        picture().save(path)
        path.write_bytes(path.read_bytes()[:100])
    found = fingerprint(str(path))
    assert isinstance(found, Unreadable)
    assert (found.path, found.reason) == (str(path), reason)
    assert str(path) in found.detail
