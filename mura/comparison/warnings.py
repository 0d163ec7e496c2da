"""What a reader must know beside a verdict: finished runs in, one sentence a finding out."""

from mura.comparison.pairs import Pair


def describe_extension(pair: Pair) -> str | None:
    """Return that a study was extended by seeds after its first start; None where nothing says so.

    Whoever looks at 2, 3, 5 and 10 seeds, and stops when an arm is better, errs in 12 % of studies instead of 5 %.
    """
    runs = [run for tables in pair.arms.values() for table in tables for run in table.runs]
    planned = {seed for run in runs for seed in run.planned_seeds or [run.seed]}
    used = {run.seed for run in runs}
    if used <= planned:
        return None
    return (
        f"Planned with {len(planned)} {'seed' if len(planned) == 1 else 'seeds'}, extended to {len(planned | used)} "
        "after a look: stopping when a difference shows finds false ones more often than in 5 % of studies."
    )
