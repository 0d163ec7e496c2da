"""Every kind of picture becomes 8-bit grey; a damaged one is named, and nothing else leaks out of Pillow."""

import io
import pickle
import re
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dicom_files import dataset, saved
from hypothesis import given
from hypothesis import strategies as st
from picture_files import png, tiff
from PIL import Image

from mura.data.formats import MOST_PIXELS
from mura.data.images import STRETCH, UnreadableImage, cache_size_for, decode, fit, to_png

GREY = np.arange(0, 250, 5, dtype=np.uint8).reshape(5, 10)


def png_bytes(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def declared(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_stays_grey_in_every_mode(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / f"a.{suffix}")
    pixels = decode(tmp_path / f"a.{suffix}")
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, GREY)


def test_a_palette_is_looked_up_and_composed_on_black(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 3).convert("P")
    image.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 90])
    image.save(tmp_path / "a.png", transparency=bytes([0, 255, 128]))  # Pillow would warn of these
    assert np.array_equal(decode(tmp_path / "a.png"), np.array([0, 10, 45], np.uint8)[GREY % 3])


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png"), np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_are_rescaled_by_the_depth_really_used(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    values = np.linspace(0, top, 200).round().astype(np.uint16).reshape(10, 20)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png")
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - values * (255 / top)).max() <= 0.5 + 1e-9
    assert (pixels == 255).sum() == 1


def test_dark_16_bit_files_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 3, np.uint16)).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png") == 3).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 2047, 4095]], np.int32), [0, 127, 255]),
        (np.array([[-1000, 0, 3095]], np.int32), [0, 62, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100.2, 255]], np.float32), [0, 100, 255]),
        (np.array([[0, 255.9]], np.float32), [0, 255]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.zeros((1, 2), np.float32), [0, 0]),
    ],
)
def test_32_bit_and_float_files_are_rescaled(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif")[0].tolist() == expected


def test_values_that_are_not_finite_make_a_picture_unreadable(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match="not finite"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF"])
def test_the_content_counts_and_not_the_suffix(tmp_path: Path, kind: str) -> None:
    Image.fromarray(np.full((9, 7), 80, np.uint8)).save(tmp_path / "a.png", kind)
    assert np.abs(decode(tmp_path / "a.png").astype(int) - 80).max() <= 1


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        (None, "missing", "is not there"),
        (b"", "empty", r"is empty \(0 bytes\)"),
        (b"hello, this is text", "unreadable", "is not a PNG, JPEG, TIFF, BMP or DICOM picture"),
        (b"\0\5\x16\7" * 30, "unreadable", "is not a"),
        (b"\x89PNG\r\n\x1a\n", "truncated", "is truncated: it ends after 8 bytes"),
        (b"GIF89a" + b"\0" * 50, "unsupported", "is a GIF picture, which is not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable", "is not a"),
        (png_bytes(Image.fromarray(GREY))[:52], "truncated", "is truncated: it ends after 52 bytes"),
        (declared(300, 300), "truncated", "is truncated"),
    ],
    ids=["missing", "empty", "text", "mac", "head", "gif", "postscript", "cut", "short of pixels"],
)
def test_a_damaged_picture_is_named(tmp_path: Path, content: bytes | None, kind: str, sentence: str) -> None:
    file = tmp_path / "image1.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnreadableImage, match=f"^{re.escape(str(file))} ({sentence})") as caught:
        decode(file)
    assert caught.value.kind == kind
    assert str(caught.value).endswith(".")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="can't be read"):
        decode(tmp_path)


def test_bytes_that_can_t_be_decoded_are_damage_and_a_file_that_can_t_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"hello, this is text")
    (tmp_path / "empty.png").touch()
    damage = {}
    for name in ("text.png", "empty.png", "absent.png", "."):
        with pytest.raises(UnreadableImage) as caught:
            decode(tmp_path / name)
        damage[name] = caught.value.is_damage
    assert damage == {"text.png": True, "empty.png": True, "absent.png": False, ".": False}


def test_an_unreadable_image_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png is empty.", "empty")))
    assert (str(error), error.kind) == ("a.png is empty.", "empty")


@pytest.mark.parametrize("size", [(8001, 8001), (10_000, 10_000), (50_000, 50_000), (2_000_000_000, 2)])
def test_a_bomb_is_refused_before_a_pixel_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(declared(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage, match=f"declares {size[0]} x {size[1]} pixels") as caught:
            decode(tmp_path / "bomb.png")
    assert caught.value.kind == "too-large"


def test_pillows_own_limits_are_left_alone() -> None:
    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    data = png_bytes(Image.fromarray(noise).convert(mode))
    refused = 0
    for length in range(1, len(data), 23):
        (tmp_path / "cut.png").write_bytes(data[:length])
        try:
            assert np.array_equal(decode(tmp_path / "cut.png"), noise)
        except UnreadableImage:
            refused += 1
    assert refused > 0.9 * len(range(1, len(data), 23))


@given(st.integers(8, 200), st.integers(0, 255))
def test_flipped_bytes_never_raise_anything_else(tmp_path_factory, position: int, value: int) -> None:
    data = bytearray(png_bytes(Image.fromarray(GREY)))
    data[position % len(data)] = value
    file = tmp_path_factory.getbasetemp() / "flipped.png"
    file.write_bytes(data)
    with suppress(UnreadableImage):
        assert decode(file).dtype == np.uint8


def test_decoding_is_safe_in_threads(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(decode, [tmp_path / "a.png"] * 64))
    assert all(np.array_equal(picture, GREY) for picture in pictures)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_fit_keeps_the_aspect_and_centres_on_black(height: int, width: int, size: int) -> None:
    square = fit(np.full((height, width), 200, np.uint8), size)
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
    tall, wide = len(rows), len(columns)
    assert max(tall, wide) == size
    assert tall == max(1, round(height * size / max(height, width)))
    assert wide == max(1, round(width * size / max(height, width)))
    assert 0 <= (size - 1 - rows[-1]) - rows[0] <= 1
    assert 0 <= (size - 1 - columns[-1]) - columns[0] <= 1
    assert set(np.unique(square)) <= {0, 200}


@pytest.mark.parametrize(
    ("image_size", "side"), [(224, 256), (320, 368), (64, 80), (14, 16), (15, 32), (32, 48), (299, 352)]
)
def test_the_cache_keeps_a_seventh_more_than_the_input_in_steps_of_16(image_size: int, side: int) -> None:
    assert cache_size_for(image_size) == side


def test_a_picture_that_is_unreadable_for_no_special_reason_says_so() -> None:
    assert UnreadableImage("a.png is odd.").kind == "unreadable"


def test_the_largest_picture_is_64_million_pixels(tmp_path: Path) -> None:
    assert MOST_PIXELS == 64_000_000
    (tmp_path / "a.png").write_bytes(declared(8000, 8000))
    with pytest.raises(UnreadableImage) as caught:  # it has not the pixels that it declares, but is not too large
        decode(tmp_path / "a.png")
    assert caught.value.kind == "truncated"
    (tmp_path / "a.png").write_bytes(declared(64_000_001, 1))
    with pytest.raises(UnreadableImage) as caught:
        decode(tmp_path / "a.png")
    assert caught.value.kind == "too-large"


@pytest.mark.parametrize(
    ("height", "width", "size", "top", "left"), [(3, 8, 8, 2, 0), (8, 3, 8, 0, 2), (1, 90, 9, 4, 0)]
)
def test_fit_puts_the_odd_row_of_black_below_and_to_the_right(
    height: int, width: int, size: int, top: int, left: int
) -> None:
    lit = np.argwhere(fit(np.full((height, width), 200, np.uint8), size))
    assert tuple(lit.min(axis=0)) == (top, left)


@pytest.mark.parametrize(("height", "width", "size"), [(20, 40, 32), (40, 20, 32), (7, 3, 64), (1, 50, 32)])
def test_stretched_a_picture_fills_the_square(height: int, width: int, size: int) -> None:
    assert (fit(np.full((height, width), 200, np.uint8), size, STRETCH) == np.full((size, size), 200)).all()


def test_stretched_each_quarter_of_a_picture_becomes_a_quarter_of_the_square() -> None:
    quarters = np.kron(np.array([[40, 90], [140, 190]], np.uint8), np.ones((64, 16), np.uint8))
    square = fit(quarters, 32, STRETCH)
    assert [square[6, 6], square[6, 25], square[25, 6], square[25, 25]] == [40, 90, 140, 190]
    assert (fit(quarters, 32)[:, :12] == 0).all()  # padded, it stands in a strip of 8


def test_a_square_picture_is_the_same_padded_and_stretched() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    assert np.array_equal(fit(picture, 32), fit(picture, 32, STRETCH))


def test_fit_leaves_a_picture_of_the_right_size_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 20), dtype=np.uint8)
    square = fit(picture, 32)
    assert np.array_equal(square[:, 6:26], picture)
    assert square.flags.writeable


def test_fit_averages_when_it_shrinks() -> None:
    checkers = np.indices((512, 512)).sum(0) % 2 * 255
    square = fit(checkers.astype(np.uint8), 64)
    assert np.abs(square.astype(int) - 127).max() <= 3


def test_fit_agrees_with_area_averaging_on_a_smooth_picture() -> None:
    y, x = np.mgrid[0:256, 0:256]
    picture = (127 + 120 * np.sin(x / 40) * np.cos(y / 30)).astype(np.uint8)
    blocks = picture.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.abs(fit(picture, 64) - blocks).max() < 4


@pytest.mark.parametrize(("side", "factor"), [(512, 4), (400, 3)])
def test_fit_averages_blocks_to_no_less_than_twice_the_size_and_then_interpolates(side: int, factor: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    box = (0, 0, side / factor, side / factor)
    expected = Image.fromarray(picture).reduce(factor).resize((64, 64), Image.Resampling.BILINEAR, box)
    assert np.array_equal(fit(picture, 64), np.asarray(expected))


def wide(white: int) -> np.ndarray:
    return np.round(GREY / 255 * white).astype(np.uint16)


@pytest.mark.parametrize(
    ("content", "depth"),
    [
        (png(GREY, 8), 8),
        (png(np.stack([GREY, GREY // 2, GREY // 3], axis=2), 8), 8),
        (png(np.stack([GREY, GREY // 2], axis=2), 8), 8),
        (png(wide(4095), 16), 16),
        (png(wide(65535), 16), 16),
        (png(wide(200), 16), 16),
        (png(wide(30000) + np.uint16(900), 16), 16),
        (tiff(65535 - wide(65535), photometric=0), 16),
        (tiff((GREY / np.float32(255)).astype(np.float32)), 16),
        (tiff((GREY / np.float32(80) - 2).astype(np.float32)), 16),
    ],
    ids=["8", "RGB", "alpha", "12", "16", "dark", "offset", "white is zero", "float", "z-scores"],
)
def test_the_png_of_a_picture_has_its_pixels_and_its_depth(tmp_path: Path, content: bytes, depth: int) -> None:
    (tmp_path / "a").write_bytes(content)
    made = to_png(tmp_path / "a")
    assert made[24] == depth
    (tmp_path / "b.png").write_bytes(made)
    assert np.abs(decode(tmp_path / "b.png").astype(int) - decode(tmp_path / "a")).max() <= depth // 16
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.mode == ("L" if depth == 8 else "I;16")
        assert not picture.info


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("bits", "tags", "depth"),
    [
        (8, {"WindowCenter": 100, "WindowWidth": 120}, 8),
        (12, {"WindowCenter": 2000, "WindowWidth": 3000}, 16),
        (12, {"WindowCenter": 1500, "WindowWidth": 2500, "VOILUTFunction": "SIGMOID"}, 16),
        (12, {"RescaleSlope": 2, "RescaleIntercept": -1000}, 16),
        (14, {"PixelPaddingValue": 0}, 16),
    ],
    ids=["8", "window", "sigmoid", "rescaled", "padded"],
)
def test_the_png_of_a_dicom_file_is_what_a_viewer_shows(
    tmp_path: Path, bits: int, tags: dict, depth: int, polarity: str
) -> None:
    values = GREY if bits == 8 else wide(2**bits - 1)
    (tmp_path / "a").write_bytes(saved(dataset(values, bits, PhotometricInterpretation=polarity, **tags)))
    made = to_png(tmp_path / "a")
    assert made[24] == depth
    assert np.abs(decode("made", made).astype(int) - decode(tmp_path / "a")).max() <= depth // 16


def test_a_png_of_16_bits_that_would_decode_otherwise_is_one_of_8(tmp_path: Path) -> None:
    """Its window makes it dark; 16 bits without the window would be stretched."""
    values = np.full((40, 40), 600, np.uint16)
    values[10:20, 10:20] = 900
    (tmp_path / "a").write_bytes(saved(dataset(values, 12, WindowCenter=2048, WindowWidth=4096)))
    made = to_png(tmp_path / "a")
    assert made[24] == 8
    assert np.array_equal(decode("made", made), decode(tmp_path / "a"))


def test_a_png_of_16_bits_may_differ_by_one_level_and_not_by_two(tmp_path: Path) -> None:
    """Sixteen bits of one level everywhere, without the window, decode to black."""
    (tmp_path / "a").write_bytes(
        saved(dataset(np.full((8, 8), 31, np.uint16), 12, WindowCenter=2048, WindowWidth=4096))
    )
    assert (decode(tmp_path / "a") == 2).all()
    assert np.array_equal(decode("made", to_png(tmp_path / "a")), decode(tmp_path / "a"))
