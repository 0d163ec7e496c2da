"""Files that are there whole, or as they were before."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4


@contextmanager
def atomically(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` at the end of the block, unless the block fails.

    It is written beside `path` and renamed; with `sync` it survives a power cut. A process that is killed meanwhile
    leaves a hidden file, `.<name>.<eight characters>`.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write `text` in UTF-8, atomically."""
    with atomically(path, sync) as file:
        file.write(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON without NaN, atomically: what is undefined is null."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
