"""W&B, the real one: how it is chosen, and what happens to a run when it fails."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from offline import records

from mura.launch.jobs import Job, run_jobs
from mura.tracking.logger import roc_points

pytestmark = pytest.mark.slow  # each starts processes of W&B's

KEY = "a" * 40
CLOSED = "http://127.0.0.1:9"

# in processes of their own: W&B remembers its settings
SURROUNDINGS = """
import logging, os, sys
from pathlib import Path
for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_SERVICE"):  # the last is another test's process
    os.environ.pop(name, None)
os.environ["HOME"] = str(Path("home").resolve())
os.environ.update(pair.split("=", 1) for pair in sys.argv[1:])
logging.basicConfig(level=logging.INFO, format="%(message)s")
from mura.tracking import logger as tracking, wandb_run
"""
CHOOSE = "print(*wandb_run.choose_mode(), sep='; ')"
START = """
def start(folder, name="cnn2-wrist-seed0", group="study"):
    Path(folder).mkdir(exist_ok=True)
    tags, place = ["cnn2", "wrist", "specialised"], str(Path(folder).resolve())
    return tracking.wandb_logger(place, tags, project="mura", name=name, group=group)
"""
RESULTS = """
import pandas as pd
values = {"n": 2, "accuracy": 0.5, "kappa": 0.25, "auroc": None}
metrics = {"val": {"image": {"all": values}}, "test": {"image": {"all": values}, "study": {"wrist": values}},
           "best_epoch": 1, "best_value": 0.5, "epochs": 3, "speed": {"wall_seconds": 1.5}}
predictions = pd.DataFrame({"split": ["val", "test", "test"], "extremity": "wrist", "label": [1, 0, 0],
                            "probability": [0.5, 0.25, 0.75]})
"""

Script = Callable[..., str]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Runs Python text in an empty home, without login, with the environment variables given as NAME=value."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()

    def run(text: str, *variables: str) -> str:
        file = tmp_path / "script.py"
        file.write_text(SURROUNDINGS + text)
        job = Job("script", list(variables), tmp_path / f"console{len(list(tmp_path.glob('console*')))}")
        [outcome] = run_jobs(file, [job], lambda *_: None, captured=True)
        said = job.log.read_text()
        assert outcome.exit_code == 0, said
        return said

    return run


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """Knows no key."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"errors": [{"message": "invalid key"}]}')

        do_GET = do_POST  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def offline_runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def read_back(file: Path) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--summary", "--json", str(file)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# --- online or offline ------------------------------------------------------------------------------------


def test_without_a_login_it_is_offline_and_the_reason_says_how_to_get_one(script: Script) -> None:
    assert script(CHOOSE) == "offline; no login: `wandb login` once, or WANDB_API_KEY\n"


def test_with_a_key_but_no_network_it_is_offline(script: Script) -> None:
    found = script(CHOOSE, f"WANDB_API_KEY={KEY}", f"WANDB_BASE_URL={CLOSED}")
    assert found == "offline; the W&B server can't be reached\n"


def test_with_a_key_and_a_server_it_is_online(script: Script, silent_server: str) -> None:
    found = script(CHOOSE, f"WANDB_API_KEY={KEY}", f"WANDB_BASE_URL={silent_server}")
    assert found == "online; logged in\n"


def test_a_login_made_earlier_counts_as_a_key(script: Script, silent_server: str, tmp_path: Path) -> None:
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine {silent_server.removeprefix('http://')}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    assert script(CHOOSE, f"WANDB_BASE_URL={silent_server}") == "online; logged in\n"


def test_a_malformed_key_is_no_login(script: Script) -> None:
    assert script(CHOOSE, "WANDB_API_KEY=short").startswith("offline; no login")


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_mode_is_respected(mode: str, script: Script) -> None:
    assert script(CHOOSE, f"WANDB_MODE={mode}", f"WANDB_API_KEY={KEY}") == f"{mode}; WANDB_MODE says so\n"


def test_online_is_respected_only_with_a_login_because_else_it_would_ask(script: Script) -> None:
    with_key = script(CHOOSE, "WANDB_MODE=online", f"WANDB_API_KEY={KEY}", f"WANDB_BASE_URL={CLOSED}")
    assert with_key == "online; WANDB_MODE says so\n"
    assert script(CHOOSE, "WANDB_MODE=online").startswith("offline; no login")


# --- a run of its own for each run folder -----------------------------------------------------------------


def test_a_run_folder_has_one_id_and_another_folder_another(script: Script) -> None:
    each = "for folder in ('a', 'a', 'b'):\n    one = start(folder); print('id', one.experiment.id)\n    {}"
    said = script(START + each.format("tracking.finish([one], 0)"), "WANDB_MODE=offline")
    first, again, other = (line.split()[1] for line in said.splitlines() if line.startswith("id "))
    assert first == again
    assert first != other


def test_only_the_first_process_of_a_distributed_run_has_a_logger(script: Script, tmp_path: Path) -> None:
    assert script(START + "print(start('a'))", "WANDB_MODE=offline", "LOCAL_RANK=1") == "False\n"
    assert offline_runs(tmp_path / "a") == []


def test_what_is_undefined_is_logged_as_undefined_and_one_class_has_no_roc(script: Script, tmp_path: Path) -> None:
    log = "logger = start('a')\ntracking.log_results([logger], metrics, predictions, Path('no-curves.png'))\n"
    said = script(START + RESULTS + log + "tracking.finish([logger], 0)", "WANDB_MODE=offline")
    assert "failed" not in said
    [file] = offline_runs(tmp_path / "a")
    summary = read_back(file)["summary"]
    assert summary["val/image/all/accuracy"] == 0.5
    assert summary["test/image/all/accuracy"] == 0.5
    assert summary["test/study/wrist/kappa"] == 0.25
    assert summary.get("test/study/wrist/auroc") is None
    assert (summary["best_epoch"], summary["speed/wall_seconds"]) == (1, 1.5)
    assert summary["predictions"]["nrows"] == 3
    assert not {"curves", "roc", "roc_table"} & set(summary)


def test_each_extremity_has_a_roc_curve_of_its_own_and_none_is_pooled() -> None:
    test = pd.DataFrame({
        "extremity": ["elbow"] * 4 + ["hand"] * 2 + ["wrist"] * 2, "label": [0, 1, 0, 1, 1, 1, 0, 1],
        "probability": [0.1, 0.9, 0.6, 0.4, 0.2, 0.3, 0.7, 0.2],
    })  # fmt: skip
    points = roc_points(test)
    assert set(points["class"]) == {"elbow", "wrist"}  # the hand has one class
    areas = {name: np.trapezoid(part["tpr"], part["fpr"]) for name, part in points.groupby("class")}
    assert areas == pytest.approx({"elbow": 0.75, "wrist": 0.0})
    assert roc_points(test[test["extremity"] == "hand"]).empty


def test_two_people_with_the_same_paths_have_runs_of_their_own(script: Script, tmp_path: Path) -> None:
    said = ""
    for person in ("one", "two"):
        said += script(START + "logger = start('a'); print('id', logger.experiment.id)\ntracking.finish([logger], 0)",
                       "WANDB_MODE=offline")  # fmt: skip
        (tmp_path / "a").rename(tmp_path / person)  # and what was in the folder is gone
    mine, theirs = (line.split()[1] for line in said.splitlines() if line.startswith("id "))
    assert mine != theirs


def test_the_environment_names_the_run_as_in_any_program_of_wandbs(script: Script, tmp_path: Path) -> None:
    log = "logger = start('a'); print('id', logger.experiment.id)\ntracking.finish([logger], 0)"
    said = script(START + log, "WANDB_MODE=dryrun", "WANDB_RUN_ID=mine1", "WANDB_TAGS=a,b", "WANDB_NOTES=why",
                  "WANDB_ENTITY=team")  # fmt: skip
    assert "id mine1\n" in said
    [about] = records(tmp_path / "a", "run")
    assert (about["run_id"], about["notes"], about["entity"]) == ("mine1", "why", "team")
    assert about["tags"] == ["cnn2", "wrist", "specialised", "a", "b"]
    again = script(START + log, "WANDB_MODE=offline", "WANDB_RUN_ID=other")
    assert "id mine1\n" in again  # what the folder notes is its run


def test_in_a_sweep_of_wandbs_the_run_is_the_agents(script: Script, tmp_path: Path) -> None:
    log = "logger = start('a'); print('id', logger.experiment.id)\ntracking.finish([logger], 0)"
    agent = ("WANDB_SWEEP_ID=sweep1", "WANDB_RUN_ID=agents", "WANDB_PROJECT=searched", "WANDB_ENTITY=team")
    assert "id agents\n" in script(START + log, "WANDB_MODE=offline", *agent)
    [about] = records(tmp_path / "a", "run")
    assert (about["run_id"], about["project"], about["sweep_id"]) == ("agents", "searched", "sweep1")


@pytest.mark.parametrize("word", ["true", "1"])
def test_wandb_disabled_is_respected(word: str, script: Script) -> None:
    assert script(CHOOSE, f"WANDB_DISABLED={word}", f"WANDB_API_KEY={KEY}") == "disabled; WANDB_DISABLED says so\n"


# --- failures ---------------------------------------------------------------------------------------------


def test_a_key_that_the_server_refuses_gives_an_offline_run_in_the_same_process(
    script: Script, refusing_server: str, tmp_path: Path
) -> None:
    log = "logger = start('a')\nlogger.log_metrics({'epoch': 0, 'val_loss': 0.5})\ntracking.finish([logger], 0)"
    said = script(START + log, f"WANDB_API_KEY={KEY}", f"WANDB_BASE_URL={refusing_server}")
    assert "W&B online failed: " in said
    assert f"W&B: offline (instead); later: wandb sync {tmp_path}/a/wandb/offline-run-*" in said
    assert KEY not in said
    [file] = offline_runs(tmp_path / "a")
    assert read_back(file)["summary"]["val_loss"] == 0.5


def test_wandb_dying_in_the_middle_is_said_once_and_costs_nothing_else(script: Script) -> None:
    log = """
import signal, subprocess, time
logger = start("a")
heard = []
listener = logging.Handler()
listener.emit = lambda record: heard.append(record.getMessage())
logging.getLogger().addHandler(listener)
ps = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())]  # as wide as it takes, whatever COLUMNS says
lines = subprocess.run(ps, capture_output=True, text=True).stdout.splitlines()
[core] = [int(line.split()[0]) for line in lines if "wandb-core" in line]
os.kill(core, signal.SIGKILL)
os.waitpid(core, 0)  # on a busy machine it takes its time to die
logger.log_hyperparams({"seed": 0})
for epoch in range(150):  # W&B may notice late
    logger.log_metrics({"epoch": epoch, "val_loss": 0.5})
    time.sleep(0.2)
    if any("failed" in each for each in heard):
        break
logger.log_metrics({"epoch": epoch + 1, "val_loss": 0.5})
tracking.log_results([logger], metrics, predictions, Path("no-curves.png"))
tracking.finish([logger], 0)
print("the run went on")
"""
    said = script(START + RESULTS + log, "WANDB_MODE=offline")
    assert "the run went on" in said
    assert said.count("W&B: logging an epoch failed") + said.count("W&B: logging the config failed") == 1
    assert "Traceback" not in said


def test_when_even_offline_fails_there_is_no_logger_and_one_line_says_so(script: Script, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "wandb").write_text("in the way")
    said = script(START + "print(start('a'))", "WANDB_MODE=offline")
    assert f"W&B: not used; everything is in {tmp_path / 'a'}" in said
    assert said.endswith("False\n")
    assert "Traceback" not in said
