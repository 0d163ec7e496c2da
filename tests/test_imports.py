"""Quick imports leave everything usable, and still spare what they are there to spare."""

import subprocess
import sys

CODE = """
import gc, sys
from mura.imports import quick_imports
with quick_imports():
    import lightning, torch, torchvision
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() > 0
assert "scipy.signal" not in sys.modules
import scipy.signal
assert abs(scipy.signal.hilbert([1.0, 0.0, -1.0, 0.0])[1] - 1j) < 1e-9
frozen = gc.get_freeze_count()
with quick_imports():
    pass
assert gc.get_freeze_count() == frozen
"""


def test_lightning_is_imported_without_scipys_signals_which_then_are_there_for_whoever_wants_them() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
