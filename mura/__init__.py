"""mura: one model for all seven upper-limb extremities, or one for each?

Public are the names in `__all__`. Each is imported when it is first asked for: `import mura` alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mura.comparison.summary import compare
    from mura.data.datamodule import MuraDataModule
    from mura.data.index import read_index
    from mura.inference.models import load_model
    from mura.models.classifier import AbnormalityClassifier

__version__ = "0.1.0"
__all__ = ["AbnormalityClassifier", "MuraDataModule", "compare", "load_model", "read_index"]

_HOMES = {
    "AbnormalityClassifier": "mura.models.classifier",
    "MuraDataModule": "mura.data.datamodule",
    "compare": "mura.comparison.summary",
    "load_model": "mura.inference.models",
    "read_index": "mura.data.index",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mura' has no attribute {name!r}; public are {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
