"""DICOM images as 8-bit pictures, without anything of the header that names a person, a place or a day.

The grayscale pipeline is that of DICOM PS3.3 C.11 and PS3.4 N.2: stored values, modality table or rescale, window or
VOI table, inversion for MONOCHROME1. Overlay planes, shutters, colour profiles and presentation states are not applied.
Presentation LUT Shape says the same as MONOCHROME1 and is therefore not applied a second time.

Header values never reach a message, a log, a record or a file: see ``radvqa.data.dicom_codes``. The text of foreign
exceptions may quote them, so errors of this module name their type at most.
"""

import hashlib
import json
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache as cached
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import pydicom
from jaxtyping import Float32
from PIL import Image, PngImagePlugin
from pydantic import TypeAdapter, ValidationError
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

from radvqa.data.dicom_codes import (
    ALLOWED_TAGS,
    DICOM_SUFFIXES,
    STORED,
    Frame,
    Window,
    allowed_value,
    check_window,
    is_dicom,
)
from radvqa.data.dicom_decoder import PIXEL_TAGS, decoded_frame
from radvqa.data.dicom_window import (
    COLOUR,
    FOREIGN_ERRORS,
    GREY,
    PALETTE,
    Choice,
    Origin,
    Values,
    colour,
    grey,
    has_square_pixels,
    is_hounsfield,
    modality_values,
    quietly,
    square_pixels,
)
from radvqa.data.image_cache import image_cache, make_private
from radvqa.data.imaging import Pixels, read_picture_file
from radvqa.errors import DataError
from radvqa.records import unwritable

T = TypeVar("T")

CONVERSION_VERSION = 1
"""Raised whenever the same file, window and frame come out as other pixels than before."""
LONGEST_INFLATED = 2**30
"""Bytes that a deflated data set may have when it is inflated."""

_NO_PICTURES = (
    "RT Dose Storage",
    "Segmentation Storage",
    "Label Map Segmentation Storage",
    "Surface Segmentation Storage",
)
_HEADER_TAGS: tuple[str, ...] = (
    *ALLOWED_TAGS,
    "SOPClassUID",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "BitsAllocated",
    "HighBit",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *(
        f"{part}{colour}PaletteColorLookupTableData"
        for part in ("", "Segmented")
        for colour in ("Red", "Green", "Blue")
    ),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
)
_FLOAT_PIXELS = ("FloatPixelData", "DoubleFloatPixelData")
_FRAME_GROUPS = (
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
)
_LIBRARIES = ("pydicom", "pylibjpeg")
_PNG_KEY = "radvqa"
_RESTORE = "export the file again from its source, or leave it out"

# These libraries quote header values in what they log.
for _library in _LIBRARIES:
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What was done to get from stored values to a picture, and the header's allow-listed facts.

    ``origin`` and ``function``: where the window comes from, and its shape: LINEAR, LINEAR_EXACT, SIGMOID, LUT (a VOI
    table), IDENTITY (8 bits or fewer without a window: nothing to choose) or COLOUR.
    ``centre`` and ``width``: of the window, after the modality table or rescale; None where there is none.
    ``frame`` of ``frames``: counted from 0. ``resampled``: whether pixels that are not square were made so.
    ``facts``: keyword of a tag of ``ALLOWED_TAGS`` → value, and ``Plane`` as computed from the orientation.
    ``remarks``: short machine names of what the user should know; see ``REMARKS``.
    """

    origin: Origin
    function: str
    preset: str = ""
    centre: float | None = None
    width: float | None = None
    frame: int = 0
    frames: int = 1
    resampled: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomImage:
    """A picture, uint8 ``(rows, columns)`` or ``(rows, columns, 3)``, and how it was made."""

    pixels: Pixels
    rendering: Rendering


REMARKS: Mapping[str, str] = {
    "burnt_in_text": "the header says that text is burnt into the picture, which may name the patient",
    "unusable_window": "the stored window shows nothing, so the percentile window was used",
    "several_windows": "the header offers several windows; the one that stored_window names was used",
    "pixels_resampled": "the pixels were not square and were resampled",
    "implausible_pixel_spacing": "the pixel spacing cannot be true, so the pixels were taken as square",
    "unlisted_code": "a code of the header is on no list of known values and was left out",
}
"""What each of ``Rendering.remarks`` means."""


def read_dicom(path: Path, *, window: Window = STORED, frame: Frame = "middle", stored_window: int = 0) -> DicomImage:
    """One frame of a DICOM file as an 8-bit picture, with a record of what was done.

    Gray images are windowed and never saturated by conversion. ``"stored"`` uses the header's VOI table or window
    number ``stored_window``; where there is none, or it shows nothing of the image, images of up to 8 bits keep their
    values and all others get the percentile window of ``window_to_8_bit``, which leaves out pixel padding. The record
    says which. Presets are for CT in Hounsfield units only. Pixels that are not square are resampled to squares by
    enlarging the longer side, so that circles stay circles under either aspect policy.

    Args:
        path: the file.
        window: see ``Window``.
        frame: of a multi-frame image; "middle" is the earlier one of two. Only this frame is decoded.
        stored_window: which of several stored windows or VOI tables, from 0.

    Raises:
        RecipeError: there is no such window.
        DataError: the file is missing, damaged, no image, or too large; or the window, preset or frame does not fit it.
    """
    check_window(window)
    return decode_dicom(read_picture_file(path), path, window=window, frame=frame, stored_window=stored_window)


def decode_dicom(
    content: bytes, path: Path, *, window: Window = STORED, frame: Frame = "middle", stored_window: int = 0
) -> DicomImage:
    """``read_dicom`` for a file's bytes; ``path`` is for messages."""
    with _quiet(), np.errstate(all="ignore"):
        header, syntax = read_header(content, path)
        index, frames = _frame_index(header, frame, path)
        header = _attempt(lambda: _with_frame_groups(header, index), path, "the header cannot be read")
        stored = _stored_values(content, header, syntax, path, index=index, frames=frames)
        facts, remarks = _facts(header)
        photometric = facts["PhotometricInterpretation"]
        if photometric in GREY:
            choice = Choice(window, stored_window, photometric == "MONOCHROME1")
            shown = _attempt(lambda: grey(stored, header, choice, path), path, "the gray values cannot be shown")
        else:
            shown = _attempt(lambda: colour(stored, header, photometric), path, "the colours cannot be shown")
        pixels, resampled, spacing_remarks = _attempt(
            lambda: square_pixels(shown.pixels, header), path, "the pixels cannot be made square"
        )
    rendering = Rendering(
        origin=shown.origin,
        function=shown.function,
        preset=window if shown.origin == "preset" and isinstance(window, str) else "",
        centre=shown.centre,
        width=shown.width,
        frame=index,
        frames=frames,
        resampled=resampled,
        facts=facts,
        remarks=(*remarks, *shown.remarks, *spacing_remarks),
    )
    return DicomImage(pixels=pixels, rendering=rendering)


def read_hounsfield(path: Path, *, frame: Frame = "middle") -> Float32[np.ndarray, "y x"] | None:
    """One frame of a CT in Hounsfield units; None for any other image, and where pixels are not square.

    Pixel for pixel that of ``read_dicom``.

    Raises:
        DataError: like ``read_dicom``.
    """
    content = read_picture_file(path)
    with _quiet(), np.errstate(all="ignore"):
        header, syntax = read_header(content, path)
        index, frames = _frame_index(header, frame, path)
        header = _attempt(lambda: _with_frame_groups(header, index), path, "the header cannot be read")
        what = "the gray values cannot be read"
        if not _attempt(lambda: is_hounsfield(header) and has_square_pixels(header), path, what):
            return None
        stored = _stored_values(content, header, syntax, path, index=index, frames=frames)
        return _attempt(lambda: modality_values(stored, header).astype(np.float32), path, what)


def hounsfield_of(picture: Path, source: Path) -> Float32[np.ndarray, "y x"] | None:
    """The Hounsfield units behind a picture that was ``converted`` from a CT, or that is a DICOM file itself.

    None where there are none, or where ``source`` is not the file that the picture was made from: shown again in the
    same way it must give the same pixels.

    Raises:
        DataError: the picture is a DICOM file and damaged.
    """
    if is_dicom(picture):
        return read_hounsfield(picture)
    if not is_dicom(source):
        return None
    try:
        made = rendering_of(picture)
        given = (made.centre, made.width)
        window = {"given": given, "preset": made.preset, "percentile": "percentile"}.get(made.origin, STORED)
        again = read_dicom(source, window=cast(Window, window), frame=made.frame)
        with Image.open(picture) as image:
            same = np.array_equal(np.asarray(image), again.pixels)
        return read_hounsfield(source, frame=made.frame) if same else None
    except (DataError, OSError):
        return None


def converted(
    path: Path,
    *,
    window: Window = STORED,
    frame: Frame = "middle",
    stored_window: int = 0,
    cache: Path | None = None,
) -> Path:
    """The PNG of ``read_dicom`` in the image cache, made now unless it is there.

    Its name is a hash over the file's bytes, the options and the version of the conversion: an unchanged file is
    converted once, wherever it lies. The PNG holds pixels and the ``Rendering``, nothing else of the header.

    Raises:
        RecipeError, DataError: like ``read_dicom``.
        RunError: the cache folder is full or not writable.
    """
    check_window(window)
    return converted_content(
        read_picture_file(path), path, window=window, frame=frame, stored_window=stored_window, cache=cache
    )


def converted_content(
    content: bytes,
    path: Path,
    *,
    window: Window = STORED,
    frame: Frame = "middle",
    stored_window: int = 0,
    cache: Path | None = None,
) -> Path:
    """``converted`` for a file's bytes, which are written nowhere; ``path`` is for messages."""
    check_window(window)
    options = [window if isinstance(window, str) else [float(value) for value in window], frame, stored_window]
    version = [CONVERSION_VERSION, pydicom.__version__]
    key = json.dumps([hashlib.sha256(content).hexdigest(), options, version])
    name = hashlib.sha256(key.encode("ascii")).hexdigest()
    target = (cache or image_cache()) / "dicom" / name[:2] / f"{name}.png"
    if _is_whole(target):
        return target
    image = decode_dicom(content, path, window=window, frame=frame, stored_window=stored_window)
    text = PngImagePlugin.PngInfo()
    text.add_text(_PNG_KEY, json.dumps(asdict(image.rendering)))
    partial = target.with_name(f".{name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        make_private(target.parent)
        Image.fromarray(image.pixels).save(partial, format="PNG", pnginfo=text, compress_level=1)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(target, error) from error
    return target


def rendering_of(png: Path) -> Rendering:
    """How a picture of ``converted`` was made. Raises ``DataError`` if the file is none of them."""
    try:
        with Image.open(png) as image:
            return _rendering_type().validate_json(str(image.info[_PNG_KEY]))
    except (OSError, SyntaxError, ValueError, KeyError, ValidationError) as error:
        raise DataError(
            "not a picture converted from DICOM", where=str(png), fix="delete it; it is made again from the DICOM file"
        ) from error


def read_header(source: bytes | Path, path: Path, *, more: Sequence[str] = ()) -> tuple[Dataset, UID]:
    """The elements of a DICOM image that rendering needs, and its transfer syntax; **not for anyone else's eyes**.

    Everything else in the header is skipped unread. Of a file, only the header is read; ``more`` are further keywords.

    Raises:
        DataError: there is no file, no DICOM object in it, or one that holds no image; says of which class.
    """
    with _quiet():
        header = _attempt(
            lambda: _parsed(source, path, _tags((*_HEADER_TAGS, *more))),
            path,
            "the file is no DICOM object, or a damaged one",
        )
        syntax = _attempt(lambda: _transfer_syntax(header), path, "the header cannot be read")
        kind = _attempt(lambda: _object_kind(header), path, "the header cannot be read")
        rows = _attempt(lambda: (header.get("Rows"), header.get("Columns")), path, "the header cannot be read")
    if kind in _NO_PICTURES or not all(isinstance(side, int) and side > 0 for side in rows):
        if kind.endswith("Image Storage"):
            kind += " without rows and columns"
        raise DataError(
            "this DICOM object holds no picture",
            where=str(path),
            expected="an image, such as CT Image Storage",
            got=kind,
            fix="leave the file out; reports, plans, contours and label maps are not images",
        )
    return header, syntax


def quiet_value(header: Dataset, keyword: str) -> Any:
    """A header value, or None if it cannot be read as what it should be; nothing is warned or logged."""
    with _quiet():
        return quietly(header, keyword)


def _parsed(source: bytes | Path, path: Path, tags: list[int]) -> Dataset:
    if isinstance(source, bytes):
        _require_moderate_inflation(source, path)
        return _parsed_stream(BytesIO(source), source[:132], path, tags)
    with source.open("rb") as file:
        head = file.read(4096)
        if _deflated_part(head)[1]:
            return _parsed(head + file.read(), path, tags)
        file.seek(0)
        return _parsed_stream(file, head[:132], path, tags)


def _parsed_stream(stream: BinaryIO, head: bytes, path: Path, tags: list[int]) -> Dataset:
    force = is_dicom(head) or path.suffix.lower() in DICOM_SUFFIXES
    return pydicom.dcmread(stream, stop_before_pixels=True, force=force, specific_tags=tags)


class _Quiet:
    """Warnings of the DICOM libraries are off while any thread is inside: they quote header values.

    ``warnings.catch_warnings`` alone is not made for threads: the last one out must be the one that restores.
    """

    lock = threading.Lock()
    inside = 0
    caught: "warnings.catch_warnings[None] | None" = None


@contextmanager
def _quiet() -> Iterator[None]:
    with _Quiet.lock:
        if _Quiet.inside == 0:
            _Quiet.caught = warnings.catch_warnings()
            _Quiet.caught.__enter__()
            warnings.filterwarnings("ignore", module=rf"({'|'.join(_LIBRARIES)})(\..*)?$")
        _Quiet.inside += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.inside -= 1
            if _Quiet.inside == 0 and _Quiet.caught is not None:
                _Quiet.caught.__exit__(None, None, None)


def _attempt(step: Callable[[], T], path: Path, what: str) -> T:
    """What ``step`` returns; its errors lose their text, which may quote the header."""
    try:
        return step()
    except DataError:
        raise
    except FOREIGN_ERRORS as error:
        kind = type(error).__name__
    raise DataError(what, where=str(path), expected="a whole, sound DICOM image", got=kind, fix=_RESTORE)


@cached
def _tags(keywords: tuple[str, ...]) -> list[int]:
    return [tag for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None]


@cached
def _rendering_type() -> TypeAdapter[Rendering]:
    return TypeAdapter(Rendering)


def _transfer_syntax(header: Dataset) -> UID:
    if stated := header.file_meta.get("TransferSyntaxUID"):
        return UID(stated)
    implicit, little = header.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _object_kind(header: Dataset) -> str:
    """The standard's name of the object's class; never the identifier itself, which is a header value."""
    stated = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    return _known_name(stated) if isinstance(stated, str) else "an object of no class"


def _known_name(uid: str) -> str:
    name = UID(uid).name
    return name if name != uid else "something the standard does not name"


def _require_moderate_inflation(content: bytes, path: Path) -> None:
    """Refuse a deflated data set that grows beyond ``LONGEST_INFLATED``, before pydicom inflates it in one step."""
    meta_length, deflated = _deflated_part(content)
    if not deflated:
        return
    inflater, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, content[meta_length:]
    try:
        while rest and not inflater.eof:
            total += len(inflater.decompress(rest, 2**20))
            rest = inflater.unconsumed_tail
            if total > LONGEST_INFLATED:
                raise DataError(
                    "the DICOM object is too large when inflated",
                    where=str(path),
                    expected=f"at most {LONGEST_INFLATED:,} bytes",
                    got="more",
                    fix="check where the file comes from",
                )
    except zlib.error:
        pass  # pydicom meets the same damage and reports it


def _deflated_part(content: bytes) -> tuple[int, bool]:
    """Where the data set begins, and whether it is deflated; the group before it never is (PS3.10, 7.1)."""
    place, deflated = 132, False
    if content[128:132] != b"DICM":
        return 0, False
    while content[place : place + 2] == b"\x02\x00":
        kind = content[place + 4 : place + 6]
        wide = kind in (b"OB", b"UN", b"OW", b"SQ", b"UT")
        start = place + (12 if wide else 8)
        (length,) = struct.unpack("<I" if wide else "<H", content[start - (4 if wide else 2) : start])
        if content[place + 2 : place + 4] == b"\x10\x00" and kind == b"UI":
            deflated = content[start : start + length].strip(b"\0 ").decode("latin-1") == DeflatedExplicitVRLittleEndian
        place = start + length
    return place, deflated


def _frame_index(header: Dataset, frame: Frame, path: Path) -> tuple[int, int]:
    frames = _attempt(lambda: int(header.get("NumberOfFrames") or 1), path, "the number of frames cannot be read")
    frames = max(1, frames)
    if isinstance(frame, int):
        if not 0 <= frame < frames:
            raise DataError(
                "the image has no such frame",
                where=str(path),
                expected=f"a frame from 0 to {frames - 1}",
                got=str(frame),
                fix='correct frame, or use "middle"',
            )
        return frame, frames
    return {"first": 0, "middle": (frames - 1) // 2, "last": frames - 1}[frame], frames


def _with_frame_groups(header: Dataset, index: int) -> Dataset:
    """The header with what the functional groups of an enhanced image say of this frame (PS3.3 C.7.6.16)."""
    shared = header.get("SharedFunctionalGroupsSequence") or []
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*shared[:1], *per_frame[index : index + 1]]
    for group in groups:
        for keyword in _FRAME_GROUPS:
            for item in (group.get(keyword) or [])[:1]:
                header.update({element.tag: element for element in item})
    return header


def _facts(header: Dataset) -> tuple[dict[str, str], tuple[str, ...]]:
    facts, remarks = {}, []
    for keyword in ALLOWED_TAGS:
        raw = quietly(header, keyword)
        value = allowed_value(keyword, raw)
        if value is not None:
            facts[keyword] = value
        elif raw not in (None, "") and "unlisted_code" not in remarks:
            remarks.append("unlisted_code")
    if (plane := _plane(quietly(header, "ImageOrientationPatient"))) is not None:
        facts["Plane"] = plane
    if facts.get("BurnedInAnnotation") == "YES":
        remarks.append("burnt_in_text")
    return facts, tuple(remarks)


def _plane(orientation: Any) -> str | None:
    """The anatomical plane of an image from the directions of its rows and columns (PS3.3 C.7.6.2.1.1)."""
    try:
        numbers = np.array([float(value) for value in orientation])
        normal = np.abs(np.cross(numbers[:3], numbers[3:6]))
    except (TypeError, ValueError):
        return None
    if len(numbers) != 6 or not np.isfinite(normal).all() or not 0.9 < np.linalg.norm(normal) < 1.1:
        return None
    return ("sagittal", "coronal", "axial")[int(normal.argmax())] if normal.max() > 0.8 else "oblique"


def _stored_values(content: bytes, header: Dataset, syntax: UID, path: Path, *, index: int, frames: int) -> Values:
    """The chosen frame as stored: ``(rows, columns)``, or ``(rows, columns, 3)`` in RGB."""
    _require_supported(header, syntax, path)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and header.Rows * header.Columns > limit:
        raise DataError(
            "image is too large to be decoded safely",
            where=str(path),
            expected=f"at most {limit} pixels",
            got=f"{header.Columns} x {header.Rows} pixels",
            fix="check where the file comes from; if it is genuine, shrink it first",
        )
    what = "the pixel data are missing, truncated or cannot be decoded"
    if syntax.is_encapsulated or syntax == DeflatedExplicitVRLittleEndian:
        whole = _attempt(
            lambda: pydicom.dcmread(BytesIO(content), force=True, specific_tags=_tags((*PIXEL_TAGS, *_FLOAT_PIXELS))),
            path,
            what,
        )
        if syntax.is_encapsulated:
            _require_promised_size(whole, header, path, index=index, frames=frames)
            values: Values = _attempt(lambda: decoded_frame(content, index), path, what)
        else:
            values = _attempt(lambda: pixel_array(whole, index=index), path, what)
    else:
        values = _attempt(lambda: pixel_array(BytesIO(content), index=index, transfer_syntax_uid=syntax), path, what)
    if values.shape[:2] != (header.Rows, header.Columns) or values.size == 0:
        raise DataError(
            what,
            where=str(path),
            expected=f"{header.Columns} x {header.Rows} pixels",
            got=f"an array of shape {values.shape}",
            fix=_RESTORE,
        )
    if not np.isfinite(values).all():
        raise DataError(
            "the image holds values that are not numbers",
            where=str(path),
            expected="finite gray values",
            got=f"{int((~np.isfinite(values)).sum())} NaN or infinite pixels",
            fix=_RESTORE,
        )
    return values


def _require_supported(header: Dataset, syntax: UID, path: Path) -> None:
    photometric = allowed_value("PhotometricInterpretation", quietly(header, "PhotometricInterpretation"))
    if photometric not in (*GREY, *COLOUR, PALETTE):
        raise DataError(
            "the kind of pixels cannot be shown",
            where=str(path),
            expected=", ".join((*GREY, *COLOUR, PALETTE)),
            got=photometric or "none, or an unknown one",
            fix=_RESTORE,
        )
    if quietly(header, "SamplesPerPixel") not in (None, 1, 3):
        raise DataError(
            "the kind of pixels cannot be shown",
            where=str(path),
            expected="1 or 3 samples per pixel",
            got="another number",
            fix=_RESTORE,
        )
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise DataError(
            "the pixel data are compressed by a method that cannot be read",
            where=str(path),
            expected="none, deflated, JPEG (baseline, extended, lossless, LS, 2000) or RLE",
            got=_known_name(syntax),
            fix="convert the file to an uncompressed transfer syntax first",
        )


def _require_promised_size(whole: Dataset, header: Dataset, path: Path, *, index: int, frames: int) -> None:
    """Refuse a compressed frame that is of another size than the header says, before a decoder makes room for it."""
    what = "the pixel data are missing, truncated or cannot be decoded"
    frame = _attempt(lambda: _compressed_frame(whole, index, frames), path, what)
    size, bits = codestream_size(frame), quietly(header, "BitsStored")
    if whole.file_meta.get("TransferSyntaxUID") == JPEGExtended12Bit and isinstance(bits, int) and bits > 8:
        raise DataError(
            "the pixel data are compressed by a method that cannot be read",
            where=str(path),
            expected="JPEG Extended with 8 bits",
            got=f"JPEG Extended with {bits} bits, which no installed decoder reads",
            fix="convert the file to an uncompressed transfer syntax first",
        )
    if size is not None and (size[:2] != (header.Columns, header.Rows) or size[2] > 4):
        raise DataError(
            "the compressed picture is of another size than the header says",
            where=str(path),
            expected=f"{header.Columns} x {header.Rows} pixels",
            got=f"{size[0]} x {size[1]} pixels with {size[2]} channels",
            fix=_RESTORE,
        )


def _compressed_frame(whole: Dataset, index: int, frames: int) -> bytes:
    offsets = None
    if "ExtendedOffsetTable" in whole and "ExtendedOffsetTableLengths" in whole:
        offsets = (whole.ExtendedOffsetTable, whole.ExtendedOffsetTableLengths)
    return bytes(get_frame(whole.PixelData, index, number_of_frames=frames, extended_offsets=offsets))


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Width, height and channels as a JPEG, JPEG-LS or JPEG 2000 codestream states them; None if it is none of these.

    Sources: ITU-T T.81 B.2.2, T.87 C.2.2 and T.800 A.5.1.
    """
    if frame[:2] == b"\xff\xd8":
        return _jpeg_size(frame)
    start = frame[:4096].find(b"\xff\x4f\xff\x51")
    if start >= 0 and len(frame) >= start + 42:
        x, y, x_offset, y_offset = struct.unpack(">4I", frame[start + 8 : start + 24])
        return x - x_offset, y - y_offset, struct.unpack(">H", frame[start + 40 : start + 42])[0]
    return None


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    place = 2
    while place + 10 <= len(frame):
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # fill bytes, and markers without a length
            place += 1 if marker == 0xFF else 2
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width, channels = struct.unpack(">HHB", frame[place + 5 : place + 10])
            return width, height, channels
        place += 2 + struct.unpack(">H", frame[place + 2 : place + 4])[0]
    return None


def _is_whole(png: Path) -> bool:
    """Whether a kept picture is there with its record and its end."""
    try:
        with png.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            complete = file.read() == b"IEND\xaeB`\x82"
        rendering_of(png)
    except (OSError, DataError):
        return False
    return complete
