"""Picture files in memory: which kind they are, and their samples as the container declares them, upright."""

import ctypes
import logging
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

from mura.data.levels import Range

MOST_PIXELS = 64_000_000  # a digital radiograph has 20 million at most
UNKNOWN = "is not a PNG, JPEG, TIFF, BMP or DICOM picture"
SEVERAL = "holds several pictures (pages or frames): save the one that is meant in a file of its own"
WAY_OUT = "save it as a PNG of 8 or 16 bits"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH = 24  # where a PNG file says how many bits a sample has
DEEP_COLOURS = re.compile(r"RGB[AX]?;16|[RGBA];16")  # Pillow keeps only the high byte of these
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
LUMA = (19595, 38470, 7471)  # ITU-R 601 in 65536ths, as Pillow weighs
NATIVE = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}
RARE_COMPRESSIONS = ("webp", "zstd", "lzma", "tiff_sgilog", "tiff_sgilog24", "tiff_thunderscan")
READ_JPEG = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive

# Tags of TIFF and EXIF
BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 259, 262, 274, 284, 338, 339
PREMULTIPLIED, ALPHA = 1, 2  # what an extra sample is

SAMPLE_KINDS = {1: "unsigned", 2: "signed", 3: "floating point"}

# What other files begin with, and where; most people have met these.
FOREIGN = [
    (0, rb"GIF8", "a GIF picture"),
    (0, rb"RIFF....WEBP", "a WebP picture"),
    (4, rb"ftyp(avif|avis)", "an AVIF picture"),
    (4, rb"ftyp(hei|hev|mif1|msf1)", "a HEIC picture"),
    (0, rb"\0\0\0\x0cjP  |\xffO\xffQ", "a JPEG 2000 picture"),
    (0, rb"\0\0\0\x0cJXL |\xff\n", "a JPEG XL picture"),
    (0, rb"II\xbc", "a JPEG XR picture"),
    (0, rb"8BPS", "a Photoshop document"),
    (0, rb"P[1-7Ff]\s", "a Netpbm picture"),
    (0, rb"v/1\x01", "an OpenEXR picture"),
    (0, rb"%PDF", "a PDF document"),
    (0, rb"NRRD000", "an NRRD volume"),
    (344, rb"n[+i]1\0", "a NIfTI volume"),
]


class Refusal(Exception):  # noqa: N818
    """A file that is not read: the rest of a sentence after its path, without a full stop, and the kind of fault."""

    def __init__(self, sentence: str, kind: str = "unsupported") -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True)
class Samples:
    """Grey samples [H, W] as the file holds them, `opacity` float32 [H, W] from 0 to 1, and what the file says of them.

    `limits` are black and white if the file says so. Samples of type uint8 without limits are levels already.
    """

    values: np.ndarray
    opacity: np.ndarray | None = None
    is_inverted: bool = False
    limits: Range | None = None


class Tiff(TiffImageFile):
    """Pillow's TIFF reader, told to leave polarity and premultiplied alpha of deep samples to us."""

    is_inverted = False
    is_unsigned = False
    is_composed = False

    def _setup(self) -> None:
        tags = self.tag_v2
        if tags.get(COMPRESSION, 1) not in COMPRESSION_INFO:
            raise Refusal(f"is a TIFF compressed by a method that is not read ({tags[COMPRESSION]}): {WAY_OUT}")
        tags.setdefault(PHOTOMETRIC, 1)
        bits, kind = tags.get(BITS, (1,)), tags.get(SAMPLE_FORMAT, (1,))[:1]
        if tags[PHOTOMETRIC] == 0 and bits[0] > 8:
            self.is_inverted = True
            tags[PHOTOMETRIC] = 1
        if bits == (32,) and kind == (1,):  # arrives as int32, whatever is said
            self.is_unsigned = True
            tags[SAMPLE_FORMAT] = (2,)
        if bits == (8, 8) and tags.get(EXTRA_SAMPLES) == (PREMULTIPLIED,):  # which Pillow reads from 13 on
            self.is_composed = True
            tags[EXTRA_SAMPLES] = (ALPHA,)
        try:
            super()._setup()
        except SyntaxError as error:
            if str(error) == "unknown pixel mode":
                raise Refusal(f"is a TIFF of a kind that is not read ({_samples_in_words(self)}): {WAY_OUT}") from error
            raise
        self.tile = [tile._replace(args=self._own_args(tile.codec_name, tile.args)) for tile in self.tile]

    def _own_args(self, codec: str, args: Any) -> tuple:
        rawmode, *more = args
        self.is_composed |= "a" in rawmode
        has_planes = self.tag_v2.get(PLANES) == 2
        is_deep = self.tag_v2.get(BITS, (1,))[0] == 16
        if codec == "libtiff":  # which gives the bytes in the order of this machine, as Pillow forgets of some
            rawmode = NATIVE.get(rawmode, rawmode)
            if has_planes and is_deep and self.mode in ("RGB", "RGBA"):
                raise Refusal(f"is a TIFF of a kind that is not read (compressed planes of 16 bits): {WAY_OUT}")
        elif has_planes and is_deep and len(rawmode) == 1:
            rawmode = rawmode.upper() + (";16B" if self.tag_v2.prefix == b"MM" else ";16L")
        return (rawmode.replace("RGBa", "RGBA"), *more)


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: np.rot90,
}
"""How a picture is turned upright, by its EXIF orientation."""

FORMATS: list[tuple[tuple[bytes, ...], type[ImageFile]]] = [
    ((PNG_START,), PngImageFile),
    ((b"\xff\xd8\xff",), JpegImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), Tiff),
    ((b"BM",), BmpImageFile),
]


def silence_libraries() -> None:
    """Keep the remarks of Pillow and libtiff from standard error: each fault is one sentence of ours.

    Filters can't be set for one call in threads, and libtiff writes past Python.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(Image.core.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def read_samples(data: bytes) -> Samples:
    """Return the samples of a PNG, JPEG, TIFF or BMP file. Raises Refusal."""
    reader = next((reader for starts, reader in FORMATS if data.startswith(starts)), None)
    if reader is None:
        raise _foreign(data)
    try:
        image = reader(BytesIO(data))
        _refuse(image)
        return _upright(image, _samples(data, image))
    except Refusal:
        raise
    except Exception as error:  # damaged bytes surface in any of a dozen types
        raise _refusal(data, reader, error) from error


def _refuse(image: ImageFile) -> None:
    """Raise Refusal for a picture that is too large, one of several, or in colours without a grey."""
    if image.width * image.height > MOST_PIXELS:
        size = f"{image.width} x {image.height}"
        raise Refusal(f"declares {size} pixels, more than any radiograph; not decoded", "too-large")
    if getattr(image, "is_animated", False) or _has_companions(image):
        raise Refusal(SEVERAL)
    if image.mode == "LAB":
        raise Refusal(f"is a TIFF in CIELAB colours, which are not read: {WAY_OUT}")


def _has_companions(image: ImageFile) -> bool:
    """Return whether a JPEG is the first of several, as cameras write them (MPO)."""
    with suppress(Exception):  # a damaged list of companions is none
        companions = image._getmp() if isinstance(image, JpegImageFile) else None
        return companions is not None and companions[0xB001] > 1
    return False


def _samples_in_words(tiff: TiffImageFile) -> str:
    bits, kind = tiff.tag_v2.get(BITS, (1,)), tiff.tag_v2.get(SAMPLE_FORMAT, (1,))[0]
    words = SAMPLE_KINDS.get(kind, "undefined")
    return f"{len(bits)} x {bits[0]} bits, {words}, photometric interpretation {tiff.tag_v2[PHOTOMETRIC]}"


def _samples(data: bytes, image: ImageFile) -> Samples:
    """Decode `image`, which was opened on `data` and not loaded yet."""
    key = image.info.pop("transparency", None)
    if image.mode == "L" and key is None:  # nearly all pictures
        return Samples(np.asarray(image))
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if getattr(image, "is_unsigned", False):
            values = values.view(np.uint32)
        return Samples(values, None if key is None else _opacity(values != key), getattr(image, "is_inverted", False))
    rawmode = _rawmode(image)
    if rawmode == "LA;16B" or DEEP_COLOURS.match(rawmode):
        return _deep_colours(data, image, rawmode, key)
    if key is not None:
        image.info["transparency"] = key
        if image.mode == "L":  # Pillow widens samples of 2 and 4 bits, but not their key
            image.info["transparency"] *= 255 // (2 ** data[PNG_DEPTH] - 1)
    return _eight_bits(image)


def _eight_bits(image: ImageFile) -> Samples:
    """Return the grey of a picture of 8 bits or fewer in any colours."""
    is_composed = getattr(image, "is_composed", False)
    colours = image.convert("RGBA") if "transparency" in image.info or image.mode == "PA" else image
    opacity = np.asarray(colours.getchannel("A")) if "A" in colours.getbands() and not is_composed else None
    return Samples(np.asarray(colours.convert("L")), _opacity(opacity))


def _deep_colours(data: bytes, image: ImageFile, rawmode: str, key: tuple[int, ...] | None) -> Samples:
    """Return the grey of colours of 16 bits. Pillow keeps one byte of each sample; a second reading gives the other."""
    if rawmode == "LA;16B":
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        values = np.asarray(image).view(">u2").astype(np.uint16)
    else:
        other = type(image)(BytesIO(data))
        other.tile = [tile._replace(args=_other_byte(tile.args)) for tile in other.tile]
        values = np.asarray(image).astype(np.uint16) * np.uint16(256) + np.asarray(other)
    is_composed = getattr(image, "is_composed", False)
    opacity = values[..., -1] if values.shape[2] in (2, 4) and not is_composed else None
    if key is not None:
        opacity = (values != np.array(key, np.uint16)).any(axis=2)
    return Samples(grey_of(values), _opacity(opacity))


def _rawmode(image: ImageFile) -> str:
    args: Any = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else args[0]


def _other_byte(args: Any) -> str | tuple:
    if isinstance(args, str):
        return args[:-1] + OTHER_BYTE[args[-1]]
    return (_other_byte(args[0]), *args[1:])


def grey_of(values: np.ndarray) -> np.ndarray:
    """Return the grey [H, W] of uint8 or uint16 [H, W, C]: grey, grey and alpha, RGB, or RGB and alpha."""
    if values.shape[2] < 3:
        return values[..., 0]
    weighted = np.full(values.shape[:2], 2**15, np.uint32)
    for channel, weight in enumerate(LUMA):
        weighted += values[..., channel] * np.uint32(weight)
    return (weighted >> 16).astype(values.dtype)


def _opacity(alpha: np.ndarray | None) -> np.ndarray | None:
    """Return `alpha` as shares, float32 [H, W]; None if it is the same everywhere, which says nothing."""
    if alpha is None or alpha.min() == alpha.max():
        return None
    white = 1 if alpha.dtype == bool else np.iinfo(alpha.dtype).max
    return alpha.astype(np.float32) / np.float32(white)


def _upright(image: ImageFile, samples: Samples) -> Samples:
    """Return `samples` turned as EXIF says. Pillow does so in TIFF itself; a damaged EXIF says nothing."""
    orientation = 1
    if not isinstance(image, TiffImageFile):
        with suppress(Exception):
            orientation = image.getexif().get(ORIENTATION, 1)
    if orientation not in TURNS:
        return samples
    turn = TURNS[orientation]
    return replace(
        samples, values=turn(samples.values), opacity=None if samples.opacity is None else turn(samples.opacity)
    )


def _foreign(data: bytes) -> Refusal:
    """Return what a file is that is none of FORMATS."""
    for start, pattern, name in FOREIGN:
        if re.match(pattern, data[start : start + 64], re.DOTALL):
            return Refusal(f"is {name}, which is not read: {WAY_OUT}")
    return Refusal(UNKNOWN, "unreadable")


def _refusal(data: bytes, reader: type[ImageFile], error: Exception) -> Refusal:
    """Return why a file of a known format can't be decoded: a kind that is not read, cut short, or damaged."""
    words = str(error)
    if words.startswith(("Unsupported BMP", "cannot handle")):
        return Refusal(f"is a picture of a kind that is not read ({words}): {WAY_OUT}")
    if reader is JpegImageFile and (process := _jpeg_process(data)) not in (*READ_JPEG, None):
        return Refusal(f"is a JPEG of a kind that is not read (lossless or rarer, process {process:02X}): {WAY_OUT}")
    if reader is Tiff and (method := _rare_compression(data)) is not None:
        return Refusal(f"is a TIFF compressed by a method that is not read ({method}): {WAY_OUT}")
    if "truncated" in words.lower() or _has_no_end(data, reader):
        return Refusal(f"is truncated: it ends after {len(data)} bytes", "truncated")
    return Refusal(f"is damaged ({words})", "unreadable")


def _has_no_end(data: bytes, reader: type[ImageFile]) -> bool:
    if reader is Tiff:  # its directory usually comes last
        return int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") >= len(data)
    end = {PngImageFile: b"IEND", JpegImageFile: b"\xff\xd9"}.get(reader, b"")
    return end not in data[-16:]


def _jpeg_process(data: bytes) -> int | None:
    """Return the marker of the frame of a JPEG, which says how it is coded."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return marker
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _rare_compression(data: bytes) -> str | None:
    with suppress(Exception):
        method = COMPRESSION_INFO[Tiff(BytesIO(data)).tag_v2.get(COMPRESSION, 1)]
        return method if method in RARE_COMPRESSIONS else None
    return None
