"""The rooms of the house stand on each other in one direction, and the document that shows them shows them all."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "mura"
COMMANDS = (
    "train.py", "sweep.py", "mura/__init__.py", "mura/cli.py", "mura/__main__.py", "mura/preload.py",
    "hydra_plugins/mura_launcher/__init__.py",
)  # fmt: skip

# From the ground up: a room imports what stands in a row above it here, and itself.
FLOORS = (
    ("ground",),
    ("runs",),
    ("data", "synthetic", "models", "tracking"),
    ("training", "inference"),
    ("launch",),
    ("study",),
    ("config",),
    ("comparison",),
    ("report",),
    ("app",),
    ("commands",),
)
# These read finished runs, and know nothing of how runs are made; what an arm is, they must know.
ONLY = {
    "comparison": {"ground", "runs", "mura.study.arms"},
    "report": {"ground", "runs", "mura.study.arms", "comparison", "tracking"},
}


def room_of(module: str) -> str:
    path = module.replace(".", "/") + ".py"
    parts = module.split(".")
    if path in COMMANDS or parts[0] == "hydra_plugins":
        return "commands"
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else "ground"


def imports_of(file: Path) -> Iterator[str]:
    """Every module of this project that the file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mura":
            below = (REPOSITORY / node.module.replace(".", "/")).is_dir()
            names = [f"{node.module}.{alias.name}" if below else node.module for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "mura")


def source_files() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(REPOSITORY / name for name in COMMANDS if not name.startswith("mura/"))])


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_a_room_imports_only_what_it_stands_on(file: Path) -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    mine = room_of(str(file.relative_to(REPOSITORY).with_suffix("")).replace("/", "."))
    for module in imports_of(file):
        other = room_of(module)
        assert other == mine or floor[other] < floor[mine], f"{mine} imports {module}"
        if mine in ONLY and other != mine:
            assert {other, module} & ONLY[mine], f"{mine} imports {module}"


def test_every_room_is_shown_in_the_architecture_and_every_room_shown_is_there() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    there = {f"mura/{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    there |= {f"mura/{path.name}" for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    shown = set(re.findall(r"`(mura/[a-z_]+(?:/|\.py))`", page))
    assert shown == there
