"""DICOM files in memory: their grey samples as a viewer shows them, and nothing of whom they show.

Only tags of the picture are read. Names, numbers, dates and UIDs are never quoted, neither from a tag nor from a
sentence of pydicom.
"""

import hashlib
import logging
import os
import warnings
import zlib
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from mura.data.decoder_process import decode_apart
from mura.data.formats import MOST_PIXELS, SEVERAL, UNKNOWN, WAY_OUT, Refusal, Samples, grey_of
from mura.data.levels import Range, range_of

MARK, MARK_AT = b"DICM", 128
FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x08")  # of a file without preamble
HEAD = MARK_AT + len(MARK)  # bytes, enough for looks_like_dicom
LONGEST_FIRST_VALUE = 1024  # bytes
SECRET = os.urandom(16)  # of this process, so that no key tells a UID
DEFLATED = b"1.2.840.10008.1.2.1.99"
MOST_BYTES = 6 * MOST_PIXELS  # of a data set that is deflated: three colours of 16 bits
DAMAGED = "is a damaged or truncated DICOM file"
SAFE_DECODERS = ("pillow", "pydicom")  # neither ends the process nor writes to it, whatever they are given
EXTENDED_12_BIT = "1.2.840.10008.1.2.4.51"
PICTURE_TAGS = [
    "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "VOILUTFunction", "WindowCenter",
    "WindowWidth", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
]  # fmt: skip


def looks_like_dicom(head: bytes) -> bool:
    """Return whether a file that begins with `head` (HEAD bytes) may be DICOM, with or without its preamble."""
    if head[MARK_AT:HEAD] == MARK:
        return True
    has_type = head[4:6].isalpha() and head[4:6].isupper()
    return head[:2] in FIRST_GROUPS and (has_type or int.from_bytes(head[4:8], "little") < LONGEST_FIRST_VALUE)


def is_dicom_file(path: Path) -> bool:
    """Return whether a regular file may be a DICOM picture, whatever its name ends in. A DICOMDIR holds none."""
    if path.name == "DICOMDIR" or not path.is_file():
        return False
    with suppress(OSError), path.open("rb") as file:
        return looks_like_dicom(file.read(HEAD))
    return False


def study_key(path: str | Path) -> str | None:
    """Return what the files of one study have in common, for this process only; None if a file does not say."""
    if not is_dicom_file(Path(path)):
        return None
    with suppress(Exception):
        with Path(path).open("rb") as file:
            header = _pydicom().dcmread(file, force=True, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        uid = str(header.get("StudyInstanceUID") or "")
        return hashlib.blake2b(uid.encode(), key=SECRET).hexdigest() if uid else None
    return None


def read_samples(data: bytes) -> Samples:
    """Return the samples of a DICOM file: modality and VOI look-up applied, its window as their range.

    Raises Refusal, which quotes nothing of the file but standard names.
    """
    pydicom = _pydicom()
    try:
        _refuse_bomb(data)
        dataset = pydicom.dcmread(BytesIO(data), force=True, specific_tags=PICTURE_TAGS)
        _refuse(dataset)
        return _shown(dataset, _stored(dataset, data))
    except Refusal:
        raise
    except Exception:
        raise Refusal(DAMAGED, "unreadable") from None


@cache
def _pydicom() -> Any:
    """Return pydicom, told to keep values of the files to itself. Raises Refusal if it is not installed."""
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise Refusal("is a DICOM file, which the extra `dicom` reads: pip install -e '.[dicom]'") from None
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom|mura\.data\.dicom")
    return pydicom


def _refuse_bomb(data: bytes) -> None:
    """Raise Refusal for a deflated data set that is larger than any radiograph, before pydicom inflates it whole."""
    if DEFLATED not in data[: HEAD + 1024]:
        return
    start = HEAD + 12 + int.from_bytes(data[HEAD + 8 : HEAD + 12], "little")  # behind the group of file meta elements
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[start:], MOST_BYTES)
    if inflater.unconsumed_tail:
        raise Refusal("inflates to more than any radiograph; not decoded", "too-large")


def _refuse(dataset: Any) -> None:
    """Raise Refusal for a file that holds no single picture of a possible size."""
    if "PixelData" not in dataset or "Rows" not in dataset or "Columns" not in dataset:
        kind = _standard_name(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"))
        if kind is None and "SOPClassUID" not in dataset and not dataset.file_meta:
            raise Refusal(UNKNOWN, "unreadable")
        raise Refusal(f"is a DICOM file without a picture{f' ({kind})' if kind else ''}")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Refusal(SEVERAL)
    width, height = int(dataset.Columns), int(dataset.Rows)
    if width * height > MOST_PIXELS:
        raise Refusal(f"declares {width} x {height} pixels, more than any radiograph; not decoded", "too-large")


def _standard_name(uid: object) -> str | None:
    """Return the name that the standard gives to a UID; never the UID, which a file may choose itself."""
    entry = _pydicom().uid.UID_dictionary.get(str(uid))
    return entry[0] if entry else None


def _stored(dataset: Any, data: bytes) -> np.ndarray:
    """Decode the pixels of `dataset`, read from `data`, as they are stored: [H, W], or [H, W, 3] in RGB."""
    pydicom = _pydicom()
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little_endian = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if is_little_endian else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if is_implicit else explicit
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        name = _standard_name(syntax) or "an unknown coding"
        raise Refusal(f"is a DICOM file in {name}, which is not read: {WAY_OUT}")
    if decoder.is_native:
        return pydicom.pixels.pixel_array(dataset)
    for plugin in SAFE_DECODERS:
        if plugin in decoder.available_plugins:
            with suppress(Exception):
                return pydicom.pixels.pixel_array(dataset, decoding_plugin=plugin)
    pixels = decode_apart(data)
    if pixels is None and syntax == EXTENDED_12_BIT and dataset.BitsStored > 8:
        raise Refusal(
            "is a DICOM file in JPEG Extended of 12 bits, which only pylibjpeg-libjpeg (GPL-3) reads: "
            f"install that plug-in, or {WAY_OUT}"
        )
    if pixels is None:
        raise Refusal(DAMAGED, "unreadable")
    return pixels


def _shown(dataset: Any, stored: np.ndarray) -> Samples:
    """Return the samples as the file says that they are to be shown."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = _pydicom().pixels.apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        if stored.itemsize > 2:
            raise Refusal(f"is a DICOM file in colours of 32 bits, which are not read: {WAY_OUT}")
        return Samples(grey_of(stored))
    padding = _padding(dataset, stored)
    values = _modality(dataset, stored)
    values, limits = _windowed(dataset, values)
    bits = int(dataset.BitsStored)
    if limits is None and values.dtype == np.uint8 and bits < 8:
        limits = 0, 2**bits - 1
    if limits is None and values.dtype != np.uint8:
        shown = values if padding is None or padding.all() else values[~padding]
        limits = range_of(shown, bits - (stored.dtype.kind == "i") if values is stored else None)
    opacity = None if padding is None or not padding.any() else (~padding).astype(np.float32)
    return Samples(values, opacity, dataset.PhotometricInterpretation == "MONOCHROME1", limits)


def _padding(dataset: Any, stored: np.ndarray) -> np.ndarray | None:
    """Return where the picture is padded, bool [H, W]."""
    with suppress(Exception):
        ends = [int(dataset[tag].value) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit") if tag in dataset]
        if ends:
            return (stored >= min(ends)) & (stored <= max(ends))
    return None


def _modality(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Return the stored values in the unit of the modality; as they are if what the file says of it is unusable."""
    with suppress(Exception):
        is_plain = not dataset.get("ModalityLUTSequence") and (
            float(dataset.get("RescaleSlope", 1)) == 1 and float(dataset.get("RescaleIntercept", 0)) == 0
        )
        return stored if is_plain else _pydicom().pixels.apply_modality_lut(stored, dataset)
    return stored


def _windowed(dataset: Any, values: np.ndarray) -> tuple[np.ndarray, Range | None]:
    """Return the values and their range after the VOI look-up or window; None if there is no usable one."""
    with suppress(Exception):
        if dataset.get("VOILUTSequence"):
            bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
            table_input = values if values.dtype.kind in "iu" else np.round(values).astype(np.int32)
            return _pydicom().pixels.apply_voi(table_input, dataset), (0, 2**bits - 1)
    with suppress(Exception):
        centre, width = (float(np.ravel(dataset[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth"))
        function = dataset.get("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID" and width > 0:
            return 1 / (1 + np.exp(-4 * (values - centre) / width)), (0, 1)
        if function == "LINEAR_EXACT" and width > 0:
            return values, (centre - width / 2, centre + width / 2)
        if width > 1 and np.isfinite(centre + width):
            return values, (centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)
    return values, None
