# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A study on Kaggle's two T4s
#
# Kumar et al. (2024) trained on 2 x T4, which Kaggle lends too. This notebook trains one run on both cards, then a
# study with a run on each card. A session ends after 12 hours; the next one goes on where it stopped.
#
# Before you start, see `docs/kaggle.md`: attach MURA as an input, choose the accelerator *GPU T4 x2*, and switch the
# internet on for the installation.
#
# Anywhere else than on Kaggle, this notebook tries the same commands on a few synthetic pictures, with a tiny network.

# %%
import shutil
import subprocess
from pathlib import Path

from IPython.display import Markdown

REPOSITORY = ""  # the address from which you clone this repository
MODEL = "densenet121"
STUDY = "mine"
HOURS = 11.5  # then the study is told to end, and saves what it has

INPUTS = Path("/kaggle/input")
ON_KAGGLE = INPUTS.is_dir()
WORK = Path("/kaggle/working") if ON_KAGGLE else Path("kaggle_trial").resolve()
WORK.mkdir(exist_ok=True)


def run(command: str, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command in WORK, showing what it prints; raise an error for an exit code that is not among `codes`."""
    print("$", command)
    done = subprocess.run(command, shell=True, cwd=WORK)
    if done.returncode not in codes:
        raise RuntimeError(f"{command}: exit code {done.returncode}")


# %% [markdown]
# ## Install
#
# Without `constraints.txt`: Kaggle's own PyTorch fits its driver, and stays.

# %%
if ON_KAGGLE:
    run(f"git clone --depth 1 {REPOSITORY} /kaggle/temp/mura")
    run("pip install --quiet -e /kaggle/temp/mura")

# %% [markdown]
# ## Find the data
#
# Kaggle mounts inputs read-only, somewhere below `/kaggle/input`, with other times at each session. So the cache is
# told to trust names and sizes (`data.trust_cache=true`), and comes from an earlier session's output if there is one.

# %%
trial = "trainer.max_epochs=1 data.image_size=32"
if ON_KAGGLE:
    root, one_run, one_study = next(INPUTS.rglob("train_image_paths.csv")).parent, "trainer=ddp_2xt4", ""
else:
    root, MODEL, HOURS = WORK / "MURA-v1.1", "cnn2", 0.5
    one_run = f"trainer=ddp_cpu {trial}"
    one_study = f"{trial} trainer=cpu 'seeds=[0]' 'extremities=[wrist,hand]' launcher.workers=1"
    if not root.is_dir():
        run("mura synth . --patients 60 --size 64 --balanced")

cache = next(iter(sorted(INPUTS.glob("*/cache"))), WORK / "cache")
data = f"data.root={root} data.cache_dir={cache} data.trust_cache=true"
run(f"mura check {root}", codes=(0, 1))  # 1: it names a fault of the copy, which may be harmless

# %% [markdown]
# ## One run on both cards

# %%
run(f"mura train model={MODEL} data=wrist {one_run} {data}")

# %% [markdown]
# ## A study, a run on each card
#
# What an earlier session left, attached as an input, is copied first: the study then trains only the missing runs. When
# the time is up, the runs save and end. *Save Version* keeps `/kaggle/working` as the notebook's output.

# %%
for earlier in sorted(INPUTS.glob(f"*/studies/{STUDY}")):
    shutil.copytree(earlier, WORK / "studies" / STUDY, dirs_exist_ok=True)

limit = f"timeout --signal=TERM {int(3600 * HOURS)}"
run(f"{limit} mura sweep 'models=[{MODEL}]' name={STUDY} {one_study} {data}", codes=(0, 124))  # 124: the time is up

# %% [markdown]
# ## What it says
#
# The whole report is `studies/<name>/index.html`; here is its Markdown.

# %%
results = WORK / "studies" / STUDY / "results.md"
Markdown(results.read_text() if results.is_file() else "No run has finished yet: go on in the next session.")
