"""The program from an installed wheel, in a folder that is no clone."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from command import ON_CPU, REPOSITORY, Ended

SHORT = ("model=cnn2", "logger=none", "trainer.max_epochs=1", "data.image_size=32", *ON_CPU)


class Installed:
    """A virtual environment with the wheel, and a folder of the user's to work in, which is a git repository."""

    def __init__(self, folder: Path, wheel: Path, root: Path, cache: Path) -> None:
        self.python, self.work = folder / "venv" / "bin" / "python", folder / "work"
        venv.create(folder / "venv", with_pip=False)
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", self.python, "install", "-q", "--no-index", "--no-deps", wheel],
            check=True,
        )
        [packages] = folder.glob("venv/lib/python*/site-packages")
        (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])  # all but mura itself
        self.work.mkdir()
        subprocess.run(["git", "init", "-q", self.work], check=True)
        self.data = (f"data.root={root}", f"data.cache_dir={cache}")

    def run(self, *command: str | Path) -> Ended:
        elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=self.work, env=elsewhere, capture_output=True, text=True)
        return Ended(done.returncode, done.stdout + done.stderr)

    def mura(self, *arguments: str) -> Ended:
        return self.run(self.python.with_name("mura"), *arguments)


@pytest.fixture(scope="module")
def installed(mura_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=REPOSITORY, check=True
    )
    [wheel] = folder.glob("*.whl")
    return Installed(folder, wheel, mura_root, cache_dir)


def test_mura_is_that_of_the_wheel(installed: Installed) -> None:
    where = installed.run(installed.python, "-c", "import mura; print(mura.__file__)")
    assert where.code == 0
    assert str(installed.python.parent.parent) in where.said


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_help_names_the_commands_that_can_be_typed(installed: Installed, command: str) -> None:
    shown = installed.mura(command, "--help")
    assert shown.code == 0
    assert f"mura {command} " in shown.said
    assert "python train.py" not in shown.said
    assert installed.run(installed.python, "-m", "mura", command, "--help") == shown


def test_a_mistyped_setting_is_refused_in_a_sentence(installed: Installed) -> None:
    refused = installed.mura("train", "modle=cnn2")
    assert refused.code != 0
    assert "did you mean" in refused.said
    assert "Traceback" not in refused.said


@pytest.mark.slow
def test_a_run_trains_and_a_stopped_one_goes_on(installed: Installed) -> None:
    folder = installed.work / "one"
    done = installed.mura("train", *SHORT, *installed.data, "data=wrist", f"hydra.run.dir={folder}")
    assert done.code == 0, done.said
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["git"] is None, "the user's repository is not the program's"

    (folder / "metrics.json").unlink()
    again = installed.mura("train", f"resume={folder}", "trainer.max_epochs=2")
    assert again.code == 0, again.said
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 2


@pytest.mark.slow
def test_a_multirun_starts_a_run_of_two_processes(installed: Installed) -> None:
    multirun = (*SHORT, *installed.data, "data=wrist", "hydra.sweep.dir=many")
    several = installed.mura("train", "-m", *multirun, "trainer=ddp_cpu", "trainer.precision=32-true")
    assert several.code == 0, several.said
    finished = sorted((installed.work / "many").glob("*/metrics.json"))
    assert [json.loads(file.read_text())["devices"] for file in finished] == [2]


@pytest.mark.slow
def test_a_study_is_trained_and_compared(installed: Installed) -> None:
    study = installed.mura(
        "sweep", "models=[cnn2]", "seeds=[0]", "extremities=[wrist,hand]", "name=mine", *SHORT[1:], *installed.data
    )
    assert study.code == 0, study.said
    assert (installed.work / "studies" / "mine" / "index.html").is_file()


def test_every_file_of_the_package_is_in_the_wheel(installed: Installed) -> None:
    [package] = installed.python.parent.parent.glob("lib/python*/site-packages/mura")
    ours = REPOSITORY / "mura"
    files = {path.relative_to(ours) for path in ours.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert Path("app", "templates", "page.html.j2") in files
    assert files <= {path.relative_to(package) for path in package.rglob("*")}
