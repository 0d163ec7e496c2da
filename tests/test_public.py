"""What `import mura` offers."""

import subprocess
import sys

import pytest

import mura


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in mura.__all__:
        assert name in dir(mura)
        assert getattr(mura, name).__doc__


def test_another_name_is_refused_with_the_public_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'load_modle'; public are .*load_model"):
        mura.load_modle  # noqa: B018


def test_importing_mura_alone_imports_nothing_heavy() -> None:
    code = "import mura, sys; print(sorted({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_asking_about_pictures_imports_no_torch_which_loading_alone_needs() -> None:
    code = "import mura.inference.predict, sys; print(sorted({'torch', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
