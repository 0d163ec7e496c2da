"""PyTorch, torchvision and Lightning in three quarters of the time that their imports take by themselves."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def quick_imports() -> Iterator[None]:
    """Around the first import of Lightning: without the garbage collector, which finds nothing among thousands of new
    modules and searches them again and again, and without scipy.signal."""
    if "lightning" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        _import_torchmetrics()
        yield
    finally:
        gc.freeze()  # nor is it to search them later
        gc.enable()


def _import_torchmetrics() -> None:
    """torchmetrics, which Lightning imports, imports the 500 modules of scipy.signal only to give it back a name that
    it no longer has, for another library's sake. A stand-in that has the name spares them; who needs the real one later
    gets it."""
    if {"torchmetrics", "scipy.signal"} & sys.modules.keys():
        return
    stand_in = ModuleType("scipy.signal")
    stand_in.__dict__["hamming"] = None
    sys.modules["scipy.signal"] = stand_in
    try:
        importlib.import_module("torchmetrics")
    finally:
        del sys.modules["scipy.signal"]
