"""Studies, multiruns and distributed runs through a real SLURM: queued, cancelled, requeued, killed, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from command import ON_CPU, REPOSITORY, Command

from mura.launch.slurm.queue import read_queue
from mura.machine import cores

pytestmark = pytest.mark.slurm
RESOURCES = ("time=0:30:00", "gpus=0", "cpus=1", "memory=0.75", "at_a_time=2")
EPOCHS = ("trainer.max_epochs=20", "early_stopping.patience=null")  # long enough to be caught in the middle

Start = Callable[[list[str]], subprocess.Popen[str]]


def settings(mura_root: Path, cache_dir: Path) -> list[str]:
    return [
        "logger=none", *ON_CPU, f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32"
    ]  # fmt: skip


def study(mura_root: Path, cache_dir: Path, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable, str(REPOSITORY / "sweep.py"), "models=[cnn2]", "seeds=[0]", "name=study",
        f"studies_dir={folder}", *settings(mura_root, cache_dir), *EPOCHS, *more,
    ]  # fmt: skip


def in_slurm(prefix: str = "launcher.") -> list[str]:
    return ["launcher=slurm", *(prefix + each for each in RESOURCES)]


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen in {seconds} s; the queue: {read_queue()}"
        time.sleep(0.1)


def place_of(run: str, folder: Path) -> str:
    """The name under which a run of the study was last submitted."""
    return str(json.loads((folder / ".slurm" / "places.json").read_text())[run])


def number_of(run: str, folder: Path) -> str:
    """SLURM's id of a run of the study."""
    place, queued = place_of(run, folder), read_queue()
    assert place in queued, f"{run} is not in the queue: {queued}"
    return queued[place][0]


def scontrol(*command: str) -> None:
    subprocess.run(["scontrol", *command], check=True)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command that does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: list[str]) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    subprocess.run(["scancel", f"--user={os.getuid()}"], check=True)


@pytest.mark.usefixtures("slurm")
def test_a_study_with_a_run_cancelled_one_requeued_and_the_sweep_killed_equals_a_local_one(
    mura_root: Path, cache_dir: Path, tmp_path: Path, start: Start
) -> None:
    two = "extremities=[forearm,humerus]"
    local = subprocess.run(
        study(mura_root, cache_dir, tmp_path / "local", two, f"launcher.workers={cores()}"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert local.returncode == 0, local.stderr

    alone = (*in_slurm(), "launcher.at_a_time=1")
    folder, command = tmp_path / "queue" / "study", study(mura_root, cache_dir, tmp_path / "queue", two, *alone)
    first = start(command)
    unified = folder / "cnn2/unified/seed0"
    wait_for(lambda: (unified / "config.yaml").is_file())
    unseen, seen = (number_of(f"cnn2/{name}/seed0", folder) for name in ("forearm", "humerus"))
    scontrol("hold", f"{unseen},{seen}")  # until they are cancelled
    wait_for(lambda: (unified / "checkpoints/last.ckpt").is_file())
    told = start(["scancel", "--signal=USR2", number_of("cnn2/unified/seed0", folder)])
    wait_for(lambda: "stopped; go on with" in (unified / "console.log").read_text())
    told.kill()  # it would tell the requeued job once more
    first.kill()
    first.wait()
    subprocess.run(["scancel", unseen], check=True)  # which no sweep.py sees
    submitted = place_of("cnn2/forearm/seed0", folder)

    second = start(command)
    wait_for(lambda: place_of("cnn2/forearm/seed0", folder) != submitted)  # it knows what is in the queue
    scontrol("release", seen)
    wait_for(lambda: (folder / "cnn2/humerus/seed0/config.yaml").is_file())
    subprocess.run(["scancel", seen], check=True)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 1, said
    assert "runs are already in the queue" in said
    assert "FAILED  cnn2/humerus/seed0: SLURM ended job" in said
    assert said.count("FAILED") == 1
    history = pd.read_csv(unified / "history.csv")
    assert list(history["epoch"]) == list(range(20))

    last = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr
    assert last.stderr.count("done    ") == 1
    assert (folder / "results.csv").read_bytes() == (tmp_path / "local/study/results.csv").read_bytes()
    assert not read_queue()


@pytest.mark.usefixtures("slurm")
def test_ctrl_c_cancels_what_is_queued_and_running(
    mura_root: Path, cache_dir: Path, tmp_path: Path, start: Start
) -> None:
    command = study(mura_root, cache_dir, tmp_path, "extremities=[wrist,hand]", *in_slurm(), "trainer.max_epochs=5000")
    process = start(command)
    unified = tmp_path / "study/cnn2/unified/seed0"
    wait_for(lambda: (unified / "checkpoints/last.ckpt").is_file())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "cancelling 3 jobs" in said
    assert "Traceback" not in said
    assert not read_queue()
    assert "stopped; go on with" in (unified / "console.log").read_text()


@pytest.mark.usefixtures("slurm")
def test_a_job_that_reaches_its_time_limit_is_queued_again_and_goes_on(
    mura_root: Path, cache_dir: Path, tmp_path: Path, start: Start
) -> None:
    command = study(mura_root, cache_dir, tmp_path, "arms=[specialised]", "extremities=[wrist]", *in_slurm())
    process = start([*command, "trainer.max_epochs=5000"])
    run = tmp_path / "study/cnn2/wrist/seed0"
    wait_for(lambda: (run / "checkpoints/last.ckpt").is_file())
    job = f"JobId={number_of('cnn2/wrist/seed0', tmp_path / 'study')}"
    # the least of time, in minutes, before whose end SLURM sends its signal; it looks at the limits every half minute
    scontrol("update", job, "TimeLimit=2")
    wait_for(lambda: "stopped; go on with" in (run / "console.log").read_text())
    scontrol("update", job, "TimeLimit=30")  # enough to start again in, however busy this machine is
    before = len(pd.read_csv(run / "history.csv"))
    wait_for(lambda: len(pd.read_csv(run / "history.csv")) > before)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    epochs = list(pd.read_csv(run / "history.csv")["epoch"])
    assert epochs == list(range(len(epochs)))


@pytest.mark.usefixtures("slurm")
def test_a_multirun_goes_through_the_queue_and_a_failing_run_is_named(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    resources = [f"hydra.launcher.{each}" for each in RESOURCES]
    command = [
        sys.executable, str(REPOSITORY / "train.py"), "-m", "hydra/launcher=slurm", *resources, "model=cnn2",
        "data=wrist,hand", "trainer.max_epochs=1", *settings(mura_root, cache_dir),
        f"hydra.sweep.dir={tmp_path / 'runs'}",
    ]  # fmt: skip
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/1_cnn2_hand").write_text("in the way of a run folder")
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert "1 of 2 runs failed: data=hand" in result.stderr
    assert (tmp_path / "runs/0_cnn2_wrist/metrics.json").is_file()
    assert "Bypassing sacct" not in result.stdout + result.stderr


@pytest.mark.usefixtures("slurm")
def test_two_tasks_of_srun_are_one_run_and_equal_two_local_processes(
    mura_root: Path, cache_dir: Path, tmp_path: Path, train: Command
) -> None:
    srun = ["srun", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--mem=2000"]
    common = ["model=cnn2", "data=wrist", *settings(mura_root, cache_dir)]
    two = [
        "trainer.max_epochs=2",
        "trainer=slurm",
        "trainer.accelerator=cpu",
        "trainer.num_nodes=1",
        "trainer.devices=2",
    ]
    result = subprocess.run(
        [*srun, sys.executable, str(REPOSITORY / "train.py"), *common, *two], capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [run] = (tmp_path / "runs").iterdir()
    train("data=wrist", "trainer.max_epochs=2", "trainer=ddp_cpu", f"hydra.run.dir={tmp_path / 'local'}")
    columns = ["split", "path", "probability"]
    pd.testing.assert_frame_equal(
        pd.read_csv(run / "predictions.csv")[columns], pd.read_csv(tmp_path / "local/predictions.csv")[columns]
    )

    wrong = subprocess.run(
        [*srun, sys.executable, str(REPOSITORY / "train.py"), *common], capture_output=True, text=True, timeout=300
    )
    assert wrong.returncode != 0
    assert "srun started 2 tasks, but trainer.num_nodes=1 x trainer.devices=1" in wrong.stderr


@pytest.mark.usefixtures("slurm")
def test_what_is_typed_in_the_shell_of_an_allocation_is_one_process(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    result = subprocess.run(
        ["salloc", "--quiet", "--ntasks=2", sys.executable, str(REPOSITORY / "train.py"), "model=cnn2", "data=wrist",
         "trainer.max_epochs=1", *settings(mura_root, cache_dir), f"hydra.run.dir={tmp_path / 'run'}"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/metrics.json").is_file()
