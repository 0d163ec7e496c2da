# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # mura in Python
#
# Everything here uses the five public names of `mura`, and Lightning. Run `make demo` first: it draws the synthetic
# radiographs and trains the study that this notebook looks at. For the real MURA, change `DATA`.

# %%
import json
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mura import AbnormalityClassifier, MuraDataModule, compare, load_model, read_index

DEMO = Path("../demo")
DATA = DEMO / "data"
STUDY = DEMO / "studies" / "demo"

# %% [markdown]
# ## The data: a row a view

# %%
index = read_index(DATA)
index.groupby(["split", "extremity"])["label"].agg(["size", "mean"]).unstack("split")

# %% [markdown]
# ## The study: what the two approaches' difference is
#
# The rows of `comparison.json`. Differences are unified minus specialised.

# %%
records = compare(STUDY)
main = records[(records["level"] == "study") & (records["metric"] == "accuracy")]
main[["extremity", "a", "b", "difference", "low", "high", "p_holm", "verdict"]].round(3)

# %% [markdown]
# ## A trained model, asked about pictures
#
# `load_model` takes a run folder, a checkpoint, a study with an arm, or a file of `mura export`. For research: not a
# medical device.

# %%
run = next(STUDY.glob("*/wrist/seed0"))
wrist = load_model(run)
studies = sorted(path.parent for path in DATA.rglob("valid/XR_WRIST/*/*/image1.png"))
wrist.predict(studies[:4])[["extremity", "probability", "study_probability", "study_is"]].round(3)

# %% [markdown]
# An arm of the study asks each picture's own model, and averages over the seeds.

# %%
load_model(STUDY, arm="specialised").predict(studies[:2])[["extremity", "probability", "study_is"]].round(3)

# %% [markdown]
# Do the probabilities mean what they say? Of each bin of the test views: what was said, and what was so.

# %%
calibration = json.loads((run / "checkpoints" / "calibration.json").read_text())
pd.DataFrame(calibration["reliability"]["test"]["before"]["curve"]).round(3)

# %% [markdown]
# ## Module and data module in a Lightning script of one's own

# %%
data = MuraDataModule(str(DATA), ["wrist"], image_size=64, cache_dir=str(DEMO / "cache"))
model = AbnormalityClassifier(
    name="cnn2", head="cnn2", image_size=64, optimizer=partial(torch.optim.AdamW, lr=1e-3), augmentation={"flip": 0.5}
)
best = ModelCheckpoint("lightning_example", filename="best", monitor="val_loss", enable_version_counter=False)
trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[best], enable_progress_bar=False)
trainer.fit(model, data)

# %%
[tested] = trainer.test(model, data, ckpt_path="best", weights_only=True, verbose=False)
{name: round(value, 3) for name, value in tested.items() if name.startswith("test/study/wrist/")}

# %% [markdown]
# Its checkpoint is a model like any other.

# %%
load_model(best.best_model_path).predict(studies[:2])[["extremity", "probability", "study_is"]].round(3)
