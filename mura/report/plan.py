"""The plan of a study for the console: what more seeds would show, where they stop to help, and what they cost."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mura.comparison.estimates import ALPHA, POWER
from mura.comparison.planning import MOST_SEEDS, SEEDS_SHOWN, GroupPlan, PairPlan, Spread, StudyPlan, spread_factors
from mura.comparison.summary import SYNTHETIC

MEANING = (
    f"Power {100 * POWER:.0f} %, two-sided. All extremities together: α = {100 * ALPHA:.0f} %; a single one: that over "
    "their number (Holm's first and strictest step). Error: the standard error of the pilot's difference, from its "
    "runs and from the patients of the test set. More seeds shrink the former and never pass the floor, which the "
    "latter sets. Hours: all runs of both arms, one after the other."
)
A_LOOK = (
    "This pilot has been looked at: run the main study afresh (another name= and seeds of its own), or declare the "
    "look where you report it."
)


def plan_table(plan: StudyPlan, target: float | None) -> RenderableType:
    """Return the table and the words of each pair of arms; `target` is in points of study accuracy."""
    parts: list[RenderableType] = [Text(SYNTHETIC, "yellow")] if plan.synthetic else []
    for pair_plan in plan.pairs:
        parts += [_pair_table(pair_plan, target), *map(Text, _pair_words(pair_plan, target)), Text()]
    parts += [Text(f"Note: {note}", "dim") for note in plan.notes]
    return Group(*parts, Text(MEANING), Text(A_LOOK))


def _pair_table(plan: PairPlan, target: float | None) -> Table:
    pair = plan.pair
    title = f"{pair.model}, {pair.a} / {pair.b}: smallest difference shown, in points"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(title))
    table.add_column("seeds:\n", overflow="fold")
    for name in (*(f"{n}\n" for n in SEEDS_SHOWN), "floor\n", "error:\nruns", "\npatients"):
        table.add_column(name, justify="right")
    if target is not None:
        table.add_column(f"seeds for\n{_points(target)}", justify="right")
    for group in plan.groups:
        if group is plan.groups[-1]:
            table.add_section()
        table.add_row(*map(Text, _row(group, plan.seeds, target)))
    if plan.seconds is not None:
        table.add_row("hours", *(_hours(n * plan.seconds) for n in SEEDS_SHOWN))
    return table


def _row(group: GroupPlan, pilot: int, target: float | None) -> list[str]:
    if group.why_not is not None:
        return [group.extremity, *["–"] * (len(SEEDS_SHOWN) + 3 + (target is not None))]
    figures = [group.smallest(n) for n in SEEDS_SHOWN]
    errors = (group.parts.error_of_runs(pilot), group.parts.error_of_patients)
    row = [group.extremity, *(_percent(each) for each in (*figures, group.floor, *errors))]
    return row if target is None else [*row, _seeds(group, target)]


def _pair_words(plan: PairPlan, target: float | None) -> Iterator[str]:
    """Yield how sure the figures are, why there are none, and whether the target can be reached."""
    all_together = plan.groups[-1]
    spreads = "; ".join(f"{each.name} {_deviation(each)}" for each in plan.spreads)
    low, high = spread_factors(plan.seeds)
    yield (
        f"Standard deviation between runs over {all_together.extremity}, in points (95 % interval): {spreads}. "
        f"{plan.seeds} seeds leave it uncertain by a factor of {low:.1f} to {high:.1f}, and the figures with it."
    )
    yield from (f"{group.extremity}: no figure, since {group.why_not}." for group in plan.groups if group.why_not)
    if target is not None and all_together.why_not is None:
        yield f"For {_points(target)}, {all_together.extremity} takes {_seeds_in_words(all_together, target)}."


def _deviation(spread: Spread) -> str:
    """Return `1.2 (0.6 to 7.5)`."""
    return f"{_percent(spread.deviation)} ({_percent(spread.low)} to {_percent(spread.high)})"


def _seeds(group: GroupPlan, target: float) -> str:
    needed = group.seeds_for(target / 100)
    if needed is not None:
        return str(needed)
    return "never" if group.floor >= target / 100 else f"over {MOST_SEEDS}"


def _seeds_in_words(group: GroupPlan, target: float) -> str:
    needed = group.seeds_for(target / 100)
    if needed is not None:
        return f"{needed} seeds an arm"
    if group.floor < target / 100:
        return f"more than {MOST_SEEDS} seeds an arm"
    return f"more patients: no number of seeds passes the floor of {_percent(group.floor)}"


def _points(target: float) -> str:
    return f"{target:g} {'point' if target == 1 else 'points'}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours < 99.95 else f"{hours:.0f}"
