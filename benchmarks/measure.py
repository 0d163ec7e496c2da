"""What a benchmark gives: a ratio, measured by turns against its peer, with its spread and what was wanted."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PROC = Path("/proc")
DISTURBED = 0.05
"""A round is disturbed when others took this share of the cores' time, or more."""


@dataclass(frozen=True)
class Row:
    """`ratios` are one a round; with `at_most` a small one is good (a share of time or memory), else a large one."""

    what: str
    against: str
    ratios: Sequence[float]
    wanted: float | None
    at_most: bool = False
    detail: str = ""

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool | None:
        """None where nothing is asked."""
        if self.wanted is None:
            return None
        return self.ratio <= self.wanted if self.at_most else self.ratio >= self.wanted


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds of A B A B, and whether the long benchmarks are short ones instead."""

    rounds: int
    quick: bool
    folder: Path


def by_turns(rounds: int, *contenders: Callable[[], float]) -> list[list[float]]:
    """What each contender returns (a rate or a time), round after round, so that all see the same machine."""
    seconds_of: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for values, contender in zip(seconds_of, contenders, strict=True):
            values.append(contender())
    return seconds_of


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """One a round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def seconds_of_command(*arguments: str, fails: bool = False) -> float:
    """Wall time of `python ARGUMENTS` in the repository; RuntimeError when it does not end as expected."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if (ended.returncode != 0) != fails:
        raise RuntimeError(f"{' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return taken


def median_of(values: Sequence[float], unit: str, digits: int = 1) -> str:
    """`12.3 pictures/s`."""
    return f"{statistics.median(values):,.{digits}f} {unit}"


def undisturbed_rounds(rounds: int, measure: Callable[[], Mapping[str, float]]) -> tuple[dict[str, list[float]], int]:
    """Return what `measure` gives in so many undisturbed rounds, by name, and how many disturbed ones were dropped.

    At most twice as many are made. If all of them were disturbed, they are what there is, and none is dropped.
    """
    quiet: list[Mapping[str, float]] = []
    disturbed: list[Mapping[str, float]] = []
    while len(quiet) < rounds and len(quiet) + len(disturbed) < 2 * rounds:
        began, before = time.perf_counter(), seconds_of_others()
        values = measure()
        share = (seconds_of_others() - before) / (time.perf_counter() - began) / (os.cpu_count() or 1)
        (disturbed if share >= DISTURBED else quiet).append(values)
    kept = quiet or disturbed
    return {name: [each[name] for each in kept] for name in kept[0]}, len(disturbed) if quiet else 0


def seconds_of_others() -> float:
    """Return the CPU time since the start of the machine that neither this process nor its children took.

    0 where there is no /proc/stat to tell. What a hypervisor took (steal) is the others'.
    """
    if not (PROC / "stat").is_file():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - sum(_own_seconds())


def _own_seconds() -> Iterator[float]:
    """Yield the CPU time of this process and of each process below it, of ended children too."""
    parent_of, ticks_of = {}, {}
    for file in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = file.read_text().rpartition(")")[2].split()
            pid = int(file.parent.name)
            parent_of[pid], ticks_of[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    for pid in ticks_of:
        line = pid
        while line != os.getpid() and line in parent_of:
            line = parent_of[line]
        if line == os.getpid():
            yield ticks_of[pid] / os.sysconf("SC_CLK_TCK")
