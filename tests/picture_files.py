"""PNG and TIFF files of kinds that Pillow can't write: every depth, channel count, polarity and byte order."""

import struct
import zlib

import numpy as np

TIFF_TYPES = {1: "B", 2: "s", 3: "H", 4: "I"}
PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples: np.ndarray, depth: int, *chunks: bytes, colour: int | None = None, late: bytes = b"") -> bytes:
    """A PNG of `samples` [H, W] or [H, W, C] at `depth` bits; `chunks` before the pixels, `late` behind them."""
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = samples.shape
    if depth < 8:
        bits = np.unpackbits(samples.astype(np.uint8)[..., 0, None], axis=2)[..., 8 - depth :].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
    else:
        rows = samples.astype(f">u{depth // 8}").reshape(height, -1).view(np.uint8)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 1)
    colour = PNG_COLOURS[channels] if colour is None else colour
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + late + chunk(b"IEND", b"")


def tiff(
    samples: np.ndarray,
    *,
    photometric: int | None = None,
    order: str = "<",
    planar: bool = False,
    deflated: bool = False,
    extra: int | None = None,
    more: dict[int, tuple[int, tuple]] | None = None,
) -> bytes:
    """A TIFF of `samples` [H, W] or [H, W, C], unsigned, signed or floating point, as their type says.

    `extra` is what the last channel means (2: alpha, 1: premultiplied alpha); `more` are tags as (type, values).
    """
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = samples.shape
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    stored = samples.astype(f"{order}{kind}{size}")
    planes = [stored[..., channel].tobytes() for channel in range(channels)] if planar else [stored.tobytes()]
    strips = [zlib.compress(plane) if deflated else plane for plane in planes]
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    if photometric is None:
        photometric = 2 if channels > 2 else 1
    tags = {
        256: (4, (width,)), 257: (4, (height,)), 258: (3, (8 * size,) * channels), 259: (3, (8 if deflated else 1,)),
        262: (3, (photometric,)), 273: (4, tuple(starts[:-1])), 277: (3, (channels,)), 278: (4, (height,)),
        279: (4, tuple(map(len, strips))), 284: (3, (2 if planar else 1,)),
        339: (3, ({"u": 1, "i": 2, "f": 3}[kind],) * channels),
    }  # fmt: skip
    if extra is not None:
        tags[338] = (3, (extra,))
    tags |= more or {}
    start = starts[-1] + starts[-1] % 2
    body = b"".join(strips).ljust(start - 8, b"\0")
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return mark + struct.pack(order + "I", start) + body + _directory(tags, start, order)


def _directory(tags: dict[int, tuple[int, tuple]], start: int, order: str) -> bytes:
    entries, beyond = b"", b""
    end = start + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, values = tags[tag]
        data = struct.pack(f"{order}{len(values)}{TIFF_TYPES[kind]}", *values)
        if len(data) > 4:
            place, beyond = end + len(beyond), beyond + data
            data = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + beyond
