"""DICOM as a viewer shows it, in every usual coding; what can't be read is one sentence that quotes nothing."""

import io
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import dataset, saved
from picture_files import png
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mura.data import decoder_process, dicom
from mura.data.decoder_process import DecoderProcess, decode_apart
from mura.data.dicom import looks_like_dicom, study_key
from mura.data.images import UnreadableImage, decode
from mura.data.levels import to_8_bits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's; users see none: test_predict.py

GREY = (np.arange(1200).reshape(40, 30) % 256).astype(np.uint8)
GREY_12 = np.round(GREY * (4095 / 255)).astype(np.uint16)


def decoded(made: Dataset | bytes, folder: Path) -> np.ndarray:
    (folder / "picture").write_bytes(made if isinstance(made, bytes) else saved(made))
    return decode(folder / "picture")


def sentence_of(path: Path) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(path)
    return f"{caught.value.kind}:{str(caught.value).removeprefix(str(path))}"


def example(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(path)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",  # explicit, little endian
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_padded.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_one_picture_in_every_lossless_coding_has_the_same_pixels(name: str) -> None:
    assert np.array_equal(decode(example(name)), decode(example("MR_small.dcm")))


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jpeg_gdcm.dcm",  # JPEG Lossless, selection value 1
        "SC_rgb_jpeg_dcmtk.dcm",  # JPEG Baseline
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_jls_lossy_line.dcm",
    ],
)
def test_colours_in_every_coding_have_the_same_grey(name: str) -> None:
    plain = decode(example("SC_rgb_dcmtk_+eb+cr.dcm")).astype(int)
    assert np.abs(decode(example(name)) - plain).mean() < 1.5


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm", "693_J2KI.dcm", "image_dfl.dcm", "JPEG2000.dcm", "JPEGLSNearLossless_16.dcm",
        "examples_palette.dcm", "examples_jpeg2k.dcm", "ExplVR_BigEnd.dcm", "SC_rgb_small_odd.dcm", "liver_1frame.dcm",
    ],
)  # fmt: skip
def test_pictures_of_other_kinds_are_read(name: str) -> None:
    assert decode(example(name)).max() > 100


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("JPEG-lossy.dcm", "unsupported: is a DICOM file in JPEG Extended of 12 bits, which only pylibjpeg-libjpeg"),
        ("SC_rgb_rle_2frame.dcm", "unsupported: holds several pictures (pages or frames): save the one that is meant"),
        ("DICOMDIR", "unsupported: is a DICOM file without a picture (Media Storage Directory Storage)."),
        ("test-SR.dcm", "unsupported: is a DICOM file without a picture (Comprehensive SR Storage)."),
        ("rtplan.dcm", "unsupported: is a DICOM file without a picture (RT Plan Storage)."),
        ("MR_truncated.dcm", "unreadable: is a damaged or truncated DICOM file."),
        ("SC_rgb_rle_32bit.dcm", "unsupported: is a DICOM file in colours of 32 bits, which are not read: save it as"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_one_sentence(name: str, sentence: str) -> None:
    assert sentence_of(example(name)).startswith(sentence)


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
def test_a_file_without_preamble_is_read(name: str, tmp_path: Path) -> None:
    data = example(name).read_bytes()
    bare = data[132:]
    assert looks_like_dicom(bare[:132])
    assert np.array_equal(decoded(bare, tmp_path), decode(example(name)))
    made = pydicom.dcmread(example(name))
    made.file_meta, is_little = FileMetaDataset(), name != "MR_small_bigendian.dcm"
    file = io.BytesIO()
    made.save_as(file, implicit_vr="implicit" in name, little_endian=is_little)
    if is_little:  # nothing says then how a big-endian file is coded
        assert np.array_equal(decoded(file.getvalue(), tmp_path), decode(example(name)))


def test_12_bits_give_the_pixels_of_the_same_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(GREY_12, 16))
    assert np.array_equal(decoded(dataset(GREY_12, 12), tmp_path), decode(tmp_path / "a.png"))


@pytest.mark.parametrize("bits", [8, 10, 11, 12, 13, 14, 15, 16])
def test_the_stored_bits_are_the_range_without_a_window(bits: int, tmp_path: Path) -> None:
    values = np.round(GREY * ((2**bits - 1) / 255)).astype(np.uint8 if bits == 8 else np.uint16)
    assert np.array_equal(decoded(dataset(values, bits), tmp_path), GREY)
    inverted = dataset((2**bits - 1 - values).astype(values.dtype), bits, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decoded(inverted, tmp_path), GREY)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize("rescaled", [False, True])
def test_a_window_shows_what_pydicom_shows(function: str | None, rescaled: bool, tmp_path: Path) -> None:
    made = dataset(GREY_12, 12, WindowCenter=[1500, 9], WindowWidth=[2000, 9])
    if rescaled:
        made.RescaleSlope, made.RescaleIntercept = 2, -1000
    if function is not None:
        made.VOILUTFunction = function
    shown = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_modality_lut(made.pixel_array, made), made)
    least, most = (0, 4095) if not rescaled else (-1000, 2 * 4095 - 1000)
    expected = (shown - least) / (most - least) * 255
    assert np.abs(decoded(made, tmp_path) - expected).max() <= 0.51


def test_a_window_on_signed_values_is_applied_once_and_turned_for_monochrome1(tmp_path: Path) -> None:
    values = (GREY.astype(np.int16) * 4) - 400
    made = dataset(values, 16, WindowCenter=-400 + 510.5, WindowWidth=1021)
    assert np.abs(decoded(made, tmp_path).astype(int) - GREY).max() <= 1
    made.PhotometricInterpretation = "MONOCHROME1"
    assert np.abs(decoded(made, tmp_path).astype(int) - (255 - GREY)).max() <= 1


def test_look_up_tables_are_applied(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], (257 * np.arange(255, -1, -1)).astype("<u2").tobytes()
    made = dataset(GREY)
    made.VOILUTSequence = Sequence([item])
    assert np.array_equal(decoded(made, tmp_path), 255 - GREY)
    made = dataset(GREY)
    item.ModalityLUTType = "US"
    made.ModalityLUTSequence = Sequence([item])
    assert np.array_equal(decoded(made, tmp_path), 255 - GREY)


@pytest.mark.parametrize(
    "window", [{"WindowWidth": 0}, {"WindowWidth": -5}, {"WindowCenter": None}, {"WindowWidth": "wide"}]
)
def test_an_unusable_window_is_passed_over(window: dict[str, Any], tmp_path: Path) -> None:
    made = dataset(GREY_12, 12, WindowCenter=2000, WindowWidth=4000)
    for name, value in window.items():
        if value == "wide":
            made[name] = pydicom.DataElement(name, "LO", value)
        else:
            setattr(made, name, value)
    assert np.array_equal(decoded(made, tmp_path), GREY)


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_decide_the_range(polarity: str, tmp_path: Path) -> None:
    values = (GREY_12 // 2).astype(np.int16) + 100
    values[:, :10] = -2000
    made = dataset(values, 16, PixelPaddingValue=-2000, PhotometricInterpretation=polarity)
    expected = to_8_bits(values[:, 10:], polarity == "MONOCHROME1")
    found = decoded(made, tmp_path)
    assert (found[:, :10] == 0).all()
    assert np.abs(found[:, 10:].astype(int) - expected).max() <= 3


def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(saved(dataset(GREY, Rows=60_000, Columns=60_000)))
    assert sentence_of(tmp_path / "a").startswith("too-large: declares 60000 x 60000 pixels")


def test_a_deflated_bomb_is_refused_before_it_is_inflated_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataset(GREY)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(decoded(made, tmp_path), GREY)
    monkeypatch.setattr(dicom, "MOST_BYTES", 1000)
    assert sentence_of(tmp_path / "picture") == "too-large: inflates to more than any radiograph; not decoded."


def test_without_the_extra_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(saved(dataset(GREY)))
    dicom._pydicom.cache_clear()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert sentence_of(tmp_path / "a") == (
        "unsupported: is a DICOM file, which the extra `dicom` reads: pip install -e '.[dicom]'."
    )
    assert study_key(tmp_path / "a") is None


def test_files_of_one_study_have_one_key_which_is_not_the_uid(tmp_path: Path) -> None:
    for name, uid in (("a", "1.2.3"), ("b", "1.2.3"), ("c", "1.2.4"), ("d", "")):
        (tmp_path / name).write_bytes(saved(dataset(GREY, StudyInstanceUID=uid)))
    first, second, third, none = (study_key(tmp_path / name) for name in "abcd")
    assert first == second != third
    assert first is not None
    assert "1.2.3" not in first
    assert none is None
    (tmp_path / "e.png").write_bytes(png(GREY, 8))
    assert study_key(tmp_path / "e.png") is None


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm", "SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "image_dfl.dcm", "SC_rgb_jpeg_gdcm.dcm",
        "MR_small_jpeg_ls_lossless.dcm", "JPEG2000.dcm",
    ],
)  # fmt: skip
def test_damaged_files_raise_nothing_but_the_sentence(name: str, tmp_path: Path) -> None:
    data, rng = example(name).read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        spoilt = bytearray(data)
        for place in rng.integers(132, len(data), 20):
            spoilt[place] = rng.integers(256)
        (tmp_path / "a").write_bytes(spoilt[: rng.integers(200, len(data))] if rng.random() < 0.3 else spoilt)
        with suppress(UnreadableImage):
            assert decode(tmp_path / "a").dtype == np.uint8


def test_a_decoder_that_dies_of_a_file_takes_only_that_file_with_it() -> None:
    """GDCM ends its process when the marker of one of these tables is broken."""
    whole = example("SC_rgb_dcmtk_+eb+cr.dcm").read_bytes()
    decoder = DecoderProcess()
    for marker in re.finditer(rb"\xff\xc4", whole):
        damaged = bytearray(whole)
        damaged[marker.start()] = 43
        if decoder.ask(bytes(damaged)) is None:
            break
    assert decoder.process.wait() == -signal.SIGABRT
    decoder.close()
    assert decode_apart(bytes(damaged)) is None
    assert decode(example("SC_rgb_jpeg_gdcm.dcm")).max() > 100


def test_a_decoder_ended_by_others_is_started_anew(tmp_path: Path) -> None:
    whole = decode(example("MR_small_jpeg_ls_lossless.dcm"))
    for decoder in decoder_process._idle:
        decoder.process.kill()
    assert np.array_equal(decode(example("MR_small_jpeg_ls_lossless.dcm")), whole)
