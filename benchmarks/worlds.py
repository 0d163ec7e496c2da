"""Does the whole study find the right answer? Trained for real on the three synthetic worlds whose answer is known.

    python benchmarks/worlds.py [FOLDER]

`shared`: one sign of abnormality everywhere, so pooling must help. `conflicting`: the same sign is abnormal in four
extremities and normal in three, so specialising must help. `null`: labels at random, so nothing must be found.
Three seeds; every run takes as many steps as the unified one, so that no arm wins by longer training. About half an
hour on 2 cores; started again on the same folder it does only what is missing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mura.comparison.verdict import PRIMARY
from mura.metrics import OVERALL
from mura.report.words import p_value

REPOSITORY = Path(__file__).resolve().parent.parent
EXPECTED = {
    "shared": "unified better",
    "conflicting": "specialised better",
    "null": "no difference shown",
}
DATA = ["--patients", "600", "--size", "96", "--balanced", "--valid-fraction", "0.3"]
STUDY = ["experiment=demo", "seeds=[0,1,2]", "trainer.max_epochs=20", "logger=none", "launcher.workers=2"]


def verdicts(world: str, folder: Path) -> list[dict[str, Any]]:
    """Return the study-accuracy records of the study of one world, which is run where it isn't finished."""
    data = folder / "data" / world
    if not data.is_dir():
        subprocess.run([sys.executable, "-m", "mura.cli", "synth", str(data), "--world", world, *DATA], check=True)
    where = [
        f"name=world-{world}",
        f"studies_dir={folder}/studies",
        f"data.root={data}",
        f"data.cache_dir={folder}/cache",
    ]
    subprocess.run(
        [sys.executable, str(REPOSITORY / "sweep.py"), *STUDY, *where], check=True, stdout=subprocess.DEVNULL
    )
    records = json.loads((folder / "studies" / f"world-{world}" / "comparison.json").read_text(encoding="utf-8"))
    return [r for r in records if (r["level"], r["metric"]) == PRIMARY]


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mura-worlds-")).resolve()
    wrong = []
    print("| world | extremity | unified | specialised | difference (95 %) | p (Holm) | verdict |")
    print("|---|---|---:|---:|---:|---:|---|")
    for world, expected in EXPECTED.items():
        for r in verdicts(world, folder):
            interval = f"{100 * r['difference']:+.1f} ({100 * r['low']:+.1f} to {100 * r['high']:+.1f})"
            print(
                f"| {world} | {r['extremity']} | {100 * r['a']:.1f} % | {100 * r['b']:.1f} % | {interval} "
                f"| {p_value(r['p_holm'])} | {r['verdict']} |"
            )
            if r["extremity"] == OVERALL and r["verdict"] != expected:
                wrong.append(f"{world}: {r['verdict']}, expected {expected}")
    print("\nSynthetic data, study accuracy, three seeds an arm. ", end="")
    print("WRONG: " + "; ".join(wrong) if wrong else "All three verdicts over all extremities are right.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
