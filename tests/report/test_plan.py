"""The plan as it is printed: readable at 80 columns, with what the figures rest on."""

import io

import pytest
from rich.console import Console
from run_folders import write_study

from mura.comparison.planning import plan_study
from mura.report.plan import plan_table


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return plan_study(write_study(tmp_path_factory.mktemp("pilot"), seeds=(0, 1, 2), patients=16), 300)


def printed(plan, target=None):
    console = Console(width=80, file=io.StringIO())
    console.print(plan_table(plan, target))
    return console.file.getvalue()


def one_line(text):
    return " ".join(text.split())


def test_the_plan_fits_a_console_of_80_columns_without_a_cut_word(plan):
    for target in (None, 4.0):
        lines = printed(plan, target).splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)
        rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
        assert [len(rows[name]) for name in ("humerus", "all", "hours")] == [8 + (target is not None)] * 2 + [5]


def test_a_row_has_the_figures_of_the_plan_in_points(plan):
    [line] = [line for line in printed(plan).splitlines() if line.startswith(" all")]
    group = plan.pairs[0].groups[-1]
    figures = [*map(group.smallest, (2, 3, 5, 8, 10)), group.floor]
    errors = [group.parts.error_of_runs(3), group.parts.error_of_patients]
    assert line.split()[1:] == [f"{100 * each:.1f}" for each in (*figures, *errors)]


def test_the_plan_says_what_its_figures_rest_on(plan):
    said = one_line(printed(plan))
    assert "Power 80 %, two-sided. All extremities together: α = 5 %; a single one: that over their number" in said
    assert "3 seeds leave it uncertain by a factor of 0.5 to 6.3" in said
    assert "run the main study afresh (another name= and seeds of its own), or declare the look" in said


def test_a_target_is_answered_for_all_and_in_each_row(plan):
    group = plan.pairs[0].groups[-1]
    assert f"For 9 points, all takes {group.seeds_for(0.09)} seeds an arm." in one_line(printed(plan, 9.0))
    below = 100 * group.floor / 2
    never = f"all takes more patients: no number of seeds passes the floor of {100 * group.floor:.1f}"
    if below:
        assert never in one_line(printed(plan, below))
        [line] = [line for line in printed(plan, below).splitlines() if line.startswith(" all")]
        assert line.split()[-1] == "never"
