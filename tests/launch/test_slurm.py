"""What can be known of SLURM without one: settings, which processes are one run, and the words for what is missing."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command import REPOSITORY

from mura.errors import ConfigError, MuraError
from mura.launch.jobs import Job, Outcome
from mura.launch.slurm.queue import Resources, minutes_of, require_slurm, run_jobs
from mura.launch.slurm.srun import check_tasks, task_arguments
from mura.launch.slurm.task import arguments_of


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), (90, 90), ("1:30:00", 90), ("2-12:00", 3600), ("1-00:00:00", 1440), ("soon", None), ("0", None)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(text: int | str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes


def test_the_tasks_of_a_run_share_a_folder_and_the_first_alone_writes_hydras_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert task_arguments(["data=wrist"]) == ["data=wrist"]
    for name, value in {"STEP_NUM_TASKS": "2", "JOB_ID": "17", "STEP_ID": "0", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert task_arguments(["data=wrist"]) == ["data=wrist", "hydra.run.dir='runs/slurm-17-0'"]
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert "hydra.output_subdir=null" in task_arguments(["hydra.run.dir=here"])


def test_tasks_and_devices_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="several machines need srun"):
        check_tasks(devices=4, nodes=2)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ConfigError, match="srun started 8 tasks"):
        check_tasks(devices=1, nodes=1)
    with pytest.raises(ConfigError, match="--ntasks-per-node=4"):
        check_tasks(devices=4, nodes=2)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    check_tasks(devices=4, nodes=2)


def test_a_job_that_slurm_starts_again_goes_on_with_its_run(tmp_path: Path) -> None:
    job = Job("wrist", ["data=wrist"], tmp_path)
    assert arguments_of(job) == ["data=wrist"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("[data=wrist]")
    (tmp_path / "config.yaml").write_text("seed: 0")
    assert arguments_of(job) == [f"resume={tmp_path}"]
    tests_too = [f"resume={tmp_path}", "test=true"]
    assert arguments_of(Job("wrist", tests_too, tmp_path)) == tests_too


def follow(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *looks: Callable[[], dict[str, tuple[str, str]]]
) -> tuple[list[str], list[Outcome]]:
    """Submit one job to a queue that answers as `looks` say; return what was told of it, and the outcomes."""
    answers = iter([dict, dict, *looks])  # SLURM is there; no job is queued yet
    monkeypatch.setattr("mura.launch.slurm.queue.read_queue", lambda: next(answers)())
    monkeypatch.setattr("mura.launch.slurm.queue._submit_array", lambda *_: ["7"])
    monkeypatch.setattr("time.sleep", lambda _: None)
    told: list[str] = []

    def tell(job: Job, outcome: Outcome | None) -> None:
        told.append(f"{job.name} {'begins' if outcome is None else outcome.exit_code}")

    job = Job("wrist", [], folder / "run")
    return told, run_jobs(Path("train.py"), [job], tell, resources=Resources(time=10), folder=folder / ".slurm")


def test_a_queue_that_does_not_answer_for_a_while_loses_no_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def busy() -> dict[str, tuple[str, str]]:
        raise MuraError("SLURM does not answer here (timeout); type this where sbatch works.")

    def ended() -> dict[str, tuple[str, str]]:
        (tmp_path / ".slurm/7_0_result.pkl").write_bytes(pickle.dumps(("success", 3)))
        return {}

    def at(state: str) -> Callable[[], dict[str, tuple[str, str]]]:
        return lambda: {"mura-1:N/A": ("7", state)}

    monkeypatch.setattr("mura.launch.slurm.queue.SECONDS_UNSEEN", 60)
    told, [outcome] = follow(monkeypatch, tmp_path, busy, at("PENDING"), at("RUNNING"), busy, at("COMPLETING"), ended)
    assert told == ["wrist begins", "wrist 3"]
    assert outcome.exit_code == 3


def test_a_job_that_left_no_result_has_failed_and_its_log_says_what_slurm_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho JobId=7 JobState=NODE_FAIL Reason=None\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("mura.launch.slurm.queue.SECONDS_UNSEEN", 0)
    told, _ = follow(monkeypatch, tmp_path, dict)
    assert told == ["wrist begins", "wrist 1"]
    log = (tmp_path / "run/console.log").read_text()
    assert log.startswith("SLURM ended job 7 before the run had ended (NODE_FAIL); SLURM's own log: ")


def test_without_submitit_the_sentence_says_how_to_install_it_from_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MuraError, match=r"pip install -e '\.\[slurm\]'"):
        require_slurm()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("launcher.time=soon", "launcher.time=soon: must be minutes"),
        ("launcher.cpus=0", "launcher.cpus=0: must be a whole number of at least 1"),
        ("launcher.setup=module", "launcher.setup=module: must be a list of lines"),
        ("launcher.workers=2", "launcher.workers: there is no such setting"),
        ("launcher=slrm", "did you mean slurm?"),
    ],
)
def test_faulty_resources_are_refused(
    setting: str, sentence: str, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    choice = [] if setting.startswith("launcher=") else ["launcher=slurm"]
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "sweep.py"), "models=[cnn2]", "name=study", f"studies_dir={tmp_path}",
         f"data.root={mura_root}", f"data.cache_dir={cache_dir}", *choice, setting],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
