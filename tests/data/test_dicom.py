import json
import logging
import os
import struct
import subprocess
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import ct_slice, dicom, write
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_files
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
    TwelveLeadECGWaveformStorage,
)

import radvqa.data.dicom as module
from radvqa.data import dicom_decoder
from radvqa.data.dicom import codestream_size, converted, converted_content, read_dicom, rendering_of
from radvqa.data.dicom_codes import ALLOWED_TAGS, PRESETS, allowed_value, is_dicom
from radvqa.data.image_cache import embedded_image, kept_image
from radvqa.data.imaging import open_image, open_unconverted, window_to_8_bit
from radvqa.data.tables import Row, RowError
from radvqa.errors import DataError, RecipeError

HU = {"RescaleSlope": 1, "RescaleIntercept": -1000, "RescaleType": "HU"}


def hounsfield(*values: int) -> np.ndarray:
    return (np.array([values]) + 1000).astype(np.uint16)


def shown(tmp_path: Path, header: Dataset, **options: object) -> list[int]:
    return read_dicom(write(tmp_path / "x.dcm", header), **options).pixels.ravel().tolist()


@pytest.fixture(scope="module")
def published() -> dict[str, Path]:
    """The files that pydicom tests itself with, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = [Path(path) for path in get_testdata_files()]
    if not any("pydicom_data" in str(path) or path.name == "693_J2KR.dcm" for path in paths):
        pytest.skip("the package pydicom-data is not installed")
    return {path.name: path for path in sorted(paths) if path.is_file()}


# --- gray ------------------------------------------------------------------------------------------------------------


def test_rescale_comes_before_the_linear_window(tmp_path: Path) -> None:
    header = dicom(hounsfield(-1000, -1, 0, 20, 40, 79, 80, 900), WindowCenter=40, WindowWidth=81, **HU)
    # PS3.3 C.11.2.1.2.1: black up to 39.5 - 40, white above 39.5 + 40, between ((x - 39.5) / 80 + 0.5) * 255.
    assert shown(tmp_path, header) == [0, 0, 2, 65, 129, 253, 255, 255]


def test_the_exact_linear_window(tmp_path: Path) -> None:
    header = dicom(hounsfield(0, 20, 40, 60, 80), WindowCenter=40, WindowWidth=80, VOILUTFunction="LINEAR_EXACT", **HU)
    assert shown(tmp_path, header) == [0, 64, 128, 191, 255]


def test_the_sigmoid_window(tmp_path: Path) -> None:
    header = dicom(hounsfield(-1000, 20, 40, 60), WindowCenter=40, WindowWidth=80, VOILUTFunction="SIGMOID", **HU)
    # 255 / (1 + exp(-4 (x - c) / w)); exp(1) = 2.718.
    assert shown(tmp_path, header) == [0, 69, 128, 186]


def test_monochrome1_is_inverted_after_the_window(tmp_path: Path) -> None:
    elements = {"WindowCenter": 40, "WindowWidth": 81, "PhotometricInterpretation": "MONOCHROME1", **HU}
    assert shown(tmp_path, dicom(hounsfield(-1000, 0, 20, 900), **elements)) == [255, 253, 190, 0]
    eight = dicom(np.array([[0, 10, 255]], dtype=np.uint8), PhotometricInterpretation="MONOCHROME1")
    assert shown(tmp_path, eight) == [255, 245, 0]


def test_presentation_lut_shape_inverse_does_not_invert_a_second_time(tmp_path: Path) -> None:
    header = dicom(np.array([[0, 255]], dtype=np.uint8), PhotometricInterpretation="MONOCHROME1")
    header.PresentationLUTShape = "INVERSE"
    assert shown(tmp_path, header) == [255, 0]


def test_signed_values_and_unused_high_bits(tmp_path: Path) -> None:
    signed = dicom(np.array([[-100, 0, 100]], dtype=np.int16), WindowCenter=0.5, WindowWidth=201)
    assert shown(tmp_path, signed) == [0, 128, 255]
    # 12 bits stored; the four bits above hold an old overlay and are no part of the value.
    overlaid = dicom(np.array([[0x0000, 0xF800, 0x0FFF]], dtype=np.uint16), BitsStored=12, HighBit=11)
    overlaid.WindowCenter, overlaid.WindowWidth = 2048, 4096
    assert shown(tmp_path, overlaid) == [0, 128, 255]


def test_one_of_several_windows_is_chosen_by_number(tmp_path: Path) -> None:
    header = dicom(hounsfield(0, 40, 400), WindowCenter=[40, 400], WindowWidth=[81, 801], **HU)
    path = write(tmp_path / "x.dcm", header)
    first, second = read_dicom(path), read_dicom(path, stored_window=1)
    assert (first.rendering.centre, first.rendering.width) == (40, 81)
    assert (second.rendering.centre, second.rendering.width) == (400, 801)
    assert "several_windows" in first.rendering.remarks
    assert second.pixels.tolist() == [[0, 13, 128]]
    with pytest.raises(DataError, match="no such stored window"):
        read_dicom(path, stored_window=2)


def test_without_a_window_deep_images_get_the_percentile_window(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    image = read_dicom(write(tmp_path / "x.dcm", dicom(values)))
    assert image.rendering.origin == "percentile"
    assert np.abs(image.pixels.astype(int) - window_to_8_bit(values)).max() <= 1
    assert (image.pixels == 255).mean() < 0.01


def test_pixel_padding_does_not_shift_the_percentiles(tmp_path: Path) -> None:
    values = np.full((64, 64), -2000, dtype=np.int16)
    values[16:48, 16:48] = np.linspace(0, 1000, 32 * 32).reshape(32, 32)
    plain = read_dicom(write(tmp_path / "a.dcm", dicom(values)))
    padded = read_dicom(write(tmp_path / "b.dcm", dicom(values, PixelPaddingValue=-2000)))
    ranged = read_dicom(write(tmp_path / "c.dcm", dicom(values, PixelPaddingValue=-3000, PixelPaddingRangeLimit=-1500)))
    assert plain.pixels[16:48, 16:48].min() > 150
    assert padded.pixels[16:48, 16:48].min() == 0
    assert np.array_equal(padded.pixels, ranged.pixels)
    assert padded.rendering.centre == pytest.approx(500, abs=5)


def test_an_image_of_padding_alone_is_black(tmp_path: Path) -> None:
    assert shown(tmp_path, dicom(np.full((2, 2), 7, dtype=np.uint16), PixelPaddingValue=7)) == [0, 0, 0, 0]


def test_eight_bits_without_a_window_are_kept(tmp_path: Path) -> None:
    image = read_dicom(write(tmp_path / "x.dcm", dicom(np.array([[3, 50, 200]], dtype=np.uint8))))
    assert image.pixels.tolist() == [[3, 50, 200]]
    assert (image.rendering.origin, image.rendering.function) == ("full_range", "IDENTITY")
    assert shown(tmp_path, dicom(np.array([[0, 3]], dtype=np.uint8), BitsStored=2, HighBit=1)) == [0, 255]


def test_one_bit_pixels_are_black_and_white(tmp_path: Path) -> None:
    header = dicom(np.zeros((1, 8), dtype=np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    header.PixelData = bytes([0b10000101, 0])
    assert shown(tmp_path, header) == [255, 0, 255, 0, 0, 0, 0, 255]


@pytest.mark.parametrize("window", [(40, 0), (40, -5), (99_999, 10), ("", 80)])
def test_a_stored_window_that_shows_nothing_is_replaced_and_remarked(tmp_path: Path, window: tuple) -> None:
    header = dicom(hounsfield(0, 20, 40, 60), WindowCenter=window[0], WindowWidth=window[1], **HU)
    image = read_dicom(write(tmp_path / "x.dcm", header))
    assert image.rendering.origin == "percentile"
    assert ("unusable_window" in image.rendering.remarks) == (window[0] != "")
    assert image.pixels.max() == 255


def test_a_voi_table_goes_before_the_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 10, 8]
    table.add_new("LUTData", "US", [0, 51, 102, 255])
    header = dicom(np.array([[0, 10, 11, 12, 13, 99]], dtype=np.uint16), WindowCenter=40, WindowWidth=80)
    header.VOILUTSequence = Sequence([table])
    image = read_dicom(write(tmp_path / "x.dcm", header))
    assert image.pixels.tolist() == [[0, 0, 51, 102, 255, 255]]
    assert image.rendering.function == "LUT"


def test_a_modality_table_goes_before_the_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [3, 0, 16], "US"
    table.LUTData = np.array([0, 1000, 50], dtype="<u2").tobytes()
    header = dicom(np.array([[0, 1, 2, 3]], dtype=np.uint16), WindowCenter=500, WindowWidth=1000)
    header.ModalityLUTSequence, header.VOILUTFunction = Sequence([table]), "LINEAR_EXACT"
    assert shown(tmp_path, header) == [0, 255, 13, 13]


def test_float_pixels_are_windowed_and_nan_is_refused(tmp_path: Path) -> None:
    header = dicom(np.zeros((1, 3), dtype=np.uint16), BitsAllocated=32)
    del header.PixelData, header.BitsStored, header.HighBit, header.PixelRepresentation
    header.FloatPixelData = np.array([-1, 0, 1], dtype=np.float32).tobytes()
    assert shown(tmp_path, header, window=(0.0, 2.0)) == [0, 128, 255]
    assert shown(tmp_path, header)[1] == 128
    header.FloatPixelData = np.array([-1, 0, np.nan], dtype=np.float32).tobytes()
    with pytest.raises(DataError, match="not numbers"):
        shown(tmp_path, header)


# --- windows by name -------------------------------------------------------------------------------------------------


def test_a_preset_shows_its_hounsfield_units(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", dicom(hounsfield(-1000, 0, 40, 80, 900), WindowCenter=0, WindowWidth=2, **HU))
    image = read_dicom(path, window="brain")
    assert image.pixels.tolist() == [[0, 0, 129, 255, 255]]
    assert (image.rendering.origin, image.rendering.preset) == ("preset", "brain")
    for name, preset in PRESETS.items():
        rendering = read_dicom(path, window=name).rendering
        assert (rendering.centre, rendering.width) == tuple(preset)


@pytest.mark.parametrize("elements", [{"Modality": "MR", **HU}, {}, {**HU, "RescaleType": "US"}])
def test_a_preset_without_hounsfield_units_is_refused(tmp_path: Path, elements: dict) -> None:
    path = write(tmp_path / "x.dcm", dicom(hounsfield(0, 40), **elements))
    with pytest.raises(DataError, match="for CT in Hounsfield units only") as caught:
        read_dicom(path, window="lung")
    assert caught.value.fix


def test_a_given_window_is_exact(tmp_path: Path) -> None:
    header = dicom(hounsfield(0, 40, 80), WindowCenter=1, WindowWidth=2, **HU)
    assert shown(tmp_path, header, window=(40.0, 80.0)) == [0, 128, 255]


@pytest.mark.parametrize("window", ["brian", (40.0, 0.0), (float("nan"), 1.0)])
def test_an_impossible_window_is_refused_before_reading(window: object) -> None:
    with pytest.raises(RecipeError, match="window"):
        read_dicom(Path("nowhere.dcm"), window=window)


# --- frames, colours, compression ------------------------------------------------------------------------------------


def test_one_frame_of_many_is_read(tmp_path: Path) -> None:
    frames = np.stack([np.full((2, 2), 10 * number, dtype=np.uint8) for number in range(4)])
    path = write(tmp_path / "x.dcm", dicom(frames, NumberOfFrames=4))
    found = {frame: read_dicom(path, frame=frame) for frame in ("first", "middle", "last", 2)}
    assert [int(image.pixels[0, 0]) for image in found.values()] == [0, 10, 30, 20]
    assert [(image.rendering.frame, image.rendering.frames) for image in found.values()] == [
        (0, 4), (1, 4), (3, 4), (2, 4),
    ]  # fmt: skip
    for frame in (4, -1):
        with pytest.raises(DataError, match="no such frame"):
            read_dicom(path, frame=frame)


def test_an_enhanced_frame_has_its_own_rescale_and_window(tmp_path: Path) -> None:
    groups = []
    for intercept in (0, -50):
        transformation, window, group = Dataset(), Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, intercept
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 50, 100, "LINEAR_EXACT"
        group.PixelValueTransformationSequence = Sequence([transformation])
        group.FrameVOILUTSequence = Sequence([window])
        groups.append(group)
    frames = np.tile(np.array([[0, 100]], dtype=np.uint16), (2, 1, 1))
    header = dicom(frames, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=Sequence(groups))
    assert shown(tmp_path, header, frame=0) == [0, 255]
    assert shown(tmp_path, header, frame=1) == [0, 128]


def test_rgb_in_either_planar_configuration(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert shown(tmp_path, dicom(pixels)) == list(range(18))
    planar = dicom(pixels, PlanarConfiguration=1)
    planar.PixelData = pixels.transpose(2, 0, 1).tobytes()
    assert shown(tmp_path, planar) == list(range(18))


def test_deep_rgb_is_scaled_and_not_cut(tmp_path: Path) -> None:
    pixels = np.array([[[0, 2048, 4095]]], dtype=np.uint16)
    assert shown(tmp_path, dicom(pixels, BitsStored=12, HighBit=11)) == [0, 128, 255]


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    red = [76, 85, 255]  # ITU-R BT.601, full range
    header = dicom(np.array([[red, [255, 128, 128]]], dtype=np.uint8), PhotometricInterpretation="YBR_FULL")
    assert np.abs(np.array(shown(tmp_path, header)) - [254, 0, 0, 255, 255, 255]).max() <= 2
    header = dicom(np.zeros((1, 2, 3), dtype=np.uint8), PhotometricInterpretation="YBR_FULL_422")
    header.PixelData = bytes([76, 255, 85, 255])  # two lightnesses share one colour
    assert shown(tmp_path, header)[:3] == pytest.approx([254, 0, 0], abs=2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["little", "big"])
def test_a_palette_becomes_rgb(tmp_path: Path, bits: int, order: str) -> None:
    header = dicom(np.array([[0, 1, 2, 3]], dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR")
    kind = ("<" if order == "little" else ">") + ("u1" if bits == 8 else "u2")
    for name, values in (("Red", [0, 255, 0]), ("Green", [0, 0, 255]), ("Blue", [51, 0, 0])):
        data = np.array([*values, 0], dtype=kind) * (1 if bits == 8 else 257)
        entries = data.astype(kind).tobytes()
        if bits == 8 and order == "big":
            entries = np.frombuffer(entries, "u2").byteswap().tobytes()
        setattr(header, f"{name}PaletteColorLookupTableDescriptor", [3 if bits == 8 else 4, 0, bits])
        setattr(header, f"{name}PaletteColorLookupTableData", entries)
    syntax = ExplicitVRBigEndian if order == "big" else ImplicitVRLittleEndian
    path = write(tmp_path / "x.dcm", header, syntax=syntax)
    pixels = read_dicom(path).pixels.reshape(-1, 3).tolist()
    assert pixels[:3] == [[0, 0, 51], [255, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_frames_equal_the_plain_ones(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    frames = np.random.default_rng(0).integers(0, 4096, (3, 64, 80)).astype(np.uint16)
    header = dicom(frames, NumberOfFrames=3, BitsStored=12, HighBit=11)
    plain = read_dicom(write(tmp_path / "a.dcm", header), frame="last")
    packed = read_dicom(write(tmp_path / "b.dcm", header, syntax=syntax, compress=True), frame="last")
    assert np.array_equal(plain.pixels, packed.pixels)


def test_a_deflated_file_equals_the_plain_one(tmp_path: Path) -> None:
    header = dicom(np.arange(64, dtype=np.uint8).reshape(8, 8))
    path = write(tmp_path / "x.dcm", header, syntax=DeflatedExplicitVRLittleEndian)
    assert read_dicom(path).pixels.ravel().tolist() == list(range(64))


@pytest.mark.parametrize(
    ("packed", "plain", "tolerance"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", 0),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm", 0),
        ("MR_small_RLE.dcm", "MR_small.dcm", 0),
        ("MR_small_bigendian.dcm", "MR_small.dcm", 0),
        ("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb.dcm", 12),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb.dcm", 12),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb.dcm", 1),
        ("SC_rgb_rle_16bit.dcm", "SC_rgb_16bit.dcm", 0),
        ("SC_rgb_32bit.dcm", "SC_rgb.dcm", 1),
        ("RG3_J2KR.dcm", "RG3_UNCR.dcm", 0),
        ("US1_J2KR.dcm", "US1_UNCR.dcm", 0),
        ("OBXXXX1A_expb.dcm", "OBXXXX1A.dcm", 0),
        ("OBXXXX1A_rle.dcm", "OBXXXX1A.dcm", 0),
    ],
)
def test_published_compressed_files_equal_their_plain_twins(
    published: dict[str, Path], packed: str, plain: str, tolerance: int
) -> None:
    if packed not in published or plain not in published:
        pytest.skip("this version of pydicom-data has no such file")
    first, second = (read_dicom(published[name]).pixels.astype(int) for name in (packed, plain))
    assert np.abs(first - second).max() <= tolerance


def test_every_published_file_is_read_or_refused(published: dict[str, Path]) -> None:
    read, refused = [], []
    for path in published.values():
        try:
            image = read_dicom(path)
        except DataError as error:
            assert error.where == str(path)
            refused.append(path.name)
            continue
        assert image.pixels.dtype == np.uint8
        assert image.pixels.ndim in (2, 3)
        read.append(path.name)
    assert len(read) > 60
    assert {"rtplan.dcm", "rtstruct.dcm", "liver.dcm", "reportsi.dcm", "waveform_ecg.dcm", "DICOMDIR"} <= set(refused)
    assert not {"CT_small.dcm", "image_dfl.dcm", "693_J2KI.dcm", "JPEG-LL.dcm", "mlut_18.dcm", "vlut_04.dcm"} - set(
        read
    )


def test_12_bit_lossy_jpeg_is_refused_by_name(published: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="JPEG Extended with 12 bits"):
        read_dicom(published["JPGExtended.dcm"])


# --- shape -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "shape"),
    [
        ({"PixelSpacing": [0.5, 0.5]}, (6, 4)),
        ({"PixelSpacing": [1.0, 0.5]}, (12, 4)),
        ({"ImagerPixelSpacing": [0.5, 1.0]}, (6, 8)),
        ({"PixelAspectRatio": [2, 1]}, (12, 4)),
        ({"PixelSpacing": [1.0, 1.005]}, (6, 4)),
    ],
)
def test_pixels_that_are_not_square_are_resampled(tmp_path: Path, elements: dict, shape: tuple[int, int]) -> None:
    image = read_dicom(write(tmp_path / "x.dcm", dicom(np.zeros((6, 4), dtype=np.uint8), **elements)))
    assert image.pixels.shape == shape
    assert image.rendering.resampled == (shape != (6, 4)) == ("pixels_resampled" in image.rendering.remarks)


@pytest.mark.parametrize("spacing", [[100.0, 0.5], [0.0, 1.0], [-1.0, 1.0]])
def test_an_impossible_spacing_is_remarked(tmp_path: Path, spacing: list[float]) -> None:
    image = read_dicom(write(tmp_path / "x.dcm", dicom(np.zeros((6, 4), dtype=np.uint8), PixelSpacing=spacing)))
    assert image.pixels.shape == (6, 4)
    assert image.rendering.remarks == ("implausible_pixel_spacing",)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (BasicTextSRStorage, "Basic Text SR Storage"),
        (RTStructureSetStorage, "RT Structure Set Storage"),
        (TwelveLeadECGWaveformStorage, "12-lead ECG Waveform Storage"),
        (EncapsulatedPDFStorage, "Encapsulated PDF Storage"),
        (pydicom.uid.UID("1.2.826.0.1.77"), "something the standard does not name"),
    ],
)
def test_objects_without_a_picture_are_refused_by_their_class(tmp_path: Path, kind: pydicom.uid.UID, name: str) -> None:
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = kind, "1.2.3", "SR"
    path = write(tmp_path / "x.dcm", header)
    with pytest.raises(DataError, match="holds no picture") as caught:
        read_dicom(path)
    assert caught.value.got == name
    assert "77" not in str(caught.value).replace(str(path), "")


def test_a_label_map_is_no_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", dicom(np.zeros((2, 2), dtype=np.uint8), SOPClassUID=SegmentationStorage))
    with pytest.raises(DataError, match="holds no picture"):
        read_dicom(path)


def test_a_huge_image_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    header = dicom(np.zeros((2, 2), dtype=np.uint8), Rows=60_000, Columns=60_000)
    with pytest.raises(DataError, match="too large"):
        shown(tmp_path, header)


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = dicom(np.zeros((1000, 1000), dtype=np.uint8))
    path = write(tmp_path / "x.dcm", header, syntax=DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(module, "LONGEST_INFLATED", 500_000)
    with pytest.raises(DataError, match="too large when inflated"):
        read_dicom(path)


def test_a_compressed_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", dicom(np.zeros((64, 64), np.uint8)), syntax=JPEG2000Lossless, compress=True)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\x4f\xff\x51") + 8
    content[place : place + 8] = struct.pack(">2I", 30_000, 30_000)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="another size"):
        read_dicom(path)


def test_the_size_in_a_codestream(tmp_path: Path) -> None:
    for name, options in (("x.jpg", {"quality": 50}), ("y.jpg", {"progressive": True}), ("z.jp2", {})):
        Image.new("RGB", (7, 5)).save(tmp_path / name, **options)
        assert codestream_size((tmp_path / name).read_bytes()) == (7, 5, 3)
    assert codestream_size(b"") is None
    assert codestream_size(b"\xff\xd8\xff") is None


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_truncated_pixel_data_are_refused(tmp_path: Path, syntax: pydicom.uid.UID | None) -> None:
    header = dicom(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    compress = syntax in (RLELossless, JPEG2000Lossless)
    path = write(tmp_path / "x.dcm", header, syntax=syntax or ImplicitVRLittleEndian, compress=compress)
    whole = path.read_bytes()
    path.write_bytes(whole[:-300])
    with pytest.raises(DataError):
        read_dicom(path)


def test_pixel_data_that_are_missing_or_too_short_are_refused(tmp_path: Path) -> None:
    header = dicom(np.zeros((4, 4), dtype=np.uint8))
    header.PixelData = b"\0" * 8
    with pytest.raises(DataError, match="pixel data"):
        shown(tmp_path, header)
    del header.PixelData
    with pytest.raises(DataError, match="pixel data"):
        shown(tmp_path, header)


def test_a_video_is_refused_by_the_name_of_its_compression(tmp_path: Path) -> None:
    header = dicom(np.zeros((4, 4), dtype=np.uint8))
    header.PixelData = pydicom.encaps.encapsulate([b"\0" * 16])
    path = write(tmp_path / "x.dcm", header, syntax=MPEG2MPML)
    with pytest.raises(DataError, match="compressed by a method") as caught:
        read_dicom(path)
    assert "MPEG2" in str(caught.value.got)


def test_other_files_are_no_dicom(tmp_path: Path) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "x.png")
    (tmp_path / "x.dcm").write_bytes(b"")
    assert not is_dicom(tmp_path / "x.png")
    assert not is_dicom(tmp_path / "absent")
    assert not is_dicom(tmp_path)
    assert not is_dicom(b"")
    for name in ("x.png", "x.dcm"):
        with pytest.raises(DataError):
            read_dicom(tmp_path / name)


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    path = ct_slice(tmp_path / "x.dcm", WindowCenter=0, WindowWidth=100)
    expected = read_dicom(path).pixels
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00UI")
    path.write_bytes(content[start:])
    assert is_dicom(path)
    assert np.array_equal(read_dicom(path).pixels, expected)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory, published: dict[str, Path]) -> list[bytes]:
    folder = tmp_path_factory.mktemp("wholes")
    pixels = np.random.default_rng(0).integers(0, 4096, (2, 40, 50)).astype(np.uint16)
    header = dicom(
        pixels, NumberOfFrames=2, BitsStored=12, HighBit=11, WindowCenter=[40, 80], WindowWidth=[80, 99], **HU
    )
    header.PixelSpacing, header.ImageOrientationPatient = [1.0, 2.0], [1, 0, 0, 0, 1, 0]
    files = [write(folder / "plain", header), write(folder / "implicit", header, syntax=ImplicitVRLittleEndian)]
    for syntax in (RLELossless, JPEG2000Lossless):
        files.append(write(folder / syntax, header, syntax=syntax, compress=True))
    files.append(write(folder / "deflated", header, syntax=DeflatedExplicitVRLittleEndian))
    names = ("SC_rgb_small_odd_jpeg.dcm", "JPEGLSNearLossless_08.dcm", "gdcm-US-ALOKA-16.dcm", "vlut_04.dcm")
    small = [published[name] for name in names if name in published and published[name].stat().st_size < 100_000]
    return [path.read_bytes() for path in (*files, *small)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_picture_or_a_data_error(data: st.DataObject, wholes: list[bytes]) -> None:
    content = bytearray(data.draw(st.sampled_from(wholes)))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    try:
        image = module.decode_dicom(bytes(content[:end]), Path("x.dcm"))
    except DataError as error:
        assert error.where == "x.dcm"
    else:
        assert image.pixels.dtype == np.uint8


def test_a_decoder_that_dies_costs_one_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.dcm", dicom(np.zeros((64, 64), np.uint8)), syntax=RLELossless, compress=True)
    expected = read_dicom(path).pixels
    asked = dicom_decoder._asked

    def killed(child: subprocess.Popen, content: bytes, index: int) -> object:
        child.kill()
        return asked(child, content, index)

    with monkeypatch.context() as patch:
        patch.setattr(dicom_decoder, "_asked", killed)
        with pytest.raises(DataError, match="cannot be decoded"):
            read_dicom(path)
    assert np.array_equal(read_dicom(path).pixels, expected)


def test_a_decoder_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.dcm", dicom(np.zeros((64, 64), np.uint8)), syntax=RLELossless, compress=True)
    monkeypatch.setattr(dicom_decoder, "LONGEST_DECODE", 0.2)
    asked = dicom_decoder._asked

    def endless(child: subprocess.Popen, content: bytes, index: int) -> object:
        child.stdin.write(dicom_decoder._REQUEST.pack(1000, index))  # the child waits for what never comes
        return asked(child, b"", index)

    monkeypatch.setattr(dicom_decoder, "_asked", endless)
    with pytest.raises(DataError, match="cannot be decoded"):
        read_dicom(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_has_a_decoder_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", dicom(np.zeros((64, 64), np.uint8)), syntax=RLELossless, compress=True)
    expected = read_dicom(path).pixels
    forked = os.fork()
    if forked == 0:
        try:
            same = np.array_equal(read_dicom(path).pixels, expected)
            dicom_decoder._Child.stop()
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(forked, 0)[1] == 0
    assert np.array_equal(read_dicom(path).pixels, expected)


# --- nothing of the header gets out ----------------------------------------------------------------------------------

MARKER = "MARKERQXZ"
TEXT_KINDS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT", "AS", "DA", "DT", "TM")
NEEDED = ("PhotometricInterpretation", "SOPClassUID", "SpecificCharacterSet")


def marked(header: Dataset) -> Dataset:
    """The object with every text element of the standard's dictionary filled."""
    for tag, (kind, *_rest, keyword) in DicomDictionary.items():
        if kind in TEXT_KINDS and tag >> 16 not in (0, 2, 0xFFFE) and keyword and keyword not in NEEDED:
            header.add(pydicom.DataElement(tag, kind, MARKER, validation_mode=pydicom.config.IGNORE))
    item = Dataset()
    item.PersonName = item.CodeMeaning = MARKER
    header.RequestAttributesSequence = Sequence([item])
    header.add(pydicom.DataElement(0x00091010, "LO", MARKER))
    return header


@pytest.mark.parametrize("fault", ["none", "preset", "truncated", "no picture", "frames", "number", "character set"])
def test_no_text_of_the_header_gets_out(
    tmp_path: Path,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    caplog.set_level(logging.DEBUG)
    header = marked(dicom(np.arange(64, dtype=np.uint16).reshape(8, 8), **HU))
    header.RescaleType = MARKER
    if fault == "no picture":
        del header.Rows
    if fault == "preset":
        header.Modality = "CT"
    if fault == "frames":
        header.NumberOfFrames = 10_000_000
    if fault == "character set":
        header.SpecificCharacterSet = MARKER
    path = write(tmp_path / "x.dcm", header)
    content = path.read_bytes()
    assert content.count(MARKER.encode()) > 1000
    if fault == "truncated":
        path.write_bytes(content[:-70])
    if fault in ("number", "frames"):  # the marker where a number should be
        number, fake = {"number": b"-1000.0 ", "frames": b"10000000"}[fault], b"MARKERQZ"
        assert number in content
        path.write_bytes(content.replace(number, fake, 1))
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for options in ({}, {"window": "brain"}, {"window": "percentile"}):
            try:
                png = converted(path, cache=tmp_path / "cache", **options)
                said += [json.dumps(asdict(rendering_of(png))), png.read_bytes().decode("latin-1")]
                said += [repr(read_dicom(path, **options).rendering)]
            except DataError as error:
                said += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    said += [str(warning.message) for warning in caught]
    said += [str(file) for file in (tmp_path / "cache").rglob("*")]
    said += [caplog.text, *capfd.readouterr()]
    assert not [text for text in said if "MARKER" in text]
    assert not caught


def test_only_listed_values_of_listed_tags_are_facts(tmp_path: Path) -> None:
    elements = {"BodyPartExamined": "C-SPINE", "ViewPosition": "SMITH", "PatientName": "SMITH", "Laterality": "L"}
    facts = read_dicom(write(tmp_path / "x.dcm", dicom(np.zeros((4, 4), np.uint8), **elements))).rendering
    assert facts.facts == {
        "Modality": "CT", "BodyPartExamined": "CSPINE", "Laterality": "L", "PhotometricInterpretation": "MONOCHROME2",
        "Rows": "4", "Columns": "4", "BitsStored": "8",
    }  # fmt: skip
    assert facts.remarks == ("unlisted_code",)
    assert all(allowed_value(keyword, "SMITH") is None for keyword in ALLOWED_TAGS)


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        ([1, 0, 0, 0, 1, 0], "axial"), ([0, 1, 0, 0, 0, -1], "sagittal"), ([1, 0, 0, 0, 0, -1], "coronal"),
        ([1, 0, 0, 0, 0.7071, 0.7071], "oblique"), ([0, 0, 0, 0, 0, 0], None), ([1, 0, 0], None),
    ],
)  # fmt: skip
def test_the_plane_is_computed(tmp_path: Path, orientation: list[float], plane: str | None) -> None:
    header = dicom(np.zeros((4, 4), np.uint8), ImageOrientationPatient=orientation)
    assert read_dicom(write(tmp_path / "x.dcm", header)).rendering.facts.get("Plane") == plane


def test_burnt_in_text_is_remarked_where_the_header_admits_it(tmp_path: Path) -> None:
    for value, expected in (("YES", ("burnt_in_text",)), ("NO", ()), (None, ())):
        elements = {"BurnedInAnnotation": value} if value else {}
        header = dicom(np.zeros((4, 4), np.uint8), **elements)
        assert read_dicom(write(tmp_path / "x.dcm", header)).rendering.remarks == expected


# --- the cache and the one way in ------------------------------------------------------------------------------------


def test_an_unchanged_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = ct_slice(tmp_path / "a.dcm", 30), tmp_path / "cache"
    png = converted(path, window="brain", cache=cache)
    with Image.open(png) as image:
        assert np.array_equal(np.asarray(image), read_dicom(path, window="brain").pixels)
    assert rendering_of(png) == read_dicom(path, window="brain").rendering
    copy = tmp_path / "b.dcm"
    copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(module, "decode_dicom", None)
    assert converted(path, window="brain", cache=cache) == converted(copy, window="brain", cache=cache) == png
    monkeypatch.undo()
    others = {converted(path, cache=cache, **options) for options in ({"window": "lung"}, {"frame": 0}, {})}
    assert len(others | {png}) == 4
    assert not list(cache.rglob("*.partial"))


def test_bytes_are_converted_like_their_file_and_the_cache_is_private(tmp_path: Path) -> None:
    path, cache = ct_slice(tmp_path / "x.dcm", 40, PatientName="MARKERQZ"), tmp_path / "new" / "cache"
    png = converted_content(path.read_bytes(), Path("table.parquet"), window="brain", cache=cache)
    assert png == converted(path, window="brain", cache=cache)
    assert [one for one in cache.rglob("*") if one.is_file()] == [png]
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in (cache.parent, cache, *png.parents[:2]))


def test_dicom_is_never_kept_as_it_is(tmp_path: Path) -> None:
    content = ct_slice(tmp_path / "x.dcm").read_bytes()
    with pytest.raises(DataError, match="DICOM is not kept"):
        kept_image(content, cache=tmp_path / "cache")
    with pytest.raises(RowError, match="holds DICOM"):
        embedded_image(Row("here", "row", {"image": {"bytes": content}}), "image")
    assert not (tmp_path / "cache").exists()


def test_a_changed_file_or_conversion_is_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = ct_slice(tmp_path / "a.dcm", 30), tmp_path / "cache"
    first = converted(path, cache=cache)
    ct_slice(path, 31)
    assert converted(path, cache=cache) != first
    ct_slice(path, 30)
    monkeypatch.setattr(module, "CONVERSION_VERSION", -1)
    assert converted(path, cache=cache) != first


def test_a_damaged_kept_picture_is_made_again(tmp_path: Path) -> None:
    path, cache = ct_slice(tmp_path / "a.dcm", 30), tmp_path / "cache"
    png = converted(path, cache=cache)
    whole = png.read_bytes()
    for damaged in (b"", whole[:40], whole[:-20]):
        png.write_bytes(damaged)
        assert converted(path, cache=cache).read_bytes() == whole
    with pytest.raises(DataError, match="not a picture converted"):
        rendering_of(path)


def test_open_image_opens_dicom(tmp_path: Path) -> None:
    path = ct_slice(tmp_path / "no_suffix", 30, WindowCenter=40, WindowWidth=81)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (4, 4))
    assert np.array_equal(np.asarray(image)[..., 1], read_dicom(path).pixels)


def test_label_masks_are_not_read_from_dicom(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label masks are not read from DICOM"):
        open_unconverted(ct_slice(tmp_path / "x.dcm"))


def test_threads_do_not_see_each_others_warnings(tmp_path: Path) -> None:
    paths = [ct_slice(tmp_path / f"{number}.dcm", number, StudyDate="no date") for number in range(8)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(read_dicom, paths * 10))
    assert len(images) == 80
    assert warnings.filters == before


def test_the_inflating_guard_survives_garbage(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", dicom(np.zeros((8, 8), np.uint8)), syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    place = module._deflated_part(content)[0]
    assert zlib.decompress(content[place:], -zlib.MAX_WBITS)[:2] == b"\x08\x00"
    path.write_bytes(content[:place] + b"\xff" * 50)
    with pytest.raises(DataError):
        read_dicom(path)
