"""Does speed cost science? The same runs in plain float32 and with the fast settings, over five seeds."""

import statistics
import tempfile
from pathlib import Path

from benchmarks.data import radiographs
from benchmarks.measure import Plan, Row
from benchmarks.ours import composed, parts, trainer_of
from mura.metrics import summarise
from mura.runs import RunFolder
from mura.training import chosen_checkpoints, predict

SEEDS = range(5)


def test_auroc(plan: Plan, seed: int, precision: str) -> float:
    """By image, over all extremities, of the demo's network on synthetic radiographs."""
    from lightning import seed_everything

    root = radiographs(plan.folder, 300, 96)
    cfg = composed(
        "experiment=demo", f"data.root={root}", f"data.cache_dir={plan.folder / 'cache'}", f"seed={seed}",
        f"trainer.precision={precision}", "trainer.max_epochs=4", "early_stopping.patience=null",
    )  # fmt: skip
    seed_everything(seed, workers=True, verbose=False)
    data, model = parts(cfg)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(cfg, Path(folder))
        trainer.fit(model, data)
        views = predict(trainer, data, chosen_checkpoints(trainer, RunFolder(Path(folder))))
    value = summarise(views[views["split"] == "test"])["image"]["all"]["auroc"]
    assert value is not None
    return float(value)


def precision(plan: Plan) -> list[Row]:
    """Each seed in float32 and in bfloat16 (emulated on a CPU without the instructions: slow, the same numbers)."""
    plain = [test_auroc(plan, seed, "32-true") for seed in SEEDS]
    fast = [test_auroc(plan, seed, "bf16-mixed") for seed in SEEDS]
    change, spread = statistics.mean(fast) - statistics.mean(plain), statistics.stdev(plain)
    detail = (
        f"AUROC by seed, synthetic data: float32 {' '.join(f'{v:.3f}' for v in plain)}; bfloat16 "
        f"{' '.join(f'{v:.3f}' for v in fast)}; mean change {change:+.4f}, deviation between seeds {spread:.4f}"
    )
    row = Row(
        "test AUROC with bfloat16 and channels-last (cnn4 at 64), mean change", "deviation between seeds in float32",
        [abs(change) / spread], 1, at_most=True, detail=detail,
    )  # fmt: skip
    return [row]
