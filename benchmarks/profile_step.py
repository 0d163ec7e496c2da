"""Where a training step's time goes: python -m benchmarks.profile_step [MODEL] [SIDE]"""

import sys
import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.data import noise
from benchmarks.ours import composed, trainer_of
from train import build


def main() -> None:
    model, side = (sys.argv[1:] + ["resnet18", "224"][len(sys.argv) - 1 :])[:2]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cfg = composed(
            f"model={model}", "model.weights=null", f"data.image_size={side}", "trainer=cpu", "trainer.max_epochs=1",
            "trainer.limit_train_batches=6", "trainer.limit_val_batches=1", f"data.root={noise(folder, 700)}",
            f"data.cache_dir={folder / 'cache'}",
        )  # fmt: skip
        data, classifier = build(cfg)
        trainer = trainer_of(cfg, folder)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            trainer.fit(classifier, data)
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=44))


if __name__ == "__main__":
    main()
