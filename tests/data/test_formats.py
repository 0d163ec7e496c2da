"""The same radiograph gives the same pixels from every container, and what is not read is named as what it is."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import chunk, png, tiff
from PIL import Image

from mura.data.cache import FORMAT
from mura.data.images import UnreadableImage, decode, fit

GREY = (np.arange(1200).reshape(40, 30) % 256).astype(np.uint8)
LAID = {  # how an upright picture lies in a file of each EXIF orientation
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
DEPTHS = {"8": 8, "10": 10, "12": 12, "14": 14, "16": 16}
OTHER_TYPES = {"int16": 14, "int32": 16, "uint32": 32, "float32": 12, "share": 0}


def deep(grey: np.ndarray, depth: str) -> np.ndarray:
    """`grey` as samples of a depth of DEPTHS or OTHER_TYPES."""
    if depth == "share":
        return (grey / 255).astype(np.float32)
    kind = {"8": "uint8"}.get(depth, "uint16") if depth in DEPTHS else depth
    return np.round(grey * ((2 ** (DEPTHS | OTHER_TYPES)[depth] - 1) / 255)).astype(kind)


def in_channels(samples: np.ndarray, channels: int) -> np.ndarray:
    """Return the samples as grey (1), grey and alpha (2), RGB (3) or RGBA (4), opaque."""
    colours = [samples] * (3 if channels > 2 else 1)
    opaque = np.full_like(samples, np.iinfo(samples.dtype).max) if channels % 2 == 0 else None
    return np.stack(colours + ([opaque] if opaque is not None else []), axis=-1)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes, folder: Path) -> np.ndarray:
    file = folder / "picture.bin"
    file.write_bytes(data)
    return decode(file)


def refused(data: bytes, folder: Path) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decoded(data, folder)
    assert str(caught.value).endswith(".")
    return f"{caught.value.kind}:{str(caught.value).removeprefix(str(folder / 'picture.bin'))}"


@st.composite
def files(draw: st.DrawFn) -> tuple[np.ndarray, bytes, int]:
    """Draw an upright grey picture, a file that holds it, and the levels that the file may lose."""
    size = draw(st.tuples(st.integers(8, 24), st.integers(8, 24)))
    grey = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, size).astype(np.uint8)
    orientation = draw(st.integers(1, 8))
    laid = np.ascontiguousarray(LAID[orientation](grey))
    container = draw(st.sampled_from(["png", "tiff", "jpeg", "bmp"]))
    if container == "jpeg":
        image = Image.fromarray(laid).convert(draw(st.sampled_from(["L", "RGB"])))
        return grey, saved(image, "JPEG", quality=100, subsampling=0, exif=turned(orientation)), 3
    if container == "bmp":
        image = Image.fromarray(grey).convert(draw(st.sampled_from(["L", "RGB", "RGBA"])))
        return grey, saved(image, "BMP"), 0
    if container == "png":
        samples = in_channels(deep(laid, draw(st.sampled_from([*DEPTHS]))), draw(st.integers(1, 4)))
        exif = chunk(b"eXIf", turned(orientation).removeprefix(b"Exif\0\0"))
        before, late = ((exif,), b"") if draw(st.booleans()) else ((), exif)
        return grey, png(samples, 8 * samples.itemsize, *before, late=late), 0
    return grey, draw(tiffs(laid, orientation)), 0


@st.composite
def tiffs(draw: st.DrawFn, laid: np.ndarray, orientation: int) -> bytes:
    """Draw a TIFF of any depth, type, polarity, byte order, compression and arrangement that is read."""
    depth = draw(st.sampled_from([*DEPTHS, *OTHER_TYPES]))
    samples = deep(laid, depth)
    more = {274: (3, (orientation,))}
    order, deflated = draw(st.sampled_from("<>")), draw(st.booleans())
    if depth in DEPTHS and draw(st.booleans()):
        channels = draw(st.sampled_from([2, 3, 4] if depth == "8" else [3, 4]))
        planar = draw(st.booleans()) and not deflated and channels > 2
        extra = draw(st.sampled_from([1, 2])) if channels % 2 == 0 else None
        return tiff(
            in_channels(samples, channels), order=order, planar=planar, deflated=deflated, extra=extra, more=more
        )
    if draw(st.booleans()):
        white = deep(np.array(255), depth)
        return tiff(white - samples, photometric=0, order=order, deflated=deflated, more=more)
    return tiff(samples, order=order, deflated=deflated, more=more)


@given(files())
def test_every_container_depth_channel_polarity_and_orientation_gives_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[np.ndarray, bytes, int]
) -> None:
    grey, data, loss = drawn
    found = decoded(data, tmp_path_factory.getbasetemp())
    assert found.shape == grey.shape
    assert np.abs(found.astype(int) - grey).max() <= loss


def test_pictures_like_muras_decode_to_the_bit_as_they_always_did(tmp_path: Path) -> None:
    """Whoever changes these pixels raises the cache's FORMAT: caches that are there are then built anew."""
    values = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    pictures = [Image.fromarray(values[..., 0]), Image.fromarray(values), Image.fromarray(values[..., 1] > 99)]
    palette = Image.fromarray(values[..., 0] % 16).convert("P")
    palette.putpalette(values[:16, 0].tobytes())
    digest = hashlib.sha256()
    for picture in (*pictures, palette):
        digest.update(fit(decoded(saved(picture, "PNG"), tmp_path), 64).tobytes())
        assert np.array_equal(decode(tmp_path / "picture.bin"), np.asarray(picture.convert("L")))
    assert (FORMAT, digest.hexdigest()[:16]) == (2, "a8fe54e11cf5d8c8")


@pytest.mark.parametrize("order", "<>")
def test_a_16_bit_tiff_whose_white_is_zero_is_no_negative(order: str, tmp_path: Path) -> None:
    data = (65535 - 257 * GREY.astype(int)).astype(np.uint16)
    assert np.array_equal(decoded(tiff(data, photometric=0, order=order), tmp_path), GREY)


def test_12_bits_give_the_same_pixels_in_grey_and_in_colour(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (30, 30)).astype(np.uint16)
    first, *others = (decoded(png(in_channels(values, channels), 16), tmp_path) for channels in (1, 2, 3, 4))
    assert first.max() == 255
    assert all(np.array_equal(first, other) for other in others)


def test_one_bright_pixel_moves_no_other(tmp_path: Path) -> None:
    values = deep(GREY, "12")
    values[3, 3] = 65535
    for channels in (1, 3):
        found = decoded(png(in_channels(values, channels), 16), tmp_path).astype(int)
        found[3, 3] = GREY[3, 3]
        assert np.abs(found - GREY).max() <= 2


def test_a_float_picture_a_little_brighter_than_white_is_not_black(tmp_path: Path) -> None:
    shares = np.linspace(0.10, 0.99, 1200, dtype=np.float32).reshape(40, 30)
    before, after = (decoded(tiff(shares * np.float32(factor)), tmp_path) for factor in (1, 1.02))
    assert np.abs(before.astype(int) - after).max() <= 3


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_fewer_than_8_bits_reach_from_black_to_white(depth: int, tmp_path: Path) -> None:
    small = GREY >> (8 - depth)
    white = 2**depth - 1
    assert np.array_equal(decoded(png(small, depth), tmp_path), small * (255 // white))


def test_colours_of_8_bits_are_weighed_as_pillow_weighs_them(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    assert np.array_equal(decoded(png(colours, 8), tmp_path), expected)
    assert np.abs(decoded(png(colours.astype(int) * 257, 16), tmp_path).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_is_composed_on_black(depth: int, tmp_path: Path) -> None:
    white = 2**depth - 1
    half = GREY.astype(int) * (white // 255)
    half[:20] = white
    opacity = np.where(np.arange(40)[:, None] < 20, half, white)
    half[:20] = white
    for colours in (half[..., None], np.stack([half] * 3, -1)):
        samples = np.concatenate([colours, np.broadcast_to(opacity[..., None], (40, 30, 1))], axis=2)
        expected = np.where(np.arange(40)[:, None] < 20, 255, GREY)
        assert np.array_equal(decoded(png(samples, depth), tmp_path), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_picture_in_the_alpha_channel_alone_is_seen_on_black_or_refused(depth: int, tmp_path: Path) -> None:
    samples = np.zeros((40, 30, 4), int)
    samples[..., 3] = GREY.astype(int) * (1 if depth == 8 else 257)
    sentence = (
        "unsupported: shows nothing on a black ground, where its transparency is: save it without an alpha channel."
    )
    assert refused(png(samples, depth), tmp_path) == sentence
    samples[..., :3] = 2**depth - 1
    assert np.array_equal(decoded(png(samples, depth), tmp_path), GREY)


@pytest.mark.parametrize("opacity", [0, 77, 255])
def test_a_transparency_that_is_the_same_everywhere_says_nothing(opacity: int, tmp_path: Path) -> None:
    samples = in_channels(GREY, 4)
    samples[..., 3] = opacity
    assert np.array_equal(decoded(png(samples, 8), tmp_path), GREY)


@pytest.mark.parametrize(("samples", "depth"), [(GREY, 8), (GREY.astype(np.uint16) * 257, 16), (GREY >> 4, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_value_of_a_png_is_black(
    samples: np.ndarray, depth: int, channels: int, tmp_path: Path
) -> None:
    if depth == 4 and channels == 3:
        return
    white = 2**depth - 1
    key = chunk(b"tRNS", white.to_bytes(2, "big") * channels)
    shown = samples if channels == 1 else in_channels(samples, 3)
    grey = (samples // (257 if depth == 16 else 1)) * (17 if depth == 4 else 1)
    assert np.array_equal(decoded(png(shown, depth, key), tmp_path), np.where(samples == white, 0, grey))


def test_an_inverted_cmyk_jpeg_is_no_negative(tmp_path: Path) -> None:
    inks = np.zeros((40, 30, 4), np.uint8)
    inks[..., :3] = 255 - GREY[..., None]
    for kind, loss in (("JPEG", 3), ("TIFF", 0)):
        options = {"quality": 100} if kind == "JPEG" else {}
        found = decoded(saved(Image.fromarray(inks, "CMYK"), kind, **options), tmp_path)
        assert np.abs(found.astype(int) - GREY).max() <= loss


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"])
def test_every_usual_compression_of_tiff_is_read(compression: str, tmp_path: Path) -> None:
    options = {"quality": 100} if compression == "jpeg" else {}
    found = decoded(saved(Image.fromarray(GREY), "TIFF", compression=compression, **options), tmp_path)
    assert np.abs(found.astype(int) - GREY).max() <= (3 if options else 0)


def test_a_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    data = saved(Image.fromarray(GREY), "JPEG", quality=100, exif=b"Exif\0\0II*\0" + b"\xff" * 90)
    assert np.abs(decoded(data, tmp_path).astype(int) - GREY).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "MPO"])
def test_several_pictures_in_a_file_are_refused(kind: str, tmp_path: Path) -> None:
    data = saved(Image.fromarray(GREY), kind, save_all=True, append_images=[Image.fromarray(255 - GREY)])
    assert refused(data, tmp_path).startswith("unsupported: holds several pictures (pages or frames): save the one")


def with_process(marker: bytes, precision: bytes = b"\x08") -> bytes:
    """A JPEG that says it is coded by another process."""
    data = saved(Image.fromarray(GREY), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[:frame] + b"\xff" + marker + data[frame + 2 : frame + 4] + precision + data[frame + 5 :]


def with_bit_fields() -> bytes:
    data = bytearray(saved(Image.fromarray(GREY).convert("RGBA"), "BMP"))
    data[30] = 3
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: saved(Image.fromarray(GREY), "GIF"), "is a GIF picture, which is not read"),
        (lambda: saved(Image.fromarray(GREY).convert("RGB"), "WEBP"), "is a WebP picture, which is not read"),
        (lambda: b"\0\0\0\x18ftypheic" + b"\0" * 40, "is a HEIC picture, which is not read"),
        (lambda: b"\0\0\0\x1cftypavif" + b"\0" * 40, "is an AVIF picture, which is not read"),
        (lambda: saved(Image.fromarray(GREY), "JPEG2000"), "is a JPEG 2000 picture, which is not read"),
        (lambda: saved(Image.fromarray(GREY), "PDF"), "is a PDF document, which is not read"),
        (with_bit_fields, "is a picture of a kind that is not read (Unsupported BMP bitfields layout)"),
        (lambda: saved(Image.new("LAB", (9, 9)), "TIFF"), "is a TIFF in CIELAB colours, which are not read"),
        (lambda: tiff(GREY.astype(np.float64)), "is a TIFF of a kind that is not read (1 x 64 bits, floating point"),
        (lambda: tiff(GREY, photometric=32803), "is a TIFF of a kind that is not read (1 x 8 bits, unsigned"),
        (lambda: tiff(in_channels(deep(GREY, "12"), 3), planar=True, deflated=True), "(compressed planes of 16 bits)"),
        (lambda: tiff(GREY, more={259: (3, (50013,))}), "is a TIFF compressed by a method that is not read (50013)"),
        (lambda: tiff(GREY, more={259: (3, (50001,))}), "is a TIFF compressed by a method that is not read (webp)"),
        (lambda: with_process(b"\xc3"), "is a JPEG of a kind that is not read (lossless or rarer, process C3)"),
        (lambda: with_process(b"\xc1", b"\x0c"), "is a picture of a kind that is not read (cannot handle 12-bit"),
    ],
)  # fmt: skip
def test_a_sound_file_of_another_kind_is_named_with_the_way_out(data: Any, words: str, tmp_path: Path) -> None:
    sentence = refused(data(), tmp_path)
    assert sentence.startswith("unsupported: ")
    assert words in sentence
    assert sentence.endswith(": save it as a PNG of 8 or 16 bits.")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_file_cut_short_is_named_so(kind: str, tmp_path: Path) -> None:
    options = {} if kind == "JPEG" else {"compression": "tiff_lzw"}
    data = saved(Image.fromarray(GREY), kind, **options)
    sentence = refused(data[: len(data) // 2], tmp_path)
    assert sentence == f"truncated: is truncated: it ends after {len(data) // 2} bytes."


def test_libraries_say_nothing_beside_the_one_sentence(tmp_path: Path) -> None:
    spoilt = bytearray(saved(Image.fromarray(GREY), "TIFF", compression="tiff_lzw"))
    spoilt[100:400] = b"\x55" * 300
    (tmp_path / "spoilt.tif").write_bytes(spoilt)
    (tmp_path / "odd.tif").write_bytes(tiff(GREY, more={256: (4, (30, 30)), 65000: (3, (1,))}))
    code = (
        "import logging; logging.basicConfig()\n"
        "from mura.data.images import UnreadableImage, decode\n"
        "try: decode('spoilt.tif')\n"
        "except UnreadableImage as error: print(error)\n"
        "print(decode('odd.tif').max())"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (found.stderr, found.returncode) == ("", 0)
    assert found.stdout.startswith("spoilt.tif is damaged (")
    assert found.stdout.endswith("\n255\n")
