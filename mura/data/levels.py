"""Levels of grey: samples of any depth become the 8 bits that all models see. docs/pictures.md states the rule."""

from collections.abc import Iterator

import numpy as np

DETECTOR_BITS = (8, 10, 12, 14, 16, 32)
OUTLIERS = 100  # one pixel in so many at either end, such as a burnt-in marker, does not decide the range
SMALLEST_WITH_OUTLIERS = 32  # pixels
TOLERANCE = 0.05  # of white: what rescaling and sharpening throw beyond it
BLACK = 4  # levels below this are black
MOST_BLACK = 0.99  # of the pixels of a picture that shows something
BLOCK = 2**20  # samples that are scaled at a time, so that memory stays bounded

Range = tuple[float, float]


def to_8_bits(values: np.ndarray, is_inverted: bool = False, limits: Range | None = None) -> np.ndarray:
    """Return `values` [H, W], integers or floats, as uint8 [H, W]; raise ValueError for NaN.

    `is_inverted` says that white is zero. `limits` are black and white where they are known.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("holds values that are not finite (NaN or infinite): replace them")
    if values.dtype == np.uint8 and limits is None:
        levels = values
    elif values.dtype == np.uint16:
        levels = _scale(np.arange(2**16, dtype=np.uint16), limits or range_of(values))[values]
    else:
        levels = _scale(values, limits or range_of(values))
    return 255 - levels if is_inverted else levels


def to_16_bits(values: np.ndarray, is_inverted: bool = False, limits: Range | None = None) -> np.ndarray:
    """Return `values` [H, W], finite numbers, as uint16 [H, W], by the same rule as `to_8_bits`."""
    levels = _scale(values, limits or range_of(values), np.uint16)
    return 65535 - levels if is_inverted else levels


def range_of(values: np.ndarray, declared: int | None = None) -> Range:
    """Return what is black and what is white in `values`: a depth that they fill, else percentiles.

    `declared` are the bits that the file says to use of its integers; they are tried before DETECTOR_BITS.
    """
    if values.dtype == np.uint16 and not any((block % 257).any() for block in _blocks(values)):
        return 0, 65535  # 8 bits, scaled to 16 as the PNG specification says
    low, high = percentiles(values)
    white = _depth(values, low, high, DETECTOR_BITS if declared is None else (declared, *DETECTOR_BITS))
    if white is None:
        return low, high
    peak = float(values.max())
    return 0, peak if white < peak <= (1 + TOLERANCE) * white else white


def _depth(values: np.ndarray, low: float, high: float, depths: tuple[int, ...]) -> int | None:
    """Return the largest number of the depth that a picture from `low` to `high` uses, if it uses a usual one."""
    if values.dtype.kind == "f" and _fills(1, low, high):
        return 1
    if low >= 0 and high <= (1 + TOLERANCE) * 255 and _is_whole(values):
        return 255  # a dark picture of 8 bits stays dark
    return next((2**bits - 1 for bits in depths if _fills(2**bits - 1, low, high)), None)


def percentiles(values: np.ndarray) -> Range:
    """Return the smallest and the largest value, one pixel in a hundred left out at either end."""
    count = values.size
    left_out = max(count // OUTLIERS, min(1, count // SMALLEST_WITH_OUTLIERS))
    ordered = np.partition(values, (left_out, count - 1 - left_out), axis=None)
    return float(ordered[left_out]), float(ordered[count - 1 - left_out])


def why_blank(levels: np.ndarray) -> str | None:
    """Return why a picture uint8 [H, W] shows nothing, as the rest of a sentence; None if it shows something."""
    if levels.min() == levels.max():
        return f"is blank: all its pixels are {levels.min()} of 255"
    if np.count_nonzero(levels < BLACK) > MOST_BLACK * levels.size:
        return f"is nearly blank: more than {MOST_BLACK:.0%} of it is black"
    return None


def _fills(white: int, low: float, high: float) -> bool:
    """Return whether a picture from `low` to `high` uses the depth whose largest value is `white`."""
    is_within = -TOLERANCE * white <= low and high <= (1 + TOLERANCE) * white
    return is_within and high >= white / 2 and high - low >= white / 4


def _is_whole(values: np.ndarray) -> bool:
    return values.dtype.kind != "f" or not any((block % 1).any() for block in _blocks(values))


def _scale(values: np.ndarray, black_and_white: Range, kind: type[np.unsignedinteger] = np.uint8) -> np.ndarray:
    """Return `values` as `kind`, from black at 0 to white at its largest number; what lies beyond is clipped."""
    black, white = black_and_white
    largest = int(np.iinfo(kind).max)
    factor = largest / (white - black) if white > black else 0
    levels = np.empty(values.shape, kind)
    for block, out in zip(_blocks(values), _blocks(levels), strict=True):
        out[:] = np.clip((block.astype(np.float64) - black) * factor + 0.5, 0, largest)
    return levels


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    flat = values.reshape(-1)
    return (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
