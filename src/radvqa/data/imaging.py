"""Pictures as the model gets them: safe opening, 8-bit RGB, a fixed square, each decoded once for all questions.

Nothing here augments or mirrors: in radiology left and right are part of the answer. Normalisation is the model's.
"""

import re
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from radvqa.data.dicom_codes import is_dicom
from radvqa.data.paths import require_inside
from radvqa.errors import DataError
from radvqa.recipe import Aspect

Pixels = npt.NDArray[np.uint8]

CONVERSION = 2
"""Raised whenever the same picture file comes out as other 8-bit RGB pixels than before."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read. Others are not even tried: EPS would start Ghostscript on the file."""
MOST_BYTES = 1 << 30
"""The longest picture file that is read; a whole-body CT series in one file is about half of it."""

THUMBNAIL_SIZE = 48
RESAMPLE = Image.Resampling.BICUBIC
WINDOW_PERCENTILES = (0.5, 99.5)
"""The gray values of a 16- or 32-bit picture that become 0 and 255."""

_STORE_LAYOUT = 1
_WIDE_GREY_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
# What Pillow's decoders raise for bytes that are not a whole, sound picture.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    MemoryError,
)
_WHITE_IS_ZERO = "radvqa: white is zero"
_PNG_START = re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR.{8}(?P<depth>.)(?P<colour>.)", re.DOTALL)


def open_image(path: Path, *, root: Path | None = None) -> Image.Image:
    """The first frame or page of a picture as 8-bit RGB, turned upright by its EXIF orientation.

    DICOM is opened with its stored window, and several frames by the middle one; see ``radvqa.data.dicom``.
    Gray, palette, CMYK and 1-bit pictures are converted; an alpha channel is dropped, not blended. Gray pictures of
    more than 8 bits go through ``window_to_8_bit``, because Pillow's own conversion clips them at 255. The picture
    carries no metadata: comments, EXIF and text chunks end here, and cannot get into what is written from it.

    Args:
        path: the picture file.
        root: if given, the file must lie inside this folder after following symbolic links.

    Raises:
        DataError: the file is missing, outside ``root``, truncated, undecodable, in none of ``FORMATS``, longer than
            ``MOST_BYTES``, larger than Pillow's limit against decompression bombs, or in colour with more than 8 bits.
    """
    if root is not None:
        require_inside(path, root)
    return open_content(read_picture_file(path), path)[0]


def open_content(content: bytes, path: Path, *, keep_gray: bool = False) -> tuple[Image.Image, str]:
    """The picture in a file's bytes as ``open_image`` gives it, and Pillow's name of the mode the file stores.

    With ``keep_gray`` a gray picture has one channel (mode ``L``), the same as each of its three otherwise.

    Raises:
        DataError: as ``open_image`` does for what a file holds; ``path`` is for the message.
    """
    stored = _decode(content, path)
    mode = stored.mode
    image = _to_8_bit(stored, path)
    image.info.clear()  # Pillow writes comments and profiles that it finds here into whatever is saved
    return image if keep_gray or image.mode == "RGB" else image.convert("RGB"), mode


def open_unconverted(path: Path) -> Image.Image:
    """The first frame of a picture with its stored mode and values, for label masks.

    Raises:
        DataError: like ``open_image``; and for DICOM, whose values would come out windowed.
    """
    content = read_picture_file(path)
    if is_dicom(content):
        raise DataError(
            "label masks are not read from DICOM",
            where=str(path),
            expected="PNG or TIFF",
            fix="convert the mask to PNG",
        )
    image = _decode(content, path)
    image.info.clear()
    return image


def window_to_8_bit(values: npt.NDArray[np.generic]) -> Pixels:
    """Gray values (any shape) mapped linearly to 0…255 between their own 0.5th and 99.5th percentiles.

    Values outside the window are clipped; results are rounded. If the two percentiles coincide (a tiny object on an
    even ground) the window is minimum to maximum; an even picture becomes 0 everywhere. The window is the picture's
    own: it shows the content whatever the bit depth, but absolute units (Hounsfield) are not preserved.
    """
    gray = values.astype(np.float64)
    low, high = percentile_window(gray)
    if high <= low:
        return np.zeros(gray.shape, dtype=np.uint8)
    scaled: npt.NDArray[np.float64] = np.clip((gray - low) / (high - low), 0.0, 1.0) * 255.0
    return np.rint(scaled).astype(np.uint8)


def percentile_window(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    """The gray values that ``window_to_8_bit`` makes 0 and 255; they are equal for an even picture only."""
    low, high = np.percentile(values.astype(np.float64), WINDOW_PERCENTILES)
    if high <= low:
        low, high = values.min(), values.max()
    return float(low), float(high)


def fit(image: Image.Image, size: int, *, aspect: Aspect) -> Pixels:
    """The picture as ``(size, size, 3)`` uint8 under an aspect policy.

    ``squash``: resized to the square; **the aspect ratio is not kept**. This is what PaliGemma was trained with (Beyer
    et al., arXiv 2407.07726, 2024), and gives the bytes of the stock ``SiglipImageProcessor`` with Pillow backend.
    ``pad``: the longer side fills the square, the shorter one lies centred on black, as ``fitted_box`` says.

    The filter is Pillow's bicubic, which is anti-aliased when it shrinks. Scaling to [-1, 1] is left to the model.
    """
    return np.array(as_rgb(fit_channels(image, size, aspect=aspect)))


def fit_channels(image: Image.Image, size: int, *, aspect: Aspect) -> Pixels:
    """As ``fit``, but ``(size, size)`` for a picture of mode ``L``, the same as each channel of ``fit``; read-only."""
    left, top, width, height = fitted_box(image.size, size, aspect=aspect)
    source = image if image.mode in ("L", "RGB") else image.convert("RGB")
    resized = np.asarray(source.resize((width, height), resample=RESAMPLE))
    if (width, height) == (size, size):
        return resized
    square = np.zeros((size, size, *resized.shape[2:]), dtype=np.uint8)
    square[top : top + height, left : left + width] = resized
    return square


def as_rgb(pixels: Pixels) -> Pixels:
    """Pixels of shape ``(y, x)`` in three equal channels; those of shape ``(y, x, 3)`` as they are."""
    if pixels.ndim == 3:
        return pixels
    colour = np.empty((*pixels.shape, 3), dtype=np.uint8)
    for channel in range(3):  # twice as fast as broadcasting
        colour[..., channel] = pixels
    return colour


def fitted_box(image_size: tuple[int, int], size: int, *, aspect: Aspect) -> tuple[int, int, int, int]:
    """Where a picture of (width, height) lies in the square of ``fit``: (x, y, width, height) in pixels of the square.

    Under ``pad`` sides are rounded to whole pixels, with 1 at least; an odd pixel of padding is on the right or below.
    """
    if aspect == "squash":
        return 0, 0, size, size
    longest = max(image_size)
    width, height = (max(1, round(side * size / longest)) for side in image_size)
    return (size - width) // 2, (size - height) // 2, width, height


def thumbnail(image: Image.Image) -> Pixels:
    """The whole picture as ``(48, 48)`` gray uint8, by an anti-aliased triangle filter; aspect is not kept.

    Gray is the luma of ITU-R BT.601, as Pillow computes it. For comparing pictures, not for showing.
    """
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    gray = image.convert("L").resize(size, resample=Image.Resampling.BILINEAR)
    return np.array(gray, dtype=np.uint8)


def read_picture_file(path: Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        DataError: there is no such file, it may not or cannot be read, or is longer than ``MOST_BYTES``.
    """
    try:
        if path.is_file():
            if (size := path.stat().st_size) > MOST_BYTES:
                raise _too_long(path, f"{size:,} bytes")
            return path.read_bytes()
        got = "a folder or special file" if path.exists() else "nothing there"
    except MemoryError as error:
        raise _too_long(path, "more than the memory that is free") from error
    except OSError as error:
        raise DataError(
            "image file cannot be read",
            where=str(path),
            expected="a file you may read",
            got=error.strerror or str(error),
            fix="check the file's permissions and the disk",
        ) from error
    raise DataError(
        "image file not found",
        where=str(path),
        expected="an image file",
        got=got,
        fix="check the path, or fetch the image again from the data set's source",
    )


def _decode(content: bytes, path: Path) -> Image.Image:
    """The first frame, fully decoded, in its stored mode; of DICOM the middle one, windowed to 8 bits."""
    if is_dicom(content):
        from radvqa.data.dicom import decode_dicom  # heavy, and needs this module

        return Image.fromarray(decode_dicom(content, path).pixels)
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise _bomb(path, f"{image.width} x {image.height} pixels")
            _require_no_deep_colour(image, content, path)
            image.load()
            frame = image.copy()
            frame.info[_WHITE_IS_ZERO] = _tiff_tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
            return frame
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _bomb(path, str(error)) from error
    except _DECODE_ERRORS as error:
        raise _undecodable(path, error) from error


def _to_8_bit(image: Image.Image, path: Path) -> Image.Image:
    """The picture upright, in mode ``L`` if it is gray, else in mode ``RGB``. The argument is used up."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
        upright = image
        if upright.mode in _WIDE_GREY_MODES:
            values = np.asarray(upright)
            if upright.info.get(_WHITE_IS_ZERO):  # Pillow turns such gray values only if they have 8 bits or fewer
                values = -values.astype(np.float64)
            if not np.isfinite(values).all():
                raise DataError(
                    "the image holds values that are not numbers",
                    where=str(path),
                    expected="finite gray values",
                    got=f"{int((~np.isfinite(values)).sum())} NaN or infinite pixels",
                    fix="export the picture again, best as 8- or 16-bit PNG",
                )
            return Image.fromarray(window_to_8_bit(values))
        if upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")  # Pillow warns if palette transparency is dropped in one step
        return upright if upright.mode in ("L", "RGB") else upright.convert("RGB")
    except _DECODE_ERRORS as error:
        raise _undecodable(path, error) from error


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _require_no_deep_colour(image: Image.Image, content: bytes, path: Path) -> None:
    """Refuse colour or gray with alpha of more than 8 bits: Pillow keeps the high byte, all black for a 12-bit scan."""
    found = _PNG_START.match(content)
    deep = found is not None and found["depth"] == b"\x10" and found["colour"] in (b"\x02", b"\x04", b"\x06")
    samples = _tiff_tag(image, TiffImagePlugin.BITSPERSAMPLE) or ()
    if deep or (len(samples) > 1 and max(samples) > 8):
        raise DataError(
            "a picture with several channels of more than 8 bits is not read",
            where=str(path),
            expected="gray of 8 or 16 bits, or colour of 8 bits",
            got=f"{'16' if deep else max(samples)} bits per channel",
            fix="export it as 16-bit gray, or as 8-bit colour with a window of your choice",
        )


def _too_long(path: Path, got: str) -> DataError:
    return DataError(
        "image file is too long to be read",
        where=str(path),
        expected=f"at most {MOST_BYTES:,} bytes",
        got=got,
        fix="check where the file comes from; if it is genuine, shrink it or cut it in several",
    )


def _undecodable(path: Path, error: Exception) -> DataError:
    unknown = isinstance(error, UnidentifiedImageError)  # its text names an address in memory
    return DataError(
        "image file is truncated or cannot be decoded",
        where=str(path),
        expected=f"a whole image file in a format that is read: {', '.join(FORMATS)} or DICOM",
        got="it is in no format that is read" if unknown else str(error) or type(error).__name__,
        fix="fetch the file again from the data set's source, or convert it to PNG",
    )


def _bomb(path: Path, got: str) -> DataError:
    return DataError(
        "image is too large to be decoded safely",
        where=str(path),
        expected=f"at most {Image.MAX_IMAGE_PIXELS} pixels",
        got=got,
        fix="check where the file comes from; if it is genuine, shrink it first",
    )
