"""What identifies a picture file: its bytes, its pixels, and a thumbnail to find near-duplicates with."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from radvqa.data.imaging import THUMBNAIL_SIZE, Pixels, open_content, read_picture_file, thumbnail
from radvqa.errors import DataError

_BODY_SEARCH = 192
"""Side in pixels of the reduced picture in which the body is looked for."""
_DARK = 8


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One picture file, read once.

    ``sha256``: of the file's bytes. ``pixels_sha256``: of width, height and the decoded, upright 8-bit RGB pixels: the
    same picture saved again without loss, or with other metadata, shares it. ``width`` and ``height`` are those of
    the upright picture, ``mode`` is Pillow's name for what the file stores. ``thumbnail``: 48 x 48 gray bytes;
    ``body``: the same of the largest connected bright part alone, which stays when a copy was cropped or got a margin.
    """

    sha256: str
    pixels_sha256: str
    width: int
    height: int
    mode: str
    thumbnail: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A picture file that has no fingerprint.

    ``reason`` is ``missing_image`` (nothing there), ``unreadable_image`` (a folder, no permission, a broken disk) or
    ``undecodable_image`` (truncated, no picture, too large); ``detail`` is the message of the error.
    """

    path: str
    reason: str
    detail: str


def fingerprint(path: str) -> Fingerprint | Unreadable:
    """The fingerprint of one picture file, or why there is none. Never raises for what a file holds.

    The picture is decoded in full: a JPEG decoded at reduced size (Pillow's draft mode) has other pixels.
    """
    file = Path(path)
    try:
        content = read_picture_file(file)
    except DataError as error:
        reason = "unreadable_image" if file.exists() else "missing_image"
        return Unreadable(path, reason, str(error))
    try:
        image, mode = open_content(content, file)
    except DataError as error:
        return Unreadable(path, "undecodable_image", str(error))
    return Fingerprint(
        sha256=hashlib.sha256(content).hexdigest(),
        pixels_sha256=_pixels_sha256(image),
        width=image.width,
        height=image.height,
        mode=mode,
        thumbnail=thumbnail(image).tobytes(),
        body=_body(image).tobytes(),
    )


def _pixels_sha256(image: Image.Image) -> str:
    # With the size, since 2 x 8 and 4 x 4 pixels can have equal bytes.
    digest = hashlib.sha256(f"{image.width} {image.height} ".encode("ascii"))
    digest.update(image.tobytes())
    return digest.hexdigest()


def _body(image: Image.Image) -> Pixels:
    """The thumbnail of the box around the largest connected part that is brighter than the dark ground."""
    small = np.asarray(image.convert("L").resize((_BODY_SEARCH, _BODY_SEARCH), resample=Image.Resampling.BOX))
    bright = small > max(_DARK, 0.1 * float(np.percentile(small, 99)))
    # Opening cuts the thin lines of rulers, tables and text that would tie the body to the margin.
    parts, count = ndimage.label(ndimage.binary_opening(bright, iterations=2))
    if count == 0:
        return thumbnail(image)
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    rows, columns = np.flatnonzero((parts == largest).any(1)), np.flatnonzero((parts == largest).any(0))
    across, down = image.width / _BODY_SEARCH, image.height / _BODY_SEARCH
    box = (columns[0] * across, rows[0] * down, (columns[-1] + 1) * across, (rows[-1] + 1) * down)
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return np.asarray(image.convert("L").resize(size, resample=Image.Resampling.BILINEAR, box=box))
