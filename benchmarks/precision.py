"""Does speed cost science? The same runs in float32 and in bfloat16, over five seeds: a table of the test AUROC.

python -m benchmarks.precision [--epochs N]

On a CPU without bfloat16 instructions they are emulated: the same numbers, ten times as slow (about 15 minutes).
"""

import argparse
import statistics
import tempfile
import warnings
from pathlib import Path

from benchmarks.data import radiographs
from benchmarks.ours import composed, trainer_of
from mura.metrics import summarise
from mura.runs.folder import RunFolder
from mura.training.prediction import chosen_checkpoints, predict_views
from train import build

SEEDS = range(5)


def test_auroc(folder: Path, seed: int, precision: str, epochs: int) -> float:
    """Return the AUROC by image, over all extremities, of the demo's network on synthetic radiographs."""
    from lightning import seed_everything

    root = radiographs(folder, 300, 96)
    cfg = composed(
        "experiment=demo", f"data.root={root}", f"data.cache_dir={folder / 'cache'}", f"seed={seed}",
        f"trainer.precision={precision}", f"trainer.max_epochs={epochs}", "early_stopping.patience=null",
    )  # fmt: skip
    seed_everything(seed, workers=True, verbose=False)
    data, model = build(cfg)
    with tempfile.TemporaryDirectory() as run:
        trainer = trainer_of(cfg, Path(run))
        trainer.fit(model, data)
        predictions = predict_views(trainer, data, chosen_checkpoints(trainer, RunFolder(Path(run))))
    value = summarise(predictions.of_role("test"))["image"]["all"]["auroc"]
    assert value is not None
    return float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    plain, fast = [], []
    print("| seed | float32 | bfloat16 |\n|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            for values, precision in ((plain, "32-true"), (fast, "bf16-mixed")):
                values.append(test_auroc(Path(folder), seed, precision, given.epochs))
            print(f"| {seed} | {plain[-1]:.3f} | {fast[-1]:.3f} |", flush=True)
    change, spread = statistics.mean(fast) - statistics.mean(plain), statistics.stdev(plain)
    print(f"\nMean change {change:+.4f}; standard deviation between seeds in float32 {spread:.4f}.")


if __name__ == "__main__":
    main()
