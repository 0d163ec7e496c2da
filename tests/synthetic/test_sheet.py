"""The contact sheet shows every extremity, normal and abnormal."""

from pathlib import Path

from PIL import Image

from mura.synthetic.sheet import write_preview


def test_the_preview_shows_seven_extremities_twice(tmp_path: Path) -> None:
    file = write_preview(tmp_path / "docs" / "sheet.png", size=64)
    with Image.open(file) as sheet:
        assert sheet.width > 7 * 64
        assert sheet.height > 2 * 64
