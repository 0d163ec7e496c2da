"""Many runs: each in a process of its own, none stops the others, none outlives the launcher."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mura.launch.jobs import Job, Outcome, run_jobs
from mura.launch.placement import place_runs, runs_at_a_time
from mura.machine import Gpus, cores

SCRIPT = """
import os, sys, tempfile, time, pathlib
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True, exist_ok=True)
(folder / "pid").write_text(str(os.getpid()))
(folder / "temporary").write_text(tempfile.mkdtemp())
print("hello from", folder.name)
if sys.argv[2] == "fail": sys.exit(3)
if sys.argv[2] == "sleep": time.sleep(120)
import torch
(folder / "threads").write_text(str(torch.get_num_threads()))
(folder / "gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
"""

LAUNCHER = """
import sys, pathlib
from mura.launch.jobs import Job, run_jobs
from mura.signals import answering_signals
if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    with answering_signals():
        run_jobs(folder / "script.py", [Job("long", [str(folder / "long"), "sleep"], folder / "long")], print)
"""


def jobs(folder: Path, *kinds: str) -> tuple[Path, list[Job]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    each = [(f"job{number}", kind) for number, kind in enumerate(kinds)]
    return script, [Job(name, [str(folder / name), kind], folder / name) for name, kind in each]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds: float = 60) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_a_failing_job_does_not_stop_the_others_and_is_reported_when_it_ends(tmp_path: Path) -> None:
    seen: list[tuple[str, int | None]] = []

    def watch(job: Job, outcome: Outcome | None) -> None:
        seen.append((job.name, None if outcome is None else outcome.exit_code))

    script, work = jobs(tmp_path, "run", "fail", "run")
    outcomes = run_jobs(script, work, watch)
    assert [outcome.exit_code for outcome in outcomes] == [0, 3, 0]
    assert seen == [("job0", None), ("job0", 0), ("job1", None), ("job1", 3), ("job2", None), ("job2", 0)]


def test_workers_share_the_cores_and_pin_the_gpus_and_keep_their_output(tmp_path: Path) -> None:
    script, work = jobs(tmp_path, "run", "run", "run", "run")
    outcomes = run_jobs(
        script, work, lambda job, outcome: None, workers=2, gpus=[["0", "1"], ["2", "3"]], captured=True
    )
    assert {outcome.exit_code for outcome in outcomes} == {0}
    assert {(job.folder / "gpu").read_text() for job in work} == {"0,1", "2,3"}
    assert {(job.folder / "threads").read_text() for job in work} == {str(max(1, cores() // 2))}
    assert "hello from job3" in work[3].log.read_text()
    assert len({(job.folder / "pid").read_text() for job in work}) == 4


def test_a_job_leaves_no_temporary_files_however_it_ends(tmp_path: Path) -> None:
    script, work = jobs(tmp_path, "run", "fail")
    run_jobs(script, work, lambda job, outcome: None)
    assert [Path((job.folder / "temporary").read_text()).exists() for job in work] == [False, False]


@pytest.mark.parametrize(
    ("n_cores", "gib", "gpus", "devices", "runs", "expected"),
    [
        (2, 24, 0, 1, 8, 2),
        (2, 8, 0, 1, 8, 1),  # memory for one
        (64, 512, 0, 1, 8, 2),  # else all but a few cores wait for the unified run
        (64, 512, 0, 1, 24, 6),
        (8, 512, 0, 2, 400, 4),
        (1, 4, 0, 2, 1, 1),
        (2, 8, 4, 1, 8, 4),
        (2, 8, 4, 2, 8, 2),
        (2, 8, 1, 2, 8, 1),
    ],
)
def test_a_study_takes_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, n_cores: int, gib: int, gpus: int, devices: int, runs: int, expected: int
) -> None:
    monkeypatch.setattr("mura.launch.placement.cores", lambda: n_cores)
    monkeypatch.setattr("mura.launch.placement.memory", lambda: gib * 2**30)
    assert runs_at_a_time(gpus, devices, runs) == expected


@pytest.mark.parametrize(
    ("workers", "accelerator", "devices", "expected"),
    [
        (None, "auto", 1, (3, [["3"], ["1"], ["2"]])),
        (None, "gpu", 2, (1, [["3", "1"]])),
        (2, "gpu", 2, (2, [["3", "1"]])),
        (None, "gpu", 4, (1, [])),  # the run itself says that there are too few
        (5, "cpu", 1, (5, [])),
    ],
)
def test_each_run_of_a_study_gets_gpus_of_its_own(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, accelerator: str, devices: int, expected: object
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,2")
    monkeypatch.setattr("mura.launch.placement.SIGNS_OF_A_GPU", ["/"])
    monkeypatch.setattr("mura.launch.placement.gpus_of_a_run", lambda: Gpus([0, 1, 2], ""))
    assert place_runs(workers, accelerator, devices, runs=8) == expected


def launch_a_long_job(folder: Path, in_background: bool = False) -> tuple[subprocess.Popen[bytes], int]:
    (folder / "script.py").write_text(SCRIPT)
    (folder / "launcher.py").write_text(LAUNCHER)
    launcher = subprocess.Popen(
        [sys.executable, str(folder / "launcher.py"), str(folder)],
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if in_background else None,
    )
    pid_file = folder / "long" / "pid"
    wait_for(lambda: pid_file.is_file() and pid_file.read_text() != "")
    return launcher, int(pid_file.read_text())


def test_ctrl_c_ends_the_running_jobs(tmp_path: Path) -> None:
    launcher, child = launch_a_long_job(tmp_path)
    launcher.send_signal(signal.SIGINT)
    launcher.wait(timeout=60)
    assert launcher.returncode != 0
    wait_for(lambda: not alive(child))


def test_sigterm_ends_the_running_jobs_of_a_launcher_in_the_background(tmp_path: Path) -> None:
    launcher, child = launch_a_long_job(tmp_path, in_background=True)
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(timeout=30)
    assert launcher.returncode == 143
    wait_for(lambda: not alive(child), 1)


def test_a_killed_launcher_leaves_no_job_behind(tmp_path: Path) -> None:
    launcher, child = launch_a_long_job(tmp_path)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not alive(child))
