"""The notebooks run from top to bottom, on synthetic data, and say what their sources say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from command import Command

import mura

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))


def run_notebook(name: str, folder: Path) -> None:
    """Run a notebook by a real kernel, in a copy in `folder`; its commands find this environment's `mura`."""
    shutil.copy(NOTEBOOKS / f"{name}.ipynb", folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    command = [sys.executable, "-m", "pytest", "--nbmake", f"{name}.ipynb", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_source_for_every_notebook() -> None:
    assert SOURCES
    assert {source.stem for source in SOURCES} == {notebook.stem for notebook in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_is_what_its_source_says(source: Path) -> None:
    """Make it anew with `jupytext --to ipynb notebooks/NAME.py`."""
    wanted, there = jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    cells = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (wanted, there)]
    assert cells[0] == cells[1]
    assert all(not cell.get("outputs") for cell in there.cells), "pictures and paths stay out of the repository"


@pytest.mark.slow
def test_the_example_uses_the_public_names_alone(train: Command, mura_root: Path, tmp_path: Path) -> None:
    for name in ("unified", "wrist"):
        settings = (f"data={name}", "trainer.max_epochs=1", f"hydra.run.dir=demo/studies/demo/cnn2/{name}/seed0")
        train(*settings, *(["data.transfer=true"] if name == "wrist" else []))
    (tmp_path / "demo" / "data").symlink_to(mura_root)
    (tmp_path / "notebooks").mkdir()
    run_notebook("example", tmp_path / "notebooks")
    imports = [line for line in (NOTEBOOKS / "example.py").read_text().splitlines() if "from mura" in line]
    assert imports == [f"from mura import {', '.join(sorted(mura.__all__))}"]


@pytest.mark.slow
def test_the_kaggle_notebook_trains_and_compares(tmp_path: Path) -> None:
    run_notebook("kaggle", tmp_path)
    work = tmp_path / "kaggle_trial"
    assert (work / "studies" / "mine" / "index.html").is_file()
    assert len(list(work.glob("runs/**/metrics.json"))) == 1
