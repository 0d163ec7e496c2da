"""The simulation of coverage: its truth is the normal distribution's, and the intervals hold it."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr


@pytest.fixture(scope="module")
def coverage():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_simulated_truth_is_that_of_the_normal_distribution(coverage, monkeypatch):
    monkeypatch.setattr(coverage, "DRAWS", 1)
    setting = coverage.Setting("humerus", gap=0.45, between_runs=0.0714)
    sigma = np.sqrt(np.square([*setting.shared, *setting.arm, *setting.run, setting.between_runs]).sum())
    expected = ndtr((setting.mean + setting.gap) / sigma) - ndtr(setting.mean / sigma)
    true = coverage.truth(setting, np.random.default_rng(0))
    assert true["image"][0] == pytest.approx(expected, abs=0.005)


def test_offsets_of_seven_models_favour_the_unified_one_only_where_auroc_is_pooled(coverage):
    rows = coverage.offset_rows(1.0, 1, 12, 100, np.random.default_rng(0))
    difference = {(level, estimator): float(points) for _, _, level, estimator, points, _ in rows}
    for level in ("image", "study"):
        assert difference[level, coverage.POOLED] > 1
        assert abs(difference[level, coverage.WITHIN]) < 1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_truth_and_the_test_seldom_finds_what_is_not_there(coverage, seeds):
    setting = coverage.Setting("humerus", seeds=seeds, between_runs=0.0 if seeds == 1 else 0.0714)
    outcomes = coverage.run(setting, simulations=100, resamples=400, rng=np.random.default_rng(0))
    for level in ("image", "study"):
        low, high, shown, _ = np.stack(outcomes[coverage.OURS, level], axis=1)
        assert ((low <= 0) & (high >= 0)).mean(axis=0).min() >= 0.88
        assert shown.mean(axis=0).max() <= 0.13
