"""What other numbers of seeds would show: in agreement with the verdict, against values by hand, with its limits."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from run_folders import write_run, write_study
from scipy import stats

from mura.comparison.collect import collect
from mura.comparison.estimates import Estimate
from mura.comparison.pairs import make_arm_tables, make_pairs
from mura.comparison.planning import (
    GroupPlan,
    Parts,
    check_target,
    plan_pair,
    plan_study,
    seconds_a_seed,
    split_variance,
    spread_factors,
)
from mura.comparison.summary import compare_pairs
from mura.errors import ConfigError, MuraError
from mura.runs.folder import RunFolder


def pairs_of(folder):
    return {pair.name: pair for pair in make_pairs(make_arm_tables(collect([folder])[0]))[0]}


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """Three seeds of a study, and of its unified runs trained on with the wrist."""
    study = write_study(tmp_path_factory.mktemp("pilot"), seeds=(0, 1, 2), patients=16)
    for seed in (0, 1, 2):
        tuned = write_run(study / f"cnn4/finetuned-wrist/seed{seed}", ["wrist"], seed, arm="finetuned", patients=16)
        weights = RunFolder(study / f"cnn4/unified/seed{seed}").best_checkpoint
        (tuned / "config.yaml").write_text(yaml.safe_dump({"model": {"weights": str(weights)}}))
    return study


def group_plan(floor=0.0004, own=0.0006, between=(0.0003, 0.0005), tests=1):
    estimate = Estimate(0.8, 0.7, 0.1, 0.0, 0.2, 0.05, 0.03, 5.0)
    return GroupPlan("all", estimate, tests, Parts(floor, own, between, between, 500), None)


def test_the_variance_is_split_as_by_hand():
    draws = [np.array([[0.0, 2.0], [2.0, 6.0]]), np.zeros((2, 2))]
    parts = split_variance([np.array([0.80, 0.82]), np.array([0.70, 0.74])], draws, 50)
    # the first arm's runs have the covariance 2.0 and the mean the variance 2.25
    assert (parts.floor, parts.patients_of_runs) == pytest.approx((2.0, 0.5))
    assert parts.between == pytest.approx((0.0002, 0.0008))


def test_the_error_for_a_number_of_seeds_is_the_verdict_s_as_by_hand():
    error, degrees = group_plan().parts.error(4)
    parts = np.array([0.0004 + 0.0006 / 4, 0.0003 / 4, 0.0005 / 4])
    assert error == pytest.approx(parts.sum() ** 0.5)
    assert degrees == pytest.approx(parts.sum() ** 2 / (parts**2 / [499, 3, 3]).sum())
    quantiles = stats.t.ppf([1 - 0.05 / 7 / 2, 0.80], degrees)
    assert group_plan(tests=7).smallest(4) == pytest.approx(quantiles.sum() * error)


@pytest.mark.parametrize("name", ["unified-specialised", "unified-finetuned"])
def test_for_the_seeds_of_the_pilot_the_plan_is_what_the_verdict_calls_detectable(pilot, name):
    pair = pairs_of(pilot)[name]
    compared, plan = compare_pairs([pair], [], 500)[0], plan_pair(pair, 500)
    assert [group.extremity for group in plan.groups] == pair.groups
    for group in plan.groups:
        expected = compared.record(group.extremity, "study", "accuracy").smallest_detectable
        assert group.smallest(3) == pytest.approx(expected, rel=1e-9)
    assert plan.seeds == 3


def test_a_pilot_of_rotated_folds_is_planned_by_seed_as_its_verdict_is(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path / f"unified/seed{seed}", ["elbow"], seed, arm="unified", fold=seed)
        write_run(tmp_path / f"elbow/seed{seed}", ["elbow"], seed, fold=seed)
    [pair] = pairs_of(tmp_path).values()
    compared, plan = compare_pairs([pair], [], 500)[0], plan_pair(pair, 500)
    expected = compared.record("elbow", "study", "accuracy").smallest_detectable
    assert plan.groups[0].smallest(3) == pytest.approx(expected, rel=1e-9)
    assert [spread.name for spread in plan.spreads] == ["unified minus specialised"]


def test_two_seeds_of_paired_arms_are_planned_as_independent_as_their_verdict_takes_them(pilot):
    pair = pairs_of(pilot)["unified-finetuned"]
    of_two = {arm: tables[:2] for arm, tables in pair.arms.items()}
    compared, plan = compare_pairs([replace(pair, arms=of_two)], [], 500)[0], plan_pair(replace(pair, arms=of_two), 500)
    expected = compared.record("wrist", "study", "accuracy").smallest_detectable
    assert plan.groups[0].smallest(2) == pytest.approx(expected, rel=1e-9)
    [group] = [each for each in plan_pair(pair, 500).groups if each.extremity == "wrist"]
    parts = group.parts
    assert len(parts.between) == 1
    assert parts.error(2)[0] == pytest.approx(
        (parts.floor + parts.patients_of_runs / 2 + sum(parts.of_arms) / 2) ** 0.5
    )


def test_more_seeds_show_smaller_differences_down_to_the_floor(pilot):
    for group in plan_pair(pairs_of(pilot)["unified-specialised"], 500).groups:
        figures = [group.smallest(n) for n in (2, 3, 5, 8, 10, 100)]
        assert figures == sorted(figures, reverse=True)
        assert min(figures) >= group.floor
    group = group_plan()
    assert group.smallest(10**9) == pytest.approx(group.floor, rel=1e-6)
    assert group.floor == pytest.approx(stats.t.ppf([0.975, 0.8], 499).sum() * 0.02)


def test_a_pilot_foresees_what_more_seeds_will_show():
    rng = np.random.default_rng(5)
    shared, resamples = rng.normal(0, 0.01, (2, 4000)), 4000

    def arms(seeds):
        draws = [0.8 + shared[arm] + rng.normal(0, 0.012, (seeds, resamples)) for arm in (0, 1)]
        return [rng.normal(0.8, 0.02, seeds) for _ in range(2)], draws

    seen = split_variance(*arms(10), 500).error(10)[0]
    foreseen = [split_variance(*arms(3), 500).error(10)[0] for _ in range(60)]
    assert np.sqrt(np.mean(np.square(foreseen))) == pytest.approx(seen, rel=0.2)


def test_the_seeds_for_a_target_are_the_least_that_show_it():
    group = group_plan()
    needed = group.seeds_for(0.08)
    assert group.smallest(needed) <= 0.08 < group.smallest(needed - 1)
    assert group_plan(floor=0.0, own=0.0).seeds_for(0.9) == 2


def test_below_the_floor_no_number_of_seeds_shows_a_difference():
    group = group_plan()
    assert group.seeds_for(group.floor) is None
    assert group.seeds_for(group.floor * 1.0001) is None  # more than the most that are tried
    assert group.seeds_for(group.floor * 1.05) > 10


def test_without_a_patients_part_the_floor_is_zero():
    assert group_plan(floor=-0.0001).floor == 0.0
    assert group_plan(floor=-0.0001, own=0.0001, between=(0.0, 0.0)).smallest(2) is None


@pytest.mark.parametrize(("runs", "expected"), [(3, (0.52, 6.28)), (10, (0.69, 1.83))])
def test_few_runs_leave_their_spread_uncertain(runs, expected):
    assert spread_factors(runs) == pytest.approx(expected, abs=0.01)
    quantiles = stats.chi2.ppf([0.975, 0.025], runs - 1)
    assert spread_factors(runs) == pytest.approx(np.sqrt((runs - 1) / quantiles))


def test_the_spread_is_that_of_the_arms_or_of_their_differences_where_they_share_a_start(pilot):
    pairs = pairs_of(pilot)
    plan = plan_pair(pairs["unified-specialised"], 100)
    assert [spread.name for spread in plan.spreads] == ["unified", "specialised"]
    for spread, tables in zip(plan.spreads, pairs["unified-specialised"].arms.values(), strict=True):
        accuracies = [((t.studies["probability"] > 0.5) == t.studies["label"]).mean() for t in tables]
        assert spread.deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert [s.name for s in plan_pair(pairs["unified-finetuned"], 100).spreads] == ["unified minus finetuned"]


def test_the_cost_of_a_seed_is_all_of_its_runs_with_those_that_they_start_from(pilot):
    pairs = pairs_of(pilot)
    assert seconds_a_seed(pairs["unified-specialised"]) == pytest.approx(8 * 13.1)
    assert seconds_a_seed(pairs["unified-finetuned"]) == pytest.approx(2 * 13.1)
    assert seconds_a_seed(pairs["specialised-finetuned"]) == pytest.approx(3 * 13.1)


def test_runs_that_counted_no_time_have_no_cost(tmp_path):
    write_study(tmp_path, patients=8, speed=None)
    assert seconds_a_seed(pairs_of(tmp_path)["unified-specialised"]) is None


def test_one_seed_is_refused_with_the_reason(tmp_path):
    write_study(tmp_path, patients=8)
    with pytest.raises(MuraError, match=r"with one seed the spread between training runs is unknown; .* two seeds"):
        plan_study(tmp_path, 50)


def test_a_model_with_one_seed_is_noted_beside_one_that_can_be_planned(tmp_path):
    write_study(tmp_path, seeds=(0, 1), patients=8)
    write_study(tmp_path, models=("cnn2",), patients=8)
    plan = plan_study(tmp_path, 50)
    assert [each.pair.model for each in plan.pairs] == ["cnn4"]
    assert plan.notes[0].startswith("cnn2, unified and specialised: with one seed")


def test_an_arm_that_always_answers_alike_has_a_reason_instead_of_figures(tmp_path):
    write_study(tmp_path, seeds=(0, 1), patients=8)
    for seed in (0, 1):
        file = tmp_path / f"cnn4/hand/seed{seed}/predictions.csv"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], *(f"{line.rpartition(',')[0]},0.9" for line in lines[1:])]))
    plan = plan_pair(pairs_of(tmp_path)["unified-specialised"], 100)
    reasons = {group.extremity: group.why_not for group in plan.groups}
    assert reasons.pop("hand") == "specialised always gives the same answer"
    assert set(reasons.values()) == {None}


@pytest.mark.parametrize("target", [0.0, -4.0, 100.0, float("nan")])
def test_a_target_that_is_no_difference_in_points_is_refused(target):
    with pytest.raises(ConfigError, match="must be a difference in points"):
        check_target(target)
