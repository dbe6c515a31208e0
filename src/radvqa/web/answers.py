"""Answers that all local pages give: problems in words without paths, pictures as PNG."""

from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image
from starlette.responses import JSONResponse, Response

from radvqa.data.imaging import open_image
from radvqa.errors import RadvqaError

LONGEST_SIDE = 2048
"""Pictures of more pixels a side are shrunk for the page."""
PICTURES_KEPT = 32
"""Converted pictures that stay in memory, so that going back and forth is quick."""


def problem(text: str, *, status: int) -> Response:
    """``{"error": text}``."""
    return JSONResponse({"error": text}, status_code=status)


def told(error: RadvqaError) -> str:
    """The error without its place, which is a path of this machine."""
    return "; ".join(part for part in (error.what, error.got, error.fix) if part)


@lru_cache(maxsize=PICTURES_KEPT)
def as_png(path: Path) -> bytes:
    """A picture file as 8-bit PNG without metadata, at most ``LONGEST_SIDE`` pixels a side.

    Raises:
        DataError: as ``open_image``; its message holds the path.
    """
    image = open_image(path)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return png_bytes(image)


def png_bytes(image: Image.Image) -> bytes:
    """A picture as PNG, packed quickly rather than tightly."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
