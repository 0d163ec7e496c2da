"""The range of samples deeper than 8 bits: a depth that they fill, else percentiles; a marker does not decide it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mura.data.levels import percentiles, range_of, to_8_bits, to_16_bits, why_blank

GREY = np.arange(1200).reshape(40, 30) % 256


def at(bits: int) -> np.ndarray:
    """GREY as a detector of so many bits gives it."""
    return np.round(GREY * ((2**bits - 1) / 255)).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.uint32, np.float32])
def test_a_depth_that_is_filled_is_the_range_in_every_type(bits: int, kind: type) -> None:
    assert np.array_equal(to_8_bits(at(bits).astype(kind)), GREY)


def test_32_bits_that_are_filled_are_the_range() -> None:
    assert np.array_equal(to_8_bits(GREY.astype(np.uint32) * (2**32 // 255)), GREY)


@given(st.integers(0, 255), st.integers(0, 255))
def test_8_bits_widened_to_16_come_back_however_dark_they_are(least: int, most: int) -> None:
    grey = np.random.default_rng(0).integers(min(least, most), max(least, most) + 1, (20, 20))
    widened = (grey * 257).astype(np.uint16)
    assert np.array_equal(to_8_bits(widened), grey)
    assert np.array_equal(to_16_bits(widened), widened)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.uint32, np.float32])
def test_a_marker_moves_the_rest_by_two_levels_at_most(kind: type) -> None:
    marked = at(12).astype(kind)
    marked[3:6, 3:6] = 65535
    levels = to_8_bits(marked)
    assert (levels[3:6, 3:6] == 255).all()
    rest = np.ones(GREY.shape, bool)
    rest[3:6, 3:6] = False
    assert np.abs(levels.astype(int) - GREY)[rest].max() <= 2


def test_a_marker_below_black_does_not_move_the_rest_either() -> None:
    marked = at(12).astype(np.int32)
    marked[3, 3] = -32768
    assert np.abs(to_8_bits(marked).astype(int) - GREY)[5:].max() <= 2


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.02, 1.05])
@pytest.mark.parametrize("white", [1, 1023, 4095, 65535])
def test_a_little_above_white_changes_little(factor: float, white: int) -> None:
    shares = np.linspace(0.10, 0.99, 1200, dtype=np.float32).reshape(40, 30)
    before, after = to_8_bits(shares * np.float32(white)), to_8_bits(shares * np.float32(white * factor))
    assert np.abs(before.astype(int) - after).max() <= (3 if factor <= 1.02 else 13)


@pytest.mark.parametrize("white", [0.02, 0.3, 1.3, 4.0, 30.5, 180.5, 1500.5, 3e6])
def test_floats_of_any_unit_are_never_a_black_picture(white: float) -> None:
    levels = to_8_bits((GREY / 255 * white).astype(np.float32))
    assert levels.min() == 0
    assert levels.max() == 255 or white == 180.5
    assert np.corrcoef(levels.ravel(), GREY.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    "values",
    [
        (GREY - GREY.mean()) / GREY.std(),  # z-scores
        GREY * 16.0 - 1000,  # Hounsfield units
        GREY * 8.0,  # 11 bits
        GREY * 32.0,  # 13 bits
        GREY * 16.0 + 32768,  # 12 signed bits, stored with an offset
    ],
    ids=["z-scores", "Hounsfield", "11 bits", "13 bits", "offset"],
)
def test_what_fills_no_depth_reaches_from_percentile_to_percentile(values: np.ndarray) -> None:
    levels = to_8_bits(values.astype(np.float32)).astype(int)
    assert np.abs(levels - GREY).max() <= 4
    if (values % 1 == 0).all():
        assert np.array_equal(to_8_bits(values.astype(np.int32)), levels)


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (10, 267, "i4", (0, 267)),  # 8 bits, and 5 % above
        (10, 268, "i4", (10, 268)),
        (10, 255, "i4", (0, 255)),
        (0, 1, "i4", (0, 255)),
        (0, 1, "f4", (0, 1)),
        (0.25, 0.5, "f4", (0, 1)),  # half of white, over a quarter of the depth
        (0.26, 0.5, "f4", (0.26, 0.5)),
        (0, 0.49, "f4", (0, 0.49)),
        (-0.05, 1, "f8", (0, 1)),  # what lies beyond by a twentieth of white is within, to the last digit
        (0, 1.05, "f8", (0, 1.05)),
        (10, 512, "i4", (0, 1023)),
        (10, 511, "i4", (10, 511)),
        (2976, 4000, "i4", (0, 4095)),
        (2977, 4000, "i4", (2977, 4000)),
        (-204, 4095, "i4", (0, 4095)),
        (-205, 4095, "i4", (-205, 4095)),
        (10, 4299, "i4", (0, 4299)),
        (10, 4300, "i4", (10, 4300)),
    ],
)
def test_where_a_depth_begins_and_ends(low: float, high: float, kind: str, expected: tuple[float, float]) -> None:
    assert range_of(np.repeat(np.array([low, high], kind), 50)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pixels", "left_out"), [(2, 0), (31, 0), (32, 1), (64, 1), (99, 1), (199, 1), (200, 2), (1200, 12)]
)
def test_a_hundredth_of_the_pixels_or_one_of_few_decides_nothing_at_either_end(pixels: int, left_out: int) -> None:
    shuffled = np.random.default_rng(0).permutation(pixels).astype(np.int32)
    assert percentiles(shuffled) == (left_out, pixels - 1 - left_out)


def test_a_picture_of_one_level_stays_black_whatever_its_markers_are() -> None:
    flat = np.full((40, 40), 1000, np.int32)
    flat[3, 3:5] = 5000, -5000
    assert (to_8_bits(flat) == 0).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
def test_known_limits_are_black_and_white_whatever_the_values_fill(kind: type) -> None:
    values = np.array([[0, 50, 51, 120, 199, 200, 250]], kind)
    assert to_8_bits(values, limits=(50, 200)).tolist() == [[0, 0, 2, 119, 253, 255, 255]]
    assert to_8_bits(values, True, (50, 200)).tolist() == [[255, 255, 253, 136, 2, 0, 0]]
    sixteen = [0, 0, 437, 30583, 65098, 65535, 65535]
    assert to_16_bits(values, limits=(50, 200)).tolist() == [sixteen]
    assert to_16_bits(values, True, (50, 200)).tolist() == [[65535 - level for level in sixteen]]


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_16_bits_reach_over_the_depth_that_is_filled_as_8_do(bits: int) -> None:
    levels = to_16_bits(at(bits).astype(np.int32))
    assert levels.dtype == np.uint16
    assert np.abs(levels - at(bits) * (65535 / (2**bits - 1))).max() <= 0.5


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_picture_of_more_than_a_million_pixels_is_scaled_to_its_last_row(kind: type) -> None:
    assert np.array_equal(to_8_bits(np.tile(at(12).astype(kind), (30, 30))), np.tile(GREY, (30, 30)))


def test_a_declared_depth_is_tried_before_the_usual_ones() -> None:
    values = np.repeat(np.array([0, 2000], np.int32), 50)
    assert range_of(values, 11) == (0, 2047)
    assert range_of(values, 16) == range_of(values) == (0, 2000)


def test_one_deep_value_everywhere_is_black() -> None:
    assert (to_8_bits(np.full((4, 4), 1000, np.int32)) == 0).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_white_is_zero_at_every_depth(bits: int) -> None:
    assert np.array_equal(to_8_bits((2**bits - 1 - at(bits)).astype(np.uint16), is_inverted=True), GREY)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        to_8_bits(np.array([[0, value]], np.float32))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_dark_picture_of_8_bits_stays_dark(kind: type) -> None:
    assert (to_8_bits(np.full((4, 4), 3, kind)) == 3).all()


@pytest.mark.parametrize("value", [0, 1000, 65535])
def test_one_value_everywhere_is_one_level(value: int) -> None:
    assert why_blank(to_8_bits(np.full((4, 4), value, np.uint16))) is not None


def test_a_picture_is_blank_when_it_shows_one_value_or_hardly_anything() -> None:
    dark = np.zeros((100, 100), np.uint8)
    assert why_blank(dark) == "is blank: all its pixels are 0 of 255"
    assert why_blank(dark + np.uint8(200)) == "is blank: all its pixels are 200 of 255"
    dark[0, :99] = 255
    dark[1:] = 3
    assert why_blank(dark) == "is nearly blank: more than 99% of it is black"
    dark[1, :2] = 4
    assert why_blank(dark) is None
