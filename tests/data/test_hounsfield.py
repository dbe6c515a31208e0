"""Hounsfield units behind pictures that were converted from CT."""

import numpy as np
import pytest
from dicom_files import dicom, write
from PIL import Image

from radvqa.data.dicom import converted, hounsfield_of, read_dicom, read_hounsfield
from radvqa.errors import DataError

STORED = (np.arange(48, dtype=np.uint16).reshape(6, 8) * 40).copy()


@pytest.fixture
def ct(tmp_path):
    return write(tmp_path / "ct.dcm", dicom(STORED, RescaleSlope=2, RescaleIntercept=-1024))


def test_values_are_hounsfield_units(ct):
    values = read_hounsfield(ct)
    assert values.dtype == np.float32
    assert np.array_equal(values, STORED * 2.0 - 1024.0)
    assert values.shape == read_dicom(ct).pixels.shape


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": "MR"},
        {"RescaleType": "OD"},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"PixelSpacing": [1.0, 2.0]},
    ],
)
def test_other_images_have_none(tmp_path, changes):
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1024, **changes}
    path = write(tmp_path / "x.dcm", dicom(STORED, **{name: one for name, one in elements.items() if one is not None}))
    assert read_hounsfield(path) is None


@pytest.mark.parametrize("window", ["stored", "percentile", "lung", (40.0, 400.0)])
def test_a_converted_picture_finds_its_values_again(ct, tmp_path, window):
    picture = converted(ct, window=window, cache=tmp_path / "cache")
    assert np.array_equal(hounsfield_of(picture, ct), read_hounsfield(ct))


def test_the_frame_that_is_shown(tmp_path):
    frames = np.stack([STORED, STORED[::-1], STORED[:, ::-1]])
    path = write(tmp_path / "x.dcm", dicom(frames, NumberOfFrames=3, RescaleSlope=1, RescaleIntercept=-1024))
    picture = converted(path, frame="last", cache=tmp_path / "cache")
    assert np.array_equal(hounsfield_of(picture, path), frames[2] - 1024.0)


def test_a_dicom_file_is_its_own_source(ct):
    assert np.array_equal(hounsfield_of(ct, ct), read_hounsfield(ct))


def test_another_file_is_not_taken_for_the_source(ct, tmp_path):
    picture = converted(ct, cache=tmp_path / "cache")
    other = write(tmp_path / "other.dcm", dicom(STORED[::-1].copy(), RescaleSlope=2, RescaleIntercept=-1024))
    assert hounsfield_of(picture, other) is None
    assert hounsfield_of(picture, tmp_path / "absent.dcm") is None
    Image.fromarray(STORED.astype(np.uint8)).save(tmp_path / "plain.png")
    assert hounsfield_of(tmp_path / "plain.png", ct) is None


def test_a_damaged_file_is_told(ct):
    ct.write_bytes(ct.read_bytes()[:-20])
    with pytest.raises(DataError):
        read_hounsfield(ct)
