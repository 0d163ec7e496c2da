"""Where a step's time goes: python -m benchmarks.profile_step [MODEL] [SIDE] [--predict]

Steps of training, or of prediction, are first timed as they are, then profiled. What PyTorch's operators take of the
profiled ones is put together by kind; the rest is Python, Lightning and the gathering of pictures.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lightning import Callback
from torch.profiler import ProfilerActivity, profile

from benchmarks.data import noise
from benchmarks.ours import composed, trainer_of
from train import build

WARM = 3
KINDS = {
    "convolution": "convolutions",
    "batch_norm": "batch normalisation",
    "relu": "ReLU and pooling", "threshold": "ReLU and pooling", "clamp_min": "ReLU and pooling",
    "pool": "ReLU and pooling",
    "addmm": "linear layers", "aten::mm": "linear layers",
    "grid_sampler": "resizing and augmentation", "upsample": "resizing and augmentation",
    "optimizer": "the optimiser", "_foreach": "the optimiser", "sqrt": "the optimiser", "addcdiv": "the optimiser",
    "lerp": "the optimiser", "mul_": "the optimiser",
    "copy": "copies and casts", "aten::cat": "copies and casts",
}  # fmt: skip
"""The kind of an operator, by a part of its name; the first that fits counts."""

OTHER, REST = "other operators", "Python, Lightning, gathering"


class Watch(Callback):
    """Times `steps` steps after WARM ones, and profiles as many after these."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: list[float] = []
        self.faults: list[int] = []
        self.profiled = profile(activities=[ProfilerActivity.CPU])
        self.began = self.took = 0.0
        self._last = (0.0, 0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, n: int) -> None:
        self._end(n)

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, out: Any, batch: Any, n: int, loader: int = 0) -> None:
        if loader == 0:
            self._end(n)

    def _end(self, n: int) -> None:
        now, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if WARM <= n < WARM + self.steps:
            self.seconds.append(now - self._last[0])
            self.faults.append(faults - self._last[1])
        if n == WARM + self.steps - 1:
            self.profiled.start()
            self.began = time.perf_counter()
        if n == WARM + 2 * self.steps - 1:
            self.took = now - self.began
            self.profiled.stop()
        self._last = time.perf_counter(), faults

    def shares(self) -> dict[str, float]:
        """Return the share of the profiled time by kind of operator, the largest first, and of the REST last."""
        times: Counter[str] = Counter()
        for each in self.profiled.key_averages():
            kind = next((kind for part, kind in KINDS.items() if part in each.key.lower()), OTHER)
            times[kind] += each.self_cpu_time_total / 1e6
        shares = {kind: taken / self.took for kind, taken in times.most_common()}
        return shares | {REST: 1 - sum(shares.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="resnet18")
    parser.add_argument("side", nargs="?", type=int, default=224)
    parser.add_argument("--predict", action="store_true", help="prediction, not training")
    parser.add_argument("--steps", type=int, default=6, help="how many are timed, and how many profiled")
    asked = parser.parse_args()
    count = WARM + 2 * asked.steps
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cfg = composed(
            f"model={asked.model}", "model.weights=null", f"data.image_size={asked.side}", "data.batch_size=32",
            "trainer=cpu", "trainer.max_epochs=1", f"data.root={noise(folder, (200 if asked.predict else 50) * count)}",
            f"data.cache_dir={folder / 'cache'}", "trainer.limit_val_batches=1",
            f"++trainer.limit_{'predict' if asked.predict else 'train'}_batches={count}",
        )  # fmt: skip
        data, classifier = build(cfg)
        watch = Watch(asked.steps)
        trainer = trainer_of(cfg, folder, watch)
        (trainer.predict if asked.predict else trainer.fit)(classifier, data)
    what = "predicting with" if asked.predict else "training"
    median = f"{1000 * statistics.median(watch.seconds):.1f} ms, {statistics.median(watch.faults):.0f} page faults"
    print(f"{what} {asked.model} at {asked.side}, batch 32: median step {median}\n")
    print("\n".join(["| what | share of the time |", "|---|---:|"]))
    print("\n".join(f"| {kind} | {100 * share:.1f} % |" for kind, share in watch.shares().items()))


if __name__ == "__main__":
    main()
