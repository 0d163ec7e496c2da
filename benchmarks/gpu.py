"""Speed on any CUDA machine: a share of the fastest loop there is, and how long Kumar et al.'s table takes.

Refused without a GPU. Each function takes what it runs on, so that its test runs it on a CPU.
"""

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.data import noise
from benchmarks.measure import Plan, Row, by_turns, median_of, ratios, seconds_of_command
from benchmarks.ours import composed, training_rate
from benchmarks.peers import bare_training
from benchmarks.training import BATCH, CHANNELS, network
from mura.machine import choose_precision
from mura.training.speed import peak_memory_bytes

MURA_TRAINING_VIEWS = 36_808
KUMAR = {"cnn4": 20, "cnn15": 20, "resnet18": 20, "resnet50": 20, "densenet121": 20}
"""The models of Kumar et al.'s table and the most epochs that each is trained."""

GIB = 2**30


@dataclass(frozen=True)
class Bench:
    """What is measured on: `device` is PyTorch's word, `accelerator` Lightning's; steps are counted after `warm`."""

    device: str = "cuda"
    accelerator: str = "gpu"
    side: int = 224
    pictures: int = 8000
    steps: int = 100
    warm: int = 20
    models: tuple[str, ...] = ("resnet18", "densenet121")
    table: tuple[str, ...] = tuple(KUMAR)

    def settings(self, plan: Plan, model: str, *more: str) -> list[str]:
        return [
            f"model={model}", "model.weights=null", f"data.image_size={self.side}", f"data.batch_size={BATCH}",
            "trainer=auto", f"trainer.accelerator={self.accelerator}", f"data.root={noise(plan.folder, self.pictures)}",
            f"data.cache_dir={plan.folder / 'cache'}", *more,
        ]  # fmt: skip

    def rate(self, plan: Plan, model: str, *more: str) -> float:
        """Pictures a second of our training, in this process."""
        try:
            return training_rate(composed(*self.settings(plan, model, *more)), self.steps, self.warm)
        finally:
            torch.use_deterministic_algorithms(False)  # Lightning sets it for the whole process

    def rate_of_command(self, plan: Plan, model: str, *more: str) -> float:
        """Pictures a second of `train.py` in its second epoch, as it says itself: several processes need a command."""
        with tempfile.TemporaryDirectory() as folder:
            seconds_of_command(
                "train.py", *self.settings(plan, model, *more), "logger=none", "trainer.max_epochs=2",
                f"trainer.limit_train_batches={self.warm + self.steps}", "trainer.limit_val_batches=1",
                "trainer.limit_predict_batches=1", "early_stopping.patience=null", f"hydra.run.dir={folder}/run",
            )  # fmt: skip
            return float(
                json.loads(Path(folder, "run", "metrics.json").read_text())["speed"]["train_images_per_second"]
            )


GPU = Bench()


def needs_cuda() -> None:
    if not torch.cuda.is_available():
        sys.exit("python -m benchmarks --gpu: this machine has no CUDA GPU; without --gpu the others run.")


def compared(plan: Plan, what: str, against: str, ours: Callable[[], float], theirs: Callable[[], float],
             wanted: float | None) -> Row:  # fmt: skip
    """A row of two rates, measured by turns."""
    rates = by_turns(plan.rounds, ours, theirs)
    detail = ", ".join(median_of(each, "pictures/s", 0) for each in rates)
    return Row(what, against, ratios(*rates), wanted, detail=detail)


def training(plan: Plan, on: Bench = GPU) -> list[Row]:
    """Ours, plain and compiled, against a bare compiled loop on tensors in the device's memory."""
    precision = choose_precision("auto", on.accelerator).value
    rows = []
    for model in on.models:

        def bare(model: str = model) -> float:
            loop = torch.compile(network(model))
            return bare_training(loop, on.side, CHANNELS[model], BATCH, on.steps, on.warm, precision, on.device)  # type: ignore[arg-type]

        plain, compiled, theirs = by_turns(
            plan.rounds, partial(on.rate, plan, model), partial(on.rate, plan, model, "model.compile=true"), bare
        )
        for name, rates, wanted in (("as it is", plain, None), ("compiled", compiled, 0.95)):
            detail = f"{median_of(rates, 'pictures/s', 0)}, {median_of(theirs, 'pictures/s', 0)}"
            what = f"{model}, {name}, {precision}"
            rows.append(Row(what, "a bare compiled loop", ratios(rates, theirs), wanted, detail=detail))
    return rows


def resident(plan: Plan, on: Bench = GPU) -> list[Row]:
    """The pictures in the device's memory against pinned copies from the host."""
    kept, copied = (partial(on.rate, plan, on.models[0], f"data.resident={where}") for where in ("true", "false"))
    return [compared(plan, "pictures resident on the GPU", "copied from the host", kept, copied, 1)]


def precisions(plan: Plan, on: Bench = GPU) -> list[Row]:
    """Compare both half precisions with float32: pictures a second, and the peak of the device's memory."""
    rows = []
    for precision in ("16-mixed", "bf16-mixed"):
        peaks: dict[str, int] = {}

        def rate(name: str, peaks: dict[str, int] = peaks) -> float:
            device = torch.device(on.device)
            gc.collect()  # the loop before this one, whose parts point at each other
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found = on.rate(plan, on.models[0], f"trainer.precision={name}")
            peaks[name] = peak_memory_bytes(device)
            return found

        rows.append(
            compared(plan, f"{on.models[0]} in {precision}", "in float32", partial(rate, precision),
                     partial(rate, "32-true"), None)
        )  # fmt: skip
        detail = ", ".join(f"{peaks[name] / GIB:.2f} GiB" for name in (precision, "32-true"))
        share = peaks[precision] / peaks["32-true"]
        rows.append(Row(f"memory of {on.models[0]} in {precision}", "in float32", [share], None, True, detail))
    return rows


def deterministic(plan: Plan, on: Bench = GPU) -> list[Row]:
    """What it costs to have the same result to the bit."""
    rows = []
    for model in on.models:
        usual, same = partial(on.rate, plan, model), partial(on.rate, plan, model, "trainer.deterministic=true")
        rows.append(compared(plan, f"{model}, deterministic", "as it is", same, usual, None))
    return rows


def ddp(plan: Plan, on: Bench = GPU) -> list[Row]:
    """DDP on one card, and on two where there are two, against one process; the same global batch."""
    processes = (1, 2) if on.device == "cpu" or torch.cuda.device_count() > 1 else (1,)
    one = partial(on.rate_of_command, plan, on.models[-1])
    return [
        compared(
            plan, f"{on.models[-1]}, DDP, processes: {number}", "one process",
            partial(one, "trainer.strategy=ddp", f"trainer.devices={number}"), one, None,
        )
        for number in processes
    ]  # fmt: skip


def kumar_table(plan: Plan, on: Bench = GPU) -> list[Row]:
    """The time of Kumar et al.'s table at most (all epochs, no early stop), calculated from the measured rates."""
    began = time.perf_counter()
    rates = {model: on.rate(plan, model) for model in on.table}
    # the unified model, and the seven together
    hours = sum(2 * KUMAR[model] * MURA_TRAINING_VIEWS / rate / 3600 for model, rate in rates.items())
    detail = f"{hours:.1f} h calculated from rates measured in {time.perf_counter() - began:.0f} s; validation left out"
    what = f"Kumar et al.'s whole table ({8 * len(rates)} runs), hours at most"
    return [Row(what, "one hour", [hours], None, True, detail)]


BENCHMARKS: dict[str, Callable[..., list[Row]]] = {
    "kumar2024": kumar_table,
    "resident": resident,
    "precisions": precisions,
    "deterministic": deterministic,
    "ddp": ddp,
    "training": training,  # last: to compile takes minutes
}
