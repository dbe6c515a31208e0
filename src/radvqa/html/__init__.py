"""Pages of one file: the frame and style that all share, and pictures inside them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from radvqa.data.imaging import open_image
from radvqa.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as data URI, or the note that takes its place."""

    uri: str | None = None
    note: str | None = None


def page_environment(package: str) -> Environment:
    """Templates of the sub-package ``package`` of radvqa, which may extend ``frame.html``; everything is escaped."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("radvqa", package), PackageLoader("radvqa", "html")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def thumbnail(path: Path, *, side: int) -> Picture:
    """The picture with at most ``side`` pixels a side as JPEG data URI, or a note if the file cannot be read."""
    try:
        image = open_image(path)
    except DataError as error:
        return Picture(note=f"The picture {path.name} cannot be shown: {reason(error)}.")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return Picture(uri=data_uri(buffer.getvalue(), "image/jpeg"))


def data_uri(content: bytes, media_type: str) -> str:
    """The bytes as a URI that a page carries in itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def reason(error: DataError | OSError) -> str:
    """What is wrong, without the whole message: it holds absolute paths, which are nobody's business on a page."""
    return error.what if isinstance(error, DataError) else error.strerror or type(error).__name__
