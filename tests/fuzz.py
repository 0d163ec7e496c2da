"""Mutated inputs by the thousand: what comes of each is a result that is right, or one sentence.

    python tests/fuzz.py --seed 0 --minutes 15

Kinds are pictures, MURA folders with their lists, run folders, checkpoints, settings, whole short trainings and full
disks. Cases are drawn from the seed. One that fails is printed with as few edits as still fail, and with the command
that tries it again. Each case may write below its own folder only, start no process and open no connection.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

os.environ.update(WANDB_MODE="offline", OMP_NUM_THREADS="1")

from fuzzing.cases import Kind, draw_case, failure_of, shrunk
from fuzzing.checkpoints import Checkpoints
from fuzzing.disks import Disks
from fuzzing.pictures import Pictures
from fuzzing.runs import Runs
from fuzzing.settings import Settings, Trainings
from fuzzing.trees import Trees

KINDS: dict[str, tuple[type, int]] = {
    "pictures": (Pictures, 24), "trees": (Trees, 12), "runs": (Runs, 8), "checkpoints": (Checkpoints, 8),
    "settings": (Settings, 10), "trainings": (Trainings, 2), "disks": (Disks, 4),
}  # fmt: skip
"""Each kind, and how many of its cases are tried in a round."""

MEMORY = 2**30
"""Bytes by which a process may grow in a thousand cases."""


class Found(NamedTuple):
    """How many cases ended in which way, and a text for each failure."""

    counts: Counter[str]
    failures: list[str]


def try_out(kinds: list[str], seed: int, first: int, step: int, minutes: float) -> Found:
    """Try every `step`-th round of cases, from the `first`, until the time is up."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mura-fuzz-") as above:
        made = {name: made_kind(name, Path(above).resolve()) for name in kinds}
        number, end = first, time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            for name, kind in made.items():
                often = KINDS[name][1]
                for case in range(number * often, (number + 1) * often):
                    counts[f"{name}"] += 1
                    if failure := try_one(kind, name, seed, case):
                        failures.append(failure)
            number += step
    return Found(counts, failures)


def made_kind(name: str, above: Path) -> Kind:
    (above / name).mkdir()
    return KINDS[name][0](above / name)


def try_one(kind: Kind, name: str, seed: int, number: int) -> str | None:
    """Return what is printed of a case that fails, made smaller; None when it does not fail."""
    case = draw_case(kind, name, seed, number)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failure = failure_of(kind, case)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if failure is None and grown > MEMORY:
        failure = f"takes {grown:,} bytes of memory"
    if failure is None:
        return None
    small = shrunk(kind, case)
    text = f"{name} {number}: {failure_of(kind, small) or failure}\n  {str(small)[:2000]}"
    text += f"\n  again: python tests/fuzz.py --kinds {name} --seed {seed} --case {number}"
    print(text, flush=True)
    return text


def try_again(name: str, seed: int, number: int) -> int:
    """Try one case, and print its traceback if it fails."""
    with tempfile.TemporaryDirectory(prefix="mura-fuzz-") as above:
        kind = made_kind(name, Path(above).resolve())
        case = draw_case(kind, name, seed, number)
        print(case)
        try:
            print(kind.attempt(case))
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15, help="how long new cases are begun")
    parser.add_argument("--seed", type=int, default=0, help="other cases")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is tried")
    parser.add_argument("--case", type=int, help="try only the case of this number, of one kind")
    given = parser.parse_args()
    if given.case is not None:
        return try_again(given.kinds[0], given.seed, given.case)
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        parts = [(given.kinds, given.seed, worker, given.workers, given.minutes) for worker in range(given.workers)]
        found = pool.starmap(try_out, parts, chunksize=1)
    counts = sum((part.counts for part in found), Counter())
    failures = [failure for part in found for failure in part.failures]
    kinds = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    print(f"{counts.total():,} cases ({kinds}) in {time.monotonic() - began:.0f} s: {len(failures)} failed")
    return min(1, len(failures))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
