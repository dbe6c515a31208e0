"""From the stored values of a DICOM frame to 8 bits: modality table, window or VOI table, inversion, colour, shape.

Functions take the header as pydicom holds it and may raise anything of ``FOREIGN_ERRORS`` for a header that is not
sound; ``radvqa.data.dicom`` turns that into a ``DataError`` without its text, which may quote the header.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing

from radvqa.data.dicom_codes import PRESETS, STORED, Window, allowed_value
from radvqa.data.imaging import Pixels, percentile_window
from radvqa.errors import DataError

Values = npt.NDArray[Any]
Origin = Literal["stored", "preset", "given", "percentile", "full_range", "colour"]

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
SQUARE_WITHIN = 0.01
"""Pixels whose sides differ by less than this share count as square."""
LONGEST_PIXEL = 20.0
"""A pixel this many times longer than wide is a damaged spacing, not an image."""

_WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# What pydicom and its decoders raise for bytes that are no sound DICOM object.
FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    BytesLengthException,
    EOFError,
    ImportError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class Shown(NamedTuple):
    """8-bit pixels, with the window that made them."""

    pixels: Pixels
    origin: Origin
    function: str
    centre: float | None = None
    width: float | None = None
    remarks: tuple[str, ...] = ()


class Choice(NamedTuple):
    """The window asked for, the number of the stored one, and whether low values are white (MONOCHROME1)."""

    window: Window
    stored_window: int
    inverted: bool


def grey(stored: Values, header: Dataset, choice: Choice, path: Path) -> Shown:
    """A gray frame through the whole pipeline. Raises ``DataError`` for a window that does not fit the image."""
    values = modality_values(stored, header)
    if not np.isfinite(values).all():
        raise ValueError
    remarks: tuple[str, ...] = ()
    shown: Shown | None = None
    if isinstance(choice.window, tuple):
        shown = _windowed(values, *choice.window, function="LINEAR_EXACT", origin="given")
    elif choice.window in PRESETS:
        _require_hounsfield(header, choice.window, path)
        shown = _windowed(values, *PRESETS[choice.window], function="LINEAR", origin="preset")
    elif choice.window == STORED:
        shown, remarks = _stored_window(values, header, choice.stored_window, path)
        if shown is None and _is_narrow(header):
            shown = _full_range(stored, header)
    if shown is None:
        shown = _percentile(values, ~_padding(stored, header))
    pixels = 255 - shown.pixels if choice.inverted else shown.pixels
    return shown._replace(pixels=pixels, remarks=remarks)


def modality_values(stored: Values, header: Dataset) -> Values:
    """Stored values through the modality table or the rescale (PS3.3 C.11.1)."""
    if header.get("ModalityLUTSequence"):
        return _Table.of_item(header.ModalityLUTSequence[0], header).applied(stored)
    if header.get("RescaleSlope") is None or header.get("RescaleIntercept") is None:
        return stored
    if float(header.RescaleSlope) == 0:
        raise ValueError
    values: Values = apply_modality_lut(stored, header)
    return values


def is_hounsfield(header: Dataset) -> bool:
    """Whether the values of an image, after its rescale, are Hounsfield units."""
    modality = allowed_value("Modality", quietly(header, "Modality"))
    unit = str(header.get("RescaleType") or "HU").strip().upper()
    return modality == "CT" and _is_rescaled(header) and not header.get("ModalityLUTSequence") and unit == "HU"


def _is_rescaled(header: Dataset) -> bool:
    return header.get("RescaleSlope") is not None and header.get("RescaleIntercept") is not None


def _require_hounsfield(header: Dataset, preset: str, path: Path) -> None:
    if is_hounsfield(header):
        return
    modality, rescaled = allowed_value("Modality", quietly(header, "Modality")), _is_rescaled(header)
    raise DataError(
        f"the window {preset!r} is for CT in Hounsfield units only",
        where=str(path),
        expected="modality CT with rescale slope and intercept to Hounsfield units",
        got=f"modality {modality or 'unknown'}, {'rescaled' if rescaled else 'without rescale'}"
        + (", to another unit" if modality == "CT" and rescaled else ""),
        fix='use window "stored" or "percentile" for these files',
    )


def _stored_window(values: Values, header: Dataset, number: int, path: Path) -> tuple[Shown | None, tuple[str, ...]]:
    """The header's own VOI table or window; the table wins, as one of them may be chosen freely (PS3.3 C.11.2)."""
    tables = header.get("VOILUTSequence") or []
    centres, widths = _numbers(header.get("WindowCenter")), _numbers(header.get("WindowWidth"))
    offered = len(tables) or min(len(centres), len(widths))
    if offered == 0:
        return None, ()
    if not 0 <= number < offered:
        raise DataError(
            "the image has no such stored window",
            where=str(path),
            expected=f"a stored_window from 0 to {offered - 1}",
            got=str(number),
            fix="correct stored_window, or choose a window by name or numbers",
        )
    remarks = ("several_windows",) if offered > 1 else ()
    if tables:
        table = _Table.of_item(tables[number], header)
        scaled = table.applied(np.rint(values).astype(np.int64)) * (255.0 / table.highest)
        shown = Shown(_to_8_bit(scaled), "stored", "LUT")
    else:
        function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
        if function not in _WINDOW_FUNCTIONS or not _possible(centres[number], widths[number], function):
            return None, (*remarks, "unusable_window")
        shown = _windowed(values, centres[number], widths[number], function=function, origin="stored")
    if shown.pixels.min() == shown.pixels.max() and values.min() != values.max():
        return None, (*remarks, "unusable_window")
    return shown, remarks


def _possible(centre: float, width: float, function: str) -> bool:
    """Whether the standard allows such a window (PS3.3 C.11.2.1.2 and 3)."""
    return math.isfinite(centre) and math.isfinite(width) and (width >= 1 if function == "LINEAR" else width > 0)


def _windowed(values: Values, centre: float, width: float, *, function: str, origin: Origin) -> Shown:
    window = Dataset()
    # Eight unsigned bits and no rescale: the output range of the window is then 0 to 255.
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = float(centre), float(width), function
    return Shown(_to_8_bit(apply_windowing(values, window)), origin, function, float(centre), float(width))


def _percentile(values: Values, counted: npt.NDArray[np.bool_]) -> Shown:
    low, high = percentile_window(values[counted] if counted.any() else values)
    if high <= low:
        return Shown(np.zeros(values.shape, dtype=np.uint8), "percentile", "LINEAR_EXACT", low, 0.0)
    return _windowed(values, (low + high) / 2, high - low, function="LINEAR_EXACT", origin="percentile")


def _is_narrow(header: Dataset) -> bool:
    """Whether values of 8 bits or fewer can be shown as they are."""
    unsigned = header.get("PixelRepresentation") == 0
    return unsigned and int(header.BitsStored) <= 8 and not header.get("ModalityLUTSequence")


def _full_range(stored: Values, header: Dataset) -> Shown:
    slope = header.get("RescaleSlope")
    pixels = _to_8_bit(stored * (255.0 / (2 ** int(header.BitsStored) - 1)))
    return Shown(255 - pixels if slope is not None and slope < 0 else pixels, "full_range", "IDENTITY")


def _padding(stored: Values, header: Dataset) -> npt.NDArray[np.bool_]:
    """Which pixels only fill the frame (PS3.3 C.7.5.1.1.2); they would shift the percentiles."""
    value, other = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted((value, other if isinstance(other, int) else value))
    return (stored >= low) & (stored <= high)


def colour(stored: Values, header: Dataset, photometric: str) -> Shown:
    """A frame in RGB, or of palette indices, as 8-bit RGB; deeper colours are scaled from their stored bits."""
    highest = 2 ** int(header.BitsStored) - 1
    if photometric == PALETTE:
        stored, highest = _palette_colours(stored, header)
    if stored.ndim != 3 or stored.shape[2] != 3 or header.PixelRepresentation != 0:
        raise ValueError
    pixels = stored.astype(np.uint8) if highest == 255 else _to_8_bit(stored * (255.0 / highest))
    return Shown(pixels, "colour", "COLOUR")


def _palette_colours(stored: Values, header: Dataset) -> tuple[Values, int]:
    """The colours that palette indices stand for, and the value of full brightness (PS3.3 C.7.9)."""
    if "SegmentedRedPaletteColorLookupTableData" in header:
        colours = apply_color_lut(stored.astype(np.int32), header)[..., :3]
        return colours, int(np.iinfo(colours.dtype).max)
    tables = [
        _Table.of(header[f"{name}PaletteColorLookupTableDescriptor"].value, header[key].value, header)
        for name in ("Red", "Green", "Blue")
        for key in (f"{name}PaletteColorLookupTableData",)
    ]
    colours = np.stack([table.applied(stored) for table in tables], axis=-1)
    # Some writers put 8-bit colours into 16-bit entries without shifting them up.
    highest = 255 if max(int(table.entries.max()) for table in tables) <= 255 else tables[0].highest
    return colours, highest


def has_square_pixels(header: Dataset) -> bool:
    """Whether ``square_pixels`` leaves the picture as it is."""
    ratio = _pixel_ratio(header)
    return ratio is None or abs(ratio - 1) < SQUARE_WITHIN


def square_pixels(pixels: Pixels, header: Dataset) -> tuple[Pixels, bool, tuple[str, ...]]:
    """The picture with square pixels: the side along which they are longer is enlarged, so nothing is lost."""
    ratio = _pixel_ratio(header)
    if ratio is None or abs(ratio - 1) < SQUARE_WITHIN:
        return pixels, False, ()
    height, width = pixels.shape[:2]
    if not 1 / LONGEST_PIXEL <= ratio <= LONGEST_PIXEL:
        return pixels, False, ("implausible_pixel_spacing",)
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        return pixels, False, ("implausible_pixel_spacing",)
    resized = Image.fromarray(pixels).resize(size, resample=Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8), True, ("pixels_resampled",)


def _pixel_ratio(header: Dataset) -> float | None:
    """Height of a pixel over its width; None where the header does not say."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        numbers = _numbers(header.get(keyword))
        if len(numbers) == 2:
            return numbers[0] / numbers[1] if min(numbers) > 0 else 0.0
    return None


def _numbers(value: Any) -> list[float]:
    """One or several numbers of a header as a list; empty if there are none, or something else."""
    if value is None or value == "":
        return []
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        return [float(one) for one in several]
    except (TypeError, ValueError):
        return []


def _to_8_bit(scaled: Values) -> Pixels:
    pixels: Pixels = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return pixels


class _Table(NamedTuple):
    """A modality, VOI or palette lookup table (PS3.3 C.11.1.1, C.11.2.1.1).

    Values beyond its ends get its end entries.
    """

    entries: npt.NDArray[np.int64]
    first: int
    highest: int

    @staticmethod
    def of(descriptor: Sequence[int], data: Any, header: Dataset) -> "_Table":
        """The table of a LUT descriptor (entries, first value mapped, bits of an entry) and its data."""
        count, first, bits = (int(value) for value in descriptor)
        count = count or 2**16
        if isinstance(data, bytes):
            order = "<" if header.original_encoding[1] else ">"
            packed = len(data) in (count, count + 1)  # entries of one byte, padded to an even length
            if packed and order == ">":
                data = np.frombuffer(data, dtype="u2").byteswap().tobytes()  # words, so the pairs are swapped
            entries = np.frombuffer(data, dtype="u1" if packed else f"{order}u2", count=count).astype(np.int64)
            bits = 8 if packed else bits
        else:
            entries = np.asarray(list(data) if isinstance(data, Sequence) else [data], dtype=np.int64)
        if len(entries) != count or not 1 <= bits <= 16:
            raise ValueError
        return _Table(entries, first, 2**bits - 1)

    @staticmethod
    def of_item(item: Dataset, header: Dataset) -> "_Table":
        """The table of one item of a modality or VOI LUT sequence."""
        return _Table.of(item.LUTDescriptor, item["LUTData"].value, header)

    def applied(self, values: Values) -> Values:
        first = self.first
        if first >= 2**15 and values.min() < 0:
            first -= 2**16  # written as unsigned although the values are signed
        places = np.clip(values.astype(np.int64) - first, 0, len(self.entries) - 1)
        return self.entries[places]


def quietly(header: Dataset, keyword: str) -> Any:
    """A header value, or None if it cannot be read as what it should be."""
    try:
        return header.get(keyword)
    except FOREIGN_ERRORS:
        return None
