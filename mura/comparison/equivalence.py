"""Equivalence: is the difference within a margin that was declared beforehand? Records in, records with an answer out.

Two one-sided tests at 5 % (Schuirmann 1987): the arms are equivalent when the 90 % interval lies within the margin.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from mura.comparison.verdict import NO_DIFFERENCE, PRIMARY, Comparison
from mura.errors import ConfigError
from mura.metrics import OVERALL


def check_margin(margin: object) -> None:
    """Raise ConfigError unless the margin is None or a difference in accuracy between 0 and 1."""
    if margin is not None and not (isinstance(margin, float) and 0 < margin < 1):
        raise ConfigError(f"margin={margin}: must be a difference in accuracy between 0 and 1, such as 0.03.")


def in_points(margin: float) -> str:
    """Return a margin in words: `3 points`."""
    return f"{100 * margin:g} {'point' if margin == 0.01 else 'points'}"


def apply_margin(records: Iterable[Comparison], margin: float | None, first: str | None = None) -> list[Comparison]:
    """Return the records as `compare_cases` gives them, with what a margin says of accuracy; without one, as they are.

    Where no difference is shown over all extremities, the answer is the verdict. `first` is the name of the first arm,
    where it may hold a hyphen, as a model's may. ConfigError for a bad margin.
    """
    check_margin(margin)
    return [_judge(record, margin, first) if record.metric == PRIMARY[1] and margin else record for record in records]


def _judge(record: Comparison, margin: float, first: str | None) -> Comparison:
    answer = equivalence(record, margin, first)
    decides = answer is not None and record.extremity == OVERALL and record.verdict == NO_DIFFERENCE
    return replace(record, margin=margin, equivalence=answer, verdict=str(answer) if decides else record.verdict)


def equivalence(record: Comparison, margin: float, first: str | None = None) -> str | None:
    """Return what the 90 % interval says of a margin: for all extremities the answer, for one only what it can't tell.

    None where it says nothing: also where an arm always gives the same answer, so that its interval means little.
    """
    low, high = record.low_90, record.high_90
    if low is None or high is None or record.why_not_detectable is not None:
        return None
    points = in_points(margin)
    if record.extremity != OVERALL:
        return f"test set too small for a margin of {points}" if (high - low) / 2 > margin else None
    if -margin < low and high < margin:
        return f"equivalent within {points}"
    first = first or re.split(r"-(?![^(]*\))", record.comparison)[0]  # union(without-wrist) is one arm
    return f"{first} not worse by {points}" if low > -margin and record.verdict != f"{first} better" else None
