"""Small DICOM files, made in the test: every element that matters is set there."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian


def dicom(pixels: np.ndarray, **elements: Any) -> Dataset:
    """A CT image of unsigned gray values, or of RGB where ``pixels`` has three channels; without window or rescale."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    header.Modality, header.PatientID = "CT", "17"
    header.SeriesInstanceUID, header.StudyInstanceUID = "1.2.3", "1.2"
    frames = elements.get("NumberOfFrames", 1)
    colour = pixels.ndim == (4 if frames > 1 else 3)
    header.Rows, header.Columns = pixels.shape[1:3] if frames > 1 else pixels.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        header.PlanarConfiguration = 0
    header.BitsAllocated = header.BitsStored = pixels.dtype.itemsize * 8
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    header.PixelData = content + b"\0" * (len(content) % 2)
    header["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that the standard does not allow are what some tests are about
        for keyword, value in elements.items():
            setattr(header, keyword, value)
    return header


def write(path: Path, header: Dataset, *, syntax: UID = ExplicitVRLittleEndian, compress: bool = False) -> Path:
    """Write the object, compressed by pydicom if asked for."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if compress else syntax
    order = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
    file = FileDataset(None, header, file_meta=meta, preamble=b"\0" * 128, **order)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if compress:
            file.compress(syntax, generate_instance_uid=False)
        file.save_as(path, enforce_file_format=True)
    return path


def ct_slice(path: Path, value: int = 0, **elements: Any) -> Path:
    """A 4 x 4 CT slice that is even but for one corner, with rescale to Hounsfield units."""
    pixels = np.full((4, 4), 1024 + value, dtype=np.uint16)
    pixels[0, 0] = 0
    return write(path, dicom(pixels, RescaleSlope=1, RescaleIntercept=-1024, **elements))
