"""Everything that needs a CUDA card, in one go: make gpu-check

On one or two cards it takes less than ten minutes. It ends in a table of what held and what fell short, and in a JSON
to be pasted into docs/scaling.md. Without a card every step is read, its command lines are composed and checked, and
nothing is started: `no GPU here: stated only`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

STATED, HELD, FELL_SHORT, ONE_CARD = "no GPU here: stated only", "held", "fell short", "needs two cards: stated only"
OUT_OF_TIME = "out of time"
SMALL = ("model=cnn4", "data=wrist", "data.image_size=64", "trainer.max_epochs=2", "early_stopping.patience=null")
LONG = (*SMALL[:3], "trainer.max_epochs=100000", "early_stopping.patience=null")
SECONDS_A_COMMAND, SECONDS_TO_END = 120, 45
SECONDS_IN_ALL = 570


@dataclass(frozen=True)
class Ended:
    """How a command ended, what it printed, how long it took, and the folder of its run."""

    code: int
    said: str
    seconds: float
    run: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.run / "metrics.json").read_text())

    @property
    def predictions(self) -> str:
        return (self.run / "predictions.csv").read_text()


@dataclass
class Place:
    """Where the steps are carried out: with `cards`, or none, where commands are only read."""

    folder: Path
    cards: int
    faults: list[str] = field(default_factory=list)

    def holds(self, what: str, answer: Callable[[], bool]) -> None:
        """Note that something does not hold; nothing is asked where nothing was run."""
        if self.cards and not answer():
            self.faults.append(what)

    def train(self, *settings: str, run: Path | None = None, interfere: Callable[[Any, Path], None] | None = None,
              resume: Path | None = None, **environment: str) -> Ended:  # fmt: skip
        """Run `train.py`; `interfere` is called with the process and its folder while it runs."""
        folder = resume or run or Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        given = [f"resume={folder}"] if resume else [*self.common, *settings, f"hydra.run.dir={folder}"]
        if not self.cards:
            if not resume:
                compose_and_check(given)
            return Ended(0, "", 0.0, folder)
        began = time.monotonic()
        with (self.folder / f"said{time.monotonic_ns()}").open("w+") as said:
            process = subprocess.Popen(
                [sys.executable, "train.py", *given], cwd=REPOSITORY, stdout=said, stderr=subprocess.STDOUT,
                env=os.environ | environment, start_new_session=True,
            )  # fmt: skip
            try:
                if interfere is not None:
                    interfere(process, folder)
                    began = time.monotonic()
                code = process.wait(SECONDS_A_COMMAND)
            except subprocess.TimeoutExpired:
                code = 124
            with_all_its_own(process)
            said.seek(0)
            return Ended(code, said.read(), time.monotonic() - began, folder)

    @property
    def common(self) -> list[str]:
        return [f"data.root={self.folder / 'data'}", f"data.cache_dir={self.folder / 'cache'}", "logger=none"]


def with_all_its_own(process: subprocess.Popen[str]) -> None:
    """Kill what a command has left of its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def compose_and_check(settings: list[str]) -> None:
    """Compose a command line and check its settings, as train.py does before it starts."""
    from hydra import compose, initialize_config_dir

    from mura.config import CONF_DIR
    from mura.config.hydra_hooks import register_resolvers
    from mura.config.rules import check_values

    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        check_values(compose("train", [each for each in settings if not each.startswith("hydra.")]))


@contextmanager
def nearly_full(place: Place, card: int, left: float = 0.8) -> Any:
    """Take the memory of a card but for so many GiB."""
    import torch

    if not place.cards:
        yield
        return
    free, _ = torch.cuda.mem_get_info(card)
    taken = torch.empty(max(0, int(free - left * 2**30)), dtype=torch.uint8, device=f"cuda:{card}")
    yield
    del taken
    torch.cuda.empty_cache()


def wait_for_epoch(process: Any, folder: Path) -> None:
    """Wait until the run has saved an epoch."""
    deadline = time.monotonic() + SECONDS_A_COMMAND
    while not (folder / "checkpoints" / "last.ckpt").is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(0.2)


def sends(number: int) -> Callable[[Any, Path], None]:
    def interfere(process: Any, folder: Path) -> None:
        wait_for_epoch(process, folder)
        process.send_signal(number)

    return interfere


def kill_second(process: Any, folder: Path) -> None:
    """Kill the second process of the run."""
    wait_for_epoch(process, folder)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    for child in map(int, children.split()):
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes():
            os.kill(child, signal.SIGKILL)


# --- the steps: the number of cards that each needs -------------------------------------------------------


def every_card_computes(place: Place) -> None:
    from mura.machine import usable_gpus

    place.holds("every card that is counted computes", lambda: len(usable_gpus().usable) == place.cards)


def auto_takes_the_card(place: Place) -> None:
    import torch

    found = place.train(*SMALL)
    place.holds(f"exit code {found.code}: {found.said[-300:]}", lambda: found.code == 0)
    place.holds("metrics.json names the card", lambda: found.metrics["device"] == torch.cuda.get_device_name(0))
    place.holds("the peak of memory is the card's", lambda: found.metrics["speed"]["peak_memory_bytes"] > 2**20)


def a_step_does_not_wait(place: Place) -> None:
    import torch

    from mura.models.classifier import AbnormalityClassifier

    device = torch.device("cuda" if place.cards else "cpu")
    model = AbnormalityClassifier(
        name="cnn4", head="cnn4", image_size=64, loss={"balance": True}, class_weights=[[0.5, 0.5]] * 7
    ).to(device)
    batch: dict[str, Any] = {
        "image": torch.zeros(8, 1, 64, 64, dtype=torch.uint8), "label": torch.ones(8),
        "extremity": torch.zeros(8, dtype=torch.int64),
    }  # fmt: skip
    batch = {name: part.to(device) for name, part in batch.items()} | {"share": 1.0}
    type(model).global_step = property(lambda _: 1)  # type: ignore[assignment]  # at step 0 the loss is looked at
    model.training_step(batch, 0).backward()
    if place.cards:
        torch.cuda.set_sync_debug_mode("error")
        try:
            model.training_step(batch, 0).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def ddp(place: Place) -> None:
    devices = min(2, place.cards) or 2
    found = place.train(*SMALL, "trainer=ddp_2xt4", f"trainer.devices={devices}")
    place.holds(f"exit code {found.code}: {found.said[-300:]}", lambda: found.code == 0)
    place.holds("as many processes as cards", lambda: found.metrics["devices"] == devices)
    paths = [line.split(",")[:6] for line in found.predictions.splitlines()] if place.cards and not found.code else []
    place.holds("every view once", lambda: len({tuple(path) for path in paths}) == len(paths))


def synchronised_batch_normalisation(place: Place) -> None:
    found = place.train(*SMALL, "model.batch_norm=true", "trainer=ddp_2xt4", "trainer.sync_batchnorm=true")
    place.holds(f"exit code {found.code}: {found.said[-300:]}", lambda: found.code == 0)


def a_study_packed(place: Place) -> None:
    settings = [*place.common, *SMALL[2:], f"studies_dir={place.folder / 'studies'}", "name=packed"]
    command = ["sweep.py", "models=[cnn4]", "seeds=[0]", "extremities=[wrist,hand]", *settings]
    if not place.cards:
        compose_and_check([setting for setting in settings if not setting.startswith(("studies_dir", "name"))])
        return
    ended = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=2 * SECONDS_A_COMMAND
    )
    place.holds(f"exit code {ended.returncode}: {ended.stderr[-300:]}", lambda: ended.returncode == 0)
    runs = [json.loads(file.read_text()) for file in (place.folder / "studies").rglob("metrics.json")]
    place.holds("all runs on a card", lambda: len(runs) == 3 and all(run["device"] != "cpu" for run in runs))


def a_multirun_placed(place: Place) -> None:
    folder = place.folder / "multirun"
    settings = [*place.common, *(each for each in SMALL if each != "data=wrist")]
    if not place.cards:
        compose_and_check(settings)
        return
    subprocess.run(
        [sys.executable, "train.py", "-m", "data=wrist,hand", "hydra.launcher.workers=2", *settings,
         f"hydra.sweep.dir={folder}"],
        cwd=REPOSITORY, timeout=2 * SECONDS_A_COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    runs = [json.loads(file.read_text()) for file in folder.rglob("metrics.json")]
    place.holds("both runs on a card", lambda: len(runs) == 2 and all(run["device"] != "cpu" for run in runs))


def resumed_after_sigkill(place: Place) -> None:
    short = [each if not each.startswith("trainer.max_epochs") else "trainer.max_epochs=60" for each in LONG]
    killed = place.train(*short, interfere=sends(signal.SIGKILL))
    found = place.train(resume=killed.run)
    place.holds(f"exit code {found.code}: {found.said[-300:]}", lambda: found.code == 0)
    place.holds("all epochs, each once", lambda: len((found.run / "history.csv").read_text().splitlines()) == 61)


def out_of_memory(place: Place) -> None:
    with nearly_full(place, 0):
        found = place.train("model=densenet121", "model.weights=null", "data=unified", "data.batch_size=128")
    place.holds(f"code 1 and a sentence, not {found.code}: {found.said[-300:]}",
                lambda: found.code == 1 and "out of memory with data.batch_size=128" in found.said)  # fmt: skip
    place.holds("no traceback", lambda: "Traceback" not in found.said)


def one_process_out_of_memory(place: Place) -> None:
    with nearly_full(place, 1):
        found = place.train(
            "model=densenet121", "model.weights=null", "data=unified", "data.batch_size=256", "trainer=ddp_2xt4"
        )
    place.holds(f"ended by itself with a sentence, not {found.code}: {found.said[-300:]}",
                lambda: found.code == 1 and "out of memory with data.batch_size=256" in found.said)  # fmt: skip


def one_process_killed(place: Place) -> None:
    found = place.train(*LONG, "trainer=ddp_2xt4", interfere=kill_second)
    place.holds(f"exit code 1, not {found.code}: {found.said[-300:]}", lambda: found.code == 1)
    place.holds("the sentence", lambda: "another process of this run has ended" in found.said)
    place.holds(f"within seconds, not {found.seconds:.0f}", lambda: found.seconds < SECONDS_TO_END)


def stopped(place: Place) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        found = place.train(*LONG, "trainer=ddp_2xt4", interfere=sends(number))
        place.holds(f"exit code {code}, not {found.code}: {found.said[-300:]}", lambda f=found, c=code: f.code == c)  # type: ignore[misc]
        place.holds(f"within seconds, not {found.seconds:.0f}", lambda f=found: f.seconds < SECONDS_TO_END)  # type: ignore[misc]


def deterministic(place: Place) -> None:
    first, second = (place.train(*SMALL, "trainer.deterministic=true") for _ in range(2))
    place.holds(f"exit code {first.code}: {first.said[-300:]}", lambda: first.code == second.code == 0)
    place.holds("twice the same to the bit", lambda: first.predictions == second.predictions)


def used(place: Place) -> None:
    """`mura predict`, `explain` and `export` of a run that a card trained."""
    found = place.train(*SMALL, "model=resnet18", "model.weights=null")
    pictures, table = place.folder / "data" / "MURA-v1.1" / "valid" / "XR_WRIST", place.folder / "predicted.csv"
    if not place.cards:
        return
    place.holds(f"exit code {found.code}: {found.said[-300:]}", lambda: found.code == 0)
    for command in (
        ("predict", str(found.run), str(pictures), "--csv", str(table)),
        ("explain", str(found.run), str(pictures), "--out", str(place.folder / "explained")),
        ("export", str(found.run), str(place.folder / "wrist.safetensors")),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "mura.cli", *command], cwd=REPOSITORY, capture_output=True, text=True,
            timeout=SECONDS_A_COMMAND,
        )  # fmt: skip
        place.holds(f"{command[0]}: exit code {ended.returncode}: {ended.stderr[-300:]}",
                    lambda ended=ended: ended.returncode == 0)  # fmt: skip
    place.holds(f"predict answers as the run did, not {gap(found, table):.1e} apart", lambda: gap(found, table) < 1e-4)


def gap(found: Ended, table: Path) -> float:
    """Return the largest difference between a run's probabilities and those of `mura predict`, picture by picture."""
    from mura.runs.tables import read_table

    own = read_table(found.run / "predictions.csv", ("split", "path"), ("probability",)).query("split == 'test'")
    predicted = read_table(table, ("path",), ("probability",))
    in_order = [each.sort_values("path")["probability"].to_numpy() for each in (own, predicted)]
    return float(abs(in_order[0] - in_order[1]).max())


def refused(place: Place) -> None:
    pinned = place.train(*SMALL, CUDA_VISIBLE_DEVICES="99")
    place.holds(
        f"pinned to no card, not {pinned.code}", lambda: pinned.code == 2 and "there is no such GPU" in pinned.said
    )
    more = place.train(*SMALL, f"trainer.devices={place.cards + 1}", "trainer.strategy=ddp")
    place.holds(f"too many devices, not {more.code}", lambda: more.code == 2 and "CUDA GPU(s)" in more.said)


def compiled(place: Place) -> None:
    found = place.train(*SMALL, "model.compile=true")
    place.holds(f"exit code {found.code}: {found.said[-300:]}", lambda: found.code == 0)
    place.holds("no stall is reported", lambda: "Timeout (" not in found.said)


STEPS: dict[str, tuple[int, Callable[[Place], None]]] = {
    "every card computes": (1, every_card_computes),
    "trainer=auto": (1, auto_takes_the_card),
    "a step never waits for the device": (1, a_step_does_not_wait),
    "trainer=ddp_2xt4, or one card": (1, ddp),
    "batch normalisation over both cards": (2, synchronised_batch_normalisation),
    "a study packed on the cards": (1, a_study_packed),
    "a multirun placed on the cards": (1, a_multirun_placed),
    "resume after SIGKILL": (1, resumed_after_sigkill),
    "out of memory": (1, out_of_memory),
    "one process of two out of memory": (2, one_process_out_of_memory),
    "one process of two killed": (2, one_process_killed),
    "Ctrl-C and SIGTERM": (2, stopped),
    "deterministic": (1, deterministic),
    "predict, explain, export": (1, used),
    "refused: no such card, too many": (1, refused),
    "compiled": (1, compiled),
}


def carry_out(place: Place, needed: int, step: Callable[[Place], None]) -> tuple[str, str]:
    """Return what came of a step, and why it fell short."""
    at_hand, place.faults = place.cards, []
    if at_hand < needed:
        place.cards = 0
    try:
        step(place)
    except Exception as error:
        place.faults.append(f"{type(error).__name__}: {error}")
    finally:
        place.cards = at_hand
    if place.faults:
        return FELL_SHORT, "; ".join(" ".join(fault.split()) for fault in place.faults)
    return (HELD if at_hand >= needed else ONE_CARD if at_hand else STATED), ""


def benchmarks(place: Place, seconds: float) -> tuple[str, str]:
    """Return what came of `python -m benchmarks --gpu --quick` in the time that is left, and its last lines."""
    if not place.cards:
        from benchmarks import gpu

        return STATED, ", ".join(gpu.BENCHMARKS)
    command = [sys.executable, "-m", "benchmarks", "--gpu", "--quick"]
    try:
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=max(60.0, seconds))
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        return (
            OUT_OF_TIME,
            f"python -m benchmarks --gpu has the rest; in {late.timeout:.0f} s: {' '.join(said.split())}",
        )
    print(ended.stdout)
    return (HELD, "") if ended.returncode == 0 else (FELL_SHORT, ended.stderr[-500:])


def about() -> dict[str, Any]:
    """Return the cards and versions that the answers hang on."""
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"date": f"{date.today()}", "cards": names, "torch": torch.__version__, "cuda": torch.version.cuda}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--only", action="append", metavar="STEP", help="this step (again for several)")
    parser.add_argument("--no-benchmarks", action="store_true", help="leave out python -m benchmarks --gpu")
    given = parser.parse_args()
    import torch

    began, cards = time.monotonic(), torch.cuda.device_count()
    answers: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="mura-gpu-check-") as folder:
        place = Place(Path(folder), cards)
        if cards:
            synth = [sys.executable, "-m", "mura.cli", "synth", f"{folder}/data", "--patients", "200", "--size", "128"]
            subprocess.run(synth, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        for name, (needed, step) in STEPS.items():
            if not given.only or name in given.only:
                answers[name] = carry_out(place, needed, step)
                print(f"{name}: {': '.join(filter(None, answers[name]))}", flush=True)
        if not given.no_benchmarks:
            answers["benchmarks --gpu"] = benchmarks(place, SECONDS_IN_ALL - (time.monotonic() - began))
    print(f"\n| {'step':38} | held / fell short |\n|---|---|")
    for name, (answer, why) in answers.items():
        print(f"| {name:38} | {answer}{f': {why}' if why else ''} |")
    result = about() | {"seconds": round(time.monotonic() - began), "steps": answers}
    print(f"\n{json.dumps(result, indent=2)}")
    return 1 if any(answer == FELL_SHORT for answer, _ in answers.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
