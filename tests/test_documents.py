"""The documents say what is there."""

import re
import subprocess
import sys
from pathlib import Path

from mura.config.help import MADE_BY, settings_page

REPOSITORY = Path(__file__).parent.parent


def test_the_page_of_settings_is_what_the_configs_say() -> None:
    page = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), f"conf/ has changed since; make the page anew: {MADE_BY}"


def test_every_setting_is_explained() -> None:
    rows = re.findall(r"^\| `[\w.]+` \|.*\| *(.*?) *\|$", settings_page(), re.MULTILINE)
    assert len(rows) > 70
    assert all(rows)


def test_the_page_of_settings_is_printed() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "mura.config.help"], capture_output=True, text=True, encoding="utf-8", check=True,
        cwd=REPOSITORY,
    )  # fmt: skip
    assert printed.stdout == settings_page()
