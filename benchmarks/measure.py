"""What a benchmark gives: a ratio, measured by turns against its peer, with its spread and what was wanted."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


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
