"""What a reader must know beside a verdict: finished runs in, one sentence a finding out."""

import math
from collections.abc import Sequence
from typing import Any

from mura.comparison.collect import FinishedRun
from mura.comparison.equivalence import in_points
from mura.comparison.pairs import ArmTable, Pair
from mura.metrics import THRESHOLD

STEPS_RATIO = 1.5
"""Two arms are trained unequally when one run's optimiser steps are more than so many times another's."""

LAST_PART = 0.1
"""The share of the epochs at the end of a run in which a best epoch means that the run was still improving."""

FEW_NAMES = 3


def warnings_beside(pair: Pair) -> list[str]:
    """Return what may have decided a verdict besides the approach, one sentence each; none where nothing did."""
    runs = _runs_of(pair)
    said = (
        describe_unequal_steps(pair), describe_late_best(runs), describe_first_best(runs), describe_same_answers(pair),
    )  # fmt: skip
    return [sentence for sentence in said if sentence is not None]


def _runs_of(pair: Pair) -> list[FinishedRun]:
    return [*pair.runs_of(pair.a), *pair.runs_of(pair.b)]


def describe_unequal_steps(pair: Pair) -> str | None:
    """Return that runs of one arm took more than STEPS_RATIO times the optimiser steps of the other arm's.

    A run is compared with those that answer for the same extremity, of the same seed where the arms share seeds. The
    steps of a fine-tuned run include those of the run that it starts from.
    """
    a, b = pair.runs_of(pair.a), pair.runs_of(pair.b)
    share_seeds = bool({run.seed for run in a} & {run.seed for run in b})
    unequal = [
        (one, other)
        for one in a
        for other in b
        if set(one.extremities) & set(other.extremities)
        and (one.seed == other.seed or not share_seeds)
        and _differ(one, other)
    ]
    if not unequal:
        return None
    ours, theirs = (list({run.folder.path: run for run in side}.values()) for side in zip(*unequal, strict=True))
    return (
        f"Optimiser steps differ more than {STEPS_RATIO} times between {_steps(ours, a, pair.a)} and "
        f"{_steps(theirs, b, pair.b)}: longer training alone may decide (budget=steps trains all runs equally long)."
    )


def _differ(a: FinishedRun, b: FinishedRun) -> bool:
    low, high = sorted((a.steps_in_all or 0, b.steps_in_all or 0))
    return low > 0 and high > STEPS_RATIO * low


def _steps(runs: Sequence[FinishedRun], arm_runs: Sequence[FinishedRun], arm: str) -> str:
    """Return `7 of 7 specialised runs (117 to 270)`."""
    steps = sorted(run.steps_in_all or 0 for run in runs)
    span = f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}"
    return f"{_count(len(runs), len(arm_runs), f'{arm} run')} ({span})"


def describe_late_best(runs: Sequence[FinishedRun]) -> str | None:
    """Return which runs ended at max_epochs with their best epoch in the last part: they were still improving."""
    late = [run for run in runs if run.metrics.get("stopped_by") == "max_epochs" and _was_best_late(run)]
    ended = f"{_named(late, runs)} ended at max_epochs with the best epoch among the last tenth"
    return f"{ended}: longer training may still help." if late else None


def _was_best_late(run: FinishedRun) -> bool:
    epochs = int(run.metrics["epochs"])
    return int(run.metrics["best_epoch"]) >= epochs - math.ceil(LAST_PART * epochs)


def describe_first_best(runs: Sequence[FinishedRun]) -> str | None:
    """Return which runs were best after their first epoch, of several."""
    first = [run for run in runs if int(run.metrics["best_epoch"]) == 0 and int(run.metrics["epochs"]) > 1]
    return f"{_named(first, runs)} had the best epoch first: hardly trained, and then only worse." if first else None


def describe_same_answers(pair: Pair) -> str | None:
    """Return for which extremities a model calls every test view alike, though there are views of both classes."""
    parts = []
    for arm, tables in pair.arms.items():
        for extremity in pair.extremities:
            answers = [answer for table in tables if (answer := _only_answer(table, extremity))]
            if answers:
                seeds = f", {len(answers)} of {len(tables)} seeds" if len(tables) > 1 else ""
                parts.append(f"{arm} on {extremity} ({' or '.join(sorted(set(answers)))}{seeds})")
    return (
        f"Every test view is called alike by {'; '.join(parts)}: by image, the kappa of such a model is 0."
        if parts
        else None
    )


def _only_answer(table: ArmTable, extremity: str) -> str | None:
    """Return what all views of an extremity are called; None where answers differ, or all views are of one class."""
    views = table.views_of([extremity])
    called = views["probability"] > THRESHOLD
    if views["label"].nunique() < 2 or called.nunique() > 1:
        return None
    return "abnormal" if called.iloc[0] else "normal"


def _named(some: Sequence[FinishedRun], runs: Sequence[FinishedRun]) -> str:
    """Return `2 of 8 runs (hand, seed 0; wrist, seed 1)`, with the names where they are few."""
    names = "; ".join(f"{run.folder.path.parent.name}, seed {run.seed}" for run in some)
    return _count(len(some), len(runs), "run") + (f" ({names})" if len(some) <= FEW_NAMES else "")


def _count(some: int, number: int, noun: str) -> str:
    return f"{some} of {number} {noun}{'s' if number > 1 else ''}"


def describe_changed_margin(pair: Pair, margin: float | None) -> str | None:
    """Return that the margin in use is not the one declared at the study's first start; None where nothing says so."""
    noted = _noted_otherwise(pair, "margin", margin)
    if margin is None or not noted:
        return None
    before = " or ".join(sorted({"none" if each is None else in_points(each) for each in noted}))
    return (
        f"The margin was changed after a look (at the first start {before}, now {in_points(margin)}): "
        "one that is chosen when results are known shows no equivalence."
    )


def describe_changed_primary(pair: Pair, primary: str | None) -> str | None:
    """Return that the primary model is not the one declared at the study's first start; None where nothing says so."""
    noted = _noted_otherwise(pair, "primary", primary)
    if not noted:
        return None
    before = " or ".join(sorted({each or "none" for each in noted}))
    return f"The primary model was changed after a look (at the first start {before}, now {primary})."


def _noted_otherwise(pair: Pair, key: str, used: Any) -> list[Any]:
    """Return what the runs' studies noted under a key, where it is not what is used for them all."""
    noted = [run.noted[key] for run in _runs_of(pair) if key in run.noted]
    return [] if used is None or all(each == used for each in noted) else noted


def describe_extension(pair: Pair) -> str | None:
    """Return that a study was extended by seeds after its first start; None where nothing says so.

    Whoever looks at 2, 3, 5 and 10 seeds, and stops when an arm is better, errs in 12 % of studies instead of 5 %.
    """
    runs = _runs_of(pair)
    planned = {seed for run in runs for seed in run.planned_seeds or [run.seed]}
    used = {run.seed for run in runs}
    if used <= planned:
        return None
    return (
        f"Planned with {len(planned)} {'seed' if len(planned) == 1 else 'seeds'}, extended to {len(planned | used)} "
        "after a look: stopping when a difference shows finds false ones more often than in 5 % of studies."
    )
