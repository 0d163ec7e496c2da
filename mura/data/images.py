"""Grey pixels of a picture file: decoded to 8 bits, then fitted into a square."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mura.errors import MuraError
from mura.files import read_file

PNG_START = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 64_000_000  # a digital radiograph has 20 million at most
MARGIN = 8 / 7  # oversampling, so that turned pictures stay sharp: 224 -> 256
SIDE_STEP = 16  # pixels
PAD, STRETCH = "pad", "stretch"
FITS = (PAD, STRETCH)
"""How a picture becomes a square: with black added to its shorter sides, or stretched along them."""


# Opened by class and not by Image.open, which only warns of a bomb of 89 to 178 million pixels, and warnings
# can't be caught safely in threads. None of these decodes a pixel or runs a program on opening.
FORMATS: list[type[ImageFile]] = [PngImageFile, JpegImageFile, TiffImageFile, BmpImageFile]


class UnreadableImage(MuraError):  # noqa: N818
    """A picture that can't be decoded. `kind`: missing, unread, empty, truncated, too-large or unreadable."""

    def __init__(self, sentence: str, kind: str = "unreadable") -> None:
        super().__init__(sentence)
        self.kind = kind

    @property
    def is_damage(self) -> bool:
        """Whether its bytes are at fault; else they could not be read, and may be sound."""
        return self.kind not in ("missing", "unread")


def decode(path: str | Path, data: bytes | None = None) -> np.ndarray:
    """Return the grey pixels of a PNG, JPEG, TIFF or BMP file: uint8 [H, W], maybe read-only, without transparency.

    More than 8 bits are rescaled by the bit depth that is really used. `data` are the file's bytes, if they have been
    read. Raises UnreadableImage.
    """
    data = read_picture(path) if data is None else data
    if not data:
        raise UnreadableImage(f"{path} is empty (0 bytes).", "empty")
    image = _open(path, data)
    if image.width * image.height > MOST_PIXELS:
        raise UnreadableImage(
            f"{path} declares {image.width} x {image.height} pixels, more than any radiograph; not decoded.",
            "too-large",
        )
    try:
        return _grey(image)
    except Exception as error:  # damaged bytes surface in any of a dozen types
        raise _undecodable(path, data, error) from error


def fit(image: np.ndarray, size: int, how: str = PAD) -> np.ndarray:
    """Return `image` uint8 [H, W] as uint8 [size, size].

    PAD keeps the aspect: the longest side becomes `size`, and the picture lies centred on black. STRETCH fills the
    square with the picture.
    """
    height, width = (max(1, round(side * size / max(image.shape))) for side in image.shape)
    if how == STRETCH:
        height = width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = np.asarray(resized)
    return square


def cache_size_for(image_size: int) -> int:
    """Return the cache's side in pixels, one for all models of an input size: 224 -> 256, 320 -> 368, 64 -> 80."""
    return -(-round(image_size * MARGIN) // SIDE_STEP) * SIDE_STEP


def read_picture(path: str | Path) -> bytes:
    """Return the bytes of a picture file, as `read_file` does. Raises UnreadableImage, which is no damage then."""
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise UnreadableImage(f"{path} is not there.", "missing") from error
    except OSError as error:
        raise UnreadableImage(f"{path} can't be read ({error.strerror}).", "unread") from error


def _open(path: str | Path, data: bytes) -> ImageFile:
    faults = []
    for image_file in FORMATS:
        try:
            return image_file(BytesIO(data))
        except Exception as error:  # SyntaxError is Pillow's word for "not this format", others for a damaged head
            faults.append(error)
    if data.startswith(PNG_START):
        raise _undecodable(path, data, faults[0])
    raise UnreadableImage(f"{path} is not a PNG, JPEG, TIFF or BMP picture.")


def _undecodable(path: str | Path, data: bytes, error: Exception) -> UnreadableImage:
    has_no_end = data.startswith(PNG_START) and b"IEND" not in data[-16:]
    if has_no_end or "truncated" in str(error).lower():
        return UnreadableImage(f"{path} is truncated: it ends after {len(data)} bytes.", "truncated")
    return UnreadableImage(f"{path} is damaged ({error}).")


def _grey(image: ImageFile) -> np.ndarray:
    if image.mode == "L":
        return np.asarray(image)
    if image.mode.startswith(("I", "F")):
        return _rescale(np.asarray(image))
    image.info.pop("transparency", None)  # else Pillow tries to keep it, and warns
    return np.asarray(image.convert("L"))


def _rescale(values: np.ndarray) -> np.ndarray:
    """Return `values` [H, W] of any depth as uint8 [H, W]. Floats up to 1 count as shares of white."""
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    is_share = values.dtype.kind == "f" and values.max() <= 1
    values = values.astype(np.float64) - min(float(values.min()), 0)
    top = float(values.max())
    white = max(1, top) if is_share else 2 ** max(8, int(np.ceil(top)).bit_length()) - 1
    return (values * (255 / white) + 0.5).astype(np.uint8)
