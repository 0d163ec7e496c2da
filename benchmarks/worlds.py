"""Does the whole study find the right answer? Trained for real on synthetic worlds.

    python benchmarks/worlds.py [FOLDER] [--world NAME]
    python benchmarks/worlds.py --null-replicates 100

`common`: one faint sign of abnormality everywhere, and too few patients of each extremity to learn it from, so pooling
must help. `conflicting`: the same sign is abnormal in four extremities and normal in three, so specialising must help.
`separate`: each extremity has a sign of its own, so there is something to learn and nothing to gain. `null`: labels at
random, so nothing must be found. `shared`, the demo's world: signs that are abnormal everywhere, on whole limbs.
Whether pooling helps there is not known beforehand.
Five seeds; every run takes as many steps as the unified one, so that no arm wins by longer training. Started again on
the same folder it does only what is missing.

With `--null-replicates` instead: so many data sets of the world `null`, each with a pair of arms trained for a moment
by a plain loop, and how often the tests of AUROC find a difference.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mura.comparison.estimates import ALPHA
from mura.comparison.verdict import PRIMARY, compare
from mura.extremities import EXTREMITIES
from mura.metrics import OVERALL
from mura.models.augment import resize
from mura.models.backbones import build_network
from mura.report.words import p_value
from mura.synthetic.dataset import draw_study
from mura.synthetic.plan import plan_studies

REPOSITORY = Path(__file__).resolve().parent.parent
STUDY = ["experiment=demo", "seeds=[0,1,2,3,4]", "logger=none", "launcher.workers=2"]


@dataclass(frozen=True)
class World:
    """The true answer of a world, if it is known, and what it takes to learn it.

    That is the share of its 600 patients to test on, pixels as drawn and as trained on, and epochs.
    """

    answer: str | None
    valid_fraction: float = 0.3
    drawn: int = 48
    side: int = 32
    epochs: int = 8


WORLDS = {
    "common": World("unified better", valid_fraction=0.8, epochs=24),
    "conflicting": World("specialised better"),
    "separate": World("no difference shown"),
    "null": World("no difference shown"),
    "shared": World(None, drawn=96, side=64, epochs=20),
}
"""Close to the bone a sign shows in a small picture; in `shared` whole limbs are drawn, which takes a larger one."""

SIDE, PATIENTS, STEPS, BATCH, RESAMPLES = 32, 140, 40, 32, 1000
"""Of a replicate of `null`: pictures and patients (half of them to test on), training, and resampling."""


def verdicts(world: str, folder: Path) -> list[dict[str, Any]]:
    """Return the study-accuracy records of the study of one world, which is run where it isn't finished."""
    about, data = WORLDS[world], folder / "data" / world
    if not data.is_dir():
        drawn = ["--patients", "600", "--balanced", "--valid-fraction", str(about.valid_fraction)]
        drawn += ["--world", world, "--size", str(about.drawn)]
        subprocess.run([sys.executable, "-m", "mura.cli", "synth", str(data), *drawn], check=True)
    own = [
        f"data.image_size={about.side}",
        f"trainer.max_epochs={about.epochs}",
        f"name=world-{world}",
        f"studies_dir={folder}/studies",
        f"data.root={data}",
        f"data.cache_dir={folder}/cache",
    ]
    subprocess.run([sys.executable, str(REPOSITORY / "sweep.py"), *STUDY, *own], check=True, stdout=subprocess.DEVNULL)
    records = json.loads((folder / "studies" / f"world-{world}" / "comparison.json").read_text(encoding="utf-8"))
    return [r for r in records if (r["level"], r["metric"]) == PRIMARY]


def print_worlds(worlds: list[str], folder: Path) -> int:
    """Print the verdicts of these worlds; return 1 when one over all extremities is wrong."""
    wrong = []
    print("| world | extremity | unified | specialised | difference (95 %) | p (Holm) | verdict |")
    print("|---|---|---:|---:|---:|---:|---|")
    for world in worlds:
        for r in verdicts(world, folder):
            interval = f"{100 * r['difference']:+.1f} ({100 * r['low']:+.1f} to {100 * r['high']:+.1f})"
            print(
                f"| {world} | {r['extremity']} | {100 * r['a']:.1f} % | {100 * r['b']:.1f} % | {interval} "
                f"| {p_value(r['p_holm'])} | {r['verdict']} |",
                flush=True,
            )
            expected = WORLDS[world].answer
            if r["extremity"] == OVERALL and expected is not None and r["verdict"] != expected:
                wrong.append(f"{world}: {r['verdict']}, expected {expected}")
    print("\nSynthetic data, study accuracy, five seeds an arm. ", end="")
    print("WRONG: " + "; ".join(wrong) if wrong else "Where the answer is known, every verdict over all is right.")
    return 1 if wrong else 0


def draw_null(seed: int) -> tuple[pd.DataFrame, Tensor]:
    """Return the views of a data set of the world `null`, and their pictures, uint8 [N, 1, SIDE, SIDE]."""
    rows, pictures = [], []
    for study in plan_studies(PATIENTS, seed=seed, valid_fraction=0.5, balanced=True):
        for number, view in enumerate(draw_study(study, size=SIDE, seed=seed, world="null"), start=1):
            split = "train" if study.split == "train" else "test"
            path = f"{study.folder}/image{number}.png"
            rows.append((split, study.extremity, study.patient, study.number, number, path, study.label))
            height, width = view.pixels.shape
            pictures.append(np.pad(view.pixels, ((0, SIDE - height), (0, SIDE - width))))
    columns = ["split", "extremity", "patient", "study", "view", "path", "label"]
    return pd.DataFrame(rows, columns=columns), torch.from_numpy(np.stack(pictures))[:, None]


def train_briefly(pictures: Tensor, labels: Tensor) -> nn.Module:
    """Return the smallest network after STEPS steps of Adam on BATCH pictures drawn at random."""
    network = build_network("cnn2", head="cnn2", weights=None).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(STEPS):
        drawn = torch.randint(len(labels), (BATCH,))
        loss = binary_cross_entropy_with_logits(network(resize(pictures[drawn], SIDE)).flatten(), labels[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def null_p_values(seed: int) -> dict[tuple[str, str], float]:
    """Return p of AUROC by level and extremity, of one unified and seven specialised models of the world `null`."""
    torch.manual_seed(seed)
    views, pictures = draw_null(seed)
    labels = torch.tensor(views["label"].to_numpy(), dtype=torch.float32)
    tables = {}
    for arm, groups in {"unified": [EXTREMITIES], "specialised": [(name,) for name in EXTREMITIES]}.items():
        parts = []
        for names in groups:
            mine = views["extremity"].isin(names)
            seen, asked = (np.flatnonzero(mine & (views["split"] == split)) for split in ("train", "test"))
            network = train_briefly(pictures[seen], labels[seen])
            with torch.no_grad():
                logit = network(resize(pictures[asked], SIDE)).flatten()
            parts.append(views.iloc[asked].assign(logit=logit.numpy(), probability=logit.sigmoid().numpy()))
        tables[arm] = [pd.concat(parts)]
    records = compare(tables, "cnn2", RESAMPLES, seed)
    return {(r.level, r.extremity): r.p for r in records if r.metric == "auroc" and r.p is not None}


def binomial_interval(found: int, tests: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper & Pearson 1934)."""
    low = betaincinv(found, tests - found + 1, ALPHA / 2) if found else 0.0
    high = betaincinv(found + 1, tests - found, 1 - ALPHA / 2) if found < tests else 1.0
    return float(low), float(high)


def print_null(replicates: int) -> None:
    """Print how often p of AUROC was below 5 %, over all extremities and in the seven, none of it corrected."""
    torch.set_num_threads(1)
    tests: Counter[tuple[str, str]] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for seed in track(range(replicates), console=Console(stderr=True), transient=True):
        for (level, extremity), p in null_p_values(seed).items():
            row = level, OVERALL if extremity == OVERALL else "each of the seven"
            tests[row] += 1
            found[row] += p < ALPHA
    print("| level | extremity | tests | p < 5 % | share (95 %) |")
    print("|---|---|---:|---:|---:|")
    for (level, group), count in tests.items():
        low, high = binomial_interval(found[level, group], count)
        share = f"{100 * found[level, group] / count:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        print(f"| {level} | {group} | {count} | {found[level, group]} | {share} |")
    print(f"\nSynthetic data, the world null, {replicates} data sets, AUROC within extremities.")


def main() -> None:
    parser = argparse.ArgumentParser(description="The study on synthetic worlds whose answer is known.")
    parser.add_argument("folder", nargs="?", type=Path, help="what is finished there is not done again")
    parser.add_argument("--world", choices=list(WORLDS), action="append", help="this one alone (again for several)")
    parser.add_argument("--null-replicates", type=int, metavar="N", help="instead: N small data sets of the world null")
    arguments = parser.parse_args()
    if arguments.null_replicates is not None:
        print_null(arguments.null_replicates)
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="mura-worlds-"))
    sys.exit(print_worlds(arguments.world or list(WORLDS), folder.resolve()))


if __name__ == "__main__":
    main()
