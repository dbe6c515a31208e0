"""Pictures of a case: as it was saved, through a window of its real values, and small for lists."""

import math
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import final

from PIL import Image
from starlette.exceptions import HTTPException

from radvqa.explain.bundle_files import VALUES
from radvqa.serve.case_bytes import Case, windowed
from radvqa.web.answers import png_bytes

SMALL_SIDE = 96
THUMBNAILS_KEPT = 1000


def picture(case: Case, *, center: str | None, width: str | None) -> tuple[Callable[[], bytes], str]:
    """What makes the PNG, and what it is in a word.

    ``center`` and ``width`` of a window, as typed in the address, need the values that the source held.
    """
    if center is None and width is None:
        return lambda: case.picture, "picture"
    middle, wide = _number(center), _number(width)
    if middle is None or wide is None or wide <= 0:
        raise HTTPException(422, "a window needs center and width as numbers, the width above 0")
    if VALUES not in case:
        raise HTTPException(404, "of this picture only 8 bits are stored; stretch its contrast instead")
    return (
        lambda: png_bytes(Image.fromarray(windowed(case.array(VALUES), center=middle, width=wide))),
        f"window {middle!r} {wide!r}",
    )


@final
class Thumbnails:
    """Small pictures for lists; the last ones stay in memory, so that most are answered without their cases."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[str, ...], bytes] = OrderedDict()

    def of(self, name: tuple[str, ...], case: Callable[[], Case]) -> bytes:
        """The picture of a case with at most ``SMALL_SIDE`` pixels a side, as JPEG.

        Args:
            name: another one for every case and whenever its files change.
            case: opens it; called only if the picture is not kept.

        Raises:
            RunError: as ``case`` and its picture.
        """
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = _small(case().picture)
            while len(self._made) > THUMBNAILS_KEPT:
                self._made.popitem(last=False)
        return found


def _small(content: bytes) -> bytes:
    with Image.open(BytesIO(content)) as image:
        small = image.convert("RGB")
    small.thumbnail((SMALL_SIDE, SMALL_SIDE))
    buffer = BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e6 else None
