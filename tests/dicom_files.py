"""DICOM files made for a test: a radiograph of any samples, and one that holds a mark in every text tag."""

import io
from typing import Any

import numpy as np
from pydicom import DataElement
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

TEXT_MARK, NUMBER_MARK = "ZQ", "9797"
CHARACTER_SET = "ISO_IR 100"
MARKED = {  # by kind of value; {} is the number of the tag
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), TEXT_MARK + "{}" + TEXT_MARK),
    "UI": f"1.2.{NUMBER_MARK}.{{}}",
    **dict.fromkeys(("IS", "DS"), NUMBER_MARK),
    **dict.fromkeys(("DA", "DT"), f"{NUMBER_MARK}0101"),
    "TM": f"235959.{NUMBER_MARK}00",
    "AS": "979Y",
}


def dataset(pixels: np.ndarray, stored: int | None = None, **tags: Any) -> Dataset:
    """A radiograph of one frame; `tags` are set last."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = DigitalXRayImageStorageForPresentation
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * pixels.itemsize
    made.BitsStored = stored or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def saved(made: Dataset) -> bytes:
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def mark_every_text_tag(made: Dataset) -> Dataset:
    """Put a mark into every tag of text, number, date or UID that `made` has not yet."""
    made.SpecificCharacterSet = CHARACTER_SET
    for number, (tag, (kind, *_)) in enumerate(DicomDictionary.items()):
        if kind in MARKED and tag not in made and 0x00080000 < tag < 0x7FE00000:
            made.add_new(tag, kind, MARKED[kind].format(number))
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "NumberOfFrames"):
        delattr(made, name)  # of the picture: marked by mark_picture_tag alone
    return made


def mark_picture_tag(made: Dataset, name: str) -> Dataset:
    """Put a mark, which is no valid value, into a tag that the decoder reads."""
    made[name] = DataElement(name, "LO", f"{TEXT_MARK}{name}{TEXT_MARK}")
    return made
