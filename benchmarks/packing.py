"""Two runs on two cores: side by side, or one after the other with two processes each?

python -m benchmarks.packing [--epochs N] [--repeats N]

The same work both ways: the same model, data, batch size and epochs, once as two runs of one core at a time, once as
two runs one after the other, each with two processes (gloo) that share its batches. Prints seconds and their ratio.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def seconds(folder: Path, data: Path, epochs: int, *more: str) -> float:
    """Of a multirun of two runs, from the command to its end."""
    command = [
        sys.executable, str(ROOT / "train.py"), "-m", "model=resnet18", "seed=0,1", "data=unified", "logger=none",
        f"data.root={data}", f"data.cache_dir={data / 'cache'}", "data.image_size=64", "early_stopping.patience=null",
        f"trainer.max_epochs={epochs}", "model.weights=null", f"hydra.sweep.dir={folder}", *more,
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    ways = {
        "side by side": ("trainer=cpu", "hydra.launcher.workers=2"),
        "two processes each": ("trainer=ddp_cpu", "hydra.launcher.workers=1"),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        subprocess.run([sys.executable, "-m", "mura.cli", "synth", str(data), "--patients", "100", "--size", "96"],
                       check=True, capture_output=True)  # fmt: skip
        seconds(Path(temporary) / "warm", data, 1, "trainer=cpu")  # builds the cache
        for repeat in range(given.repeats):
            for way, settings in ways.items():
                folder = Path(temporary) / f"{way.replace(' ', '-')}-{repeat}"
                found[way].append(seconds(folder, data, given.epochs, *settings))
    median = {way: statistics.median(each) for way, each in found.items()}
    ratio = median["two processes each"] / median["side by side"]
    print(json.dumps({"seconds": found, "median": median, "two processes / side by side": round(ratio, 2)}, indent=2))


if __name__ == "__main__":
    main()
