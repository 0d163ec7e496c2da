"""Two runs on two cores: side by side, or one after the other with two processes each?

python -m benchmarks.packing [--epochs N] [--repeats N]

The same work both ways: the same model, data, batch size and epochs, once as two runs of one core at a time, once as
two runs one after the other, each with two processes (gloo) that share its batches. Prints seconds and their ratio.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.data import radiographs
from benchmarks.measure import by_turns, ratios, seconds_of_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root = radiographs(folder, 100, 96)

        def seconds(*more: str) -> float:
            """Return the seconds of a multirun of two runs, from the command to its end."""
            return seconds_of_command(
                "train.py", "-m", "model=resnet18", "seed=0,1", "data=unified", "logger=none", f"data.root={root}",
                f"data.cache_dir={folder / 'cache'}", "data.image_size=64", "early_stopping.patience=null",
                f"trainer.max_epochs={given.epochs}", "model.weights=null",
                f"hydra.sweep.dir={tempfile.mkdtemp(dir=folder)}", *more,
            )  # fmt: skip

        seconds("trainer=cpu", "trainer.max_epochs=1")  # builds the cache
        beside, shared = by_turns(
            given.repeats,
            lambda: seconds("trainer=cpu", "hydra.launcher.workers=2"),
            lambda: seconds("trainer=ddp_cpu", "hydra.launcher.workers=1"),
        )
    times = ratios(shared, beside)
    print("side by side:", *(f"{each:.1f}" for each in beside), "s; two processes each:",
          *(f"{each:.1f}" for each in shared), "s")  # fmt: skip
    print(f"two processes each / side by side: {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
