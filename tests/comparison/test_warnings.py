"""What stands beside a verdict: in which cases, and in which words."""

from run_folders import write_study

from mura.comparison.collect import collect
from mura.comparison.pairs import make_arm_tables, make_pairs
from mura.comparison.warnings import describe_extension
from mura.study.plan import note_planned_seeds


def pair_of(folder):
    [pair], _ = make_pairs(make_arm_tables(collect([folder])[0]))
    return pair


def test_a_study_extended_by_seeds_says_so(tmp_path):
    write_study(tmp_path / "study", seeds=(0, 1, 2), patients=8)
    assert describe_extension(pair_of(tmp_path)) is None
    note_planned_seeds(tmp_path / "study", [0, 1, 2])
    write_study(tmp_path / "study", seeds=(3, 4), patients=8)
    assert describe_extension(pair_of(tmp_path)).startswith("Planned with 3 seeds, extended to 5 after a look: ")


def test_runs_of_no_study_and_seeds_that_were_planned_say_nothing(tmp_path):
    write_study(tmp_path / "study", seeds=(0,), patients=8)
    assert describe_extension(pair_of(tmp_path)) is None
    note_planned_seeds(tmp_path / "study", [0, 1, 2])
    assert describe_extension(pair_of(tmp_path)) is None
