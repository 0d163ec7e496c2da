"""Does the instrument tell the truth? Simulated predictions with a known answer in, Markdown tables out.

    python benchmarks/coverage.py --only arms
    python benchmarks/coverage.py --only offsets --resamples 400
    python benchmarks/coverage.py --only margin
    python benchmarks/coverage.py --only degrees

Each setting simulates two arms on a test set of MURA's size many times and counts how often the 95 % interval
holds the true difference, how often the test finds one, and how often the arms are called equivalent. Nothing here is
a radiograph or a trained network: the predictions are made of normal deviates.
"""

import argparse
import math
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from mura.comparison.bootstrap import COMPARED_METRICS, Bootstraps, Cases, Floats, bootstrap, observed
from mura.comparison.equivalence import apply_margin
from mura.comparison.estimates import ALPHA, Estimate, contrast, over_training_runs, smallest_detectable
from mura.comparison.pairs import PairedCases
from mura.comparison.planning import split_variance
from mura.comparison.verdict import compare_cases
from mura.metrics import LEVELS

SIZES = {"humerus": (132, 135, 288), "whole": (783, 1199, 3197)}
"""Patients, studies and views of the official test set: the smallest extremity, and all seven."""

BY_EXTREMITY = (
    (152, 158, 465), (166, 175, 461), (129, 133, 301), (159, 167, 460),
    (132, 135, 288), (173, 194, 563), (207, 237, 659),
)  # fmt: skip
"""The same counts of the seven extremities. A patient of two of them counts as two here."""

SAME_LABEL = 0.85
"""The chance that a study has its patient's label; else, a label of its own. Half of the labels are abnormal."""

SLOPE = 1.5
"""The logit of one unit of evidence."""

MARGIN = 0.03
"""The margin of equivalence where the arms are equal; elsewhere it is the true difference, about as much."""

POPULATION, DRAWS = 100_000, 5
"""Patients of a test set that stands for everybody, and how many such sets the truth is the mean of."""

T_TESTS = 40_000
"""Simulated t tests in each row on degrees of freedom: numbers alone, without a test set."""

OURS = "this project"
BY_CASE = "bootstrap by view or study"
FIXED_SEEDS = "patients resampled, seeds averaged"
RESAMPLED_SEEDS = "patients and seeds resampled"
COUNTED_ONCE = "patients counted once"
WITHIN, POOLED = "within extremities, this project", "pooled over extremities"

Outcomes = dict[tuple[str, str], list[Floats]]
"""By (method, level), a simulation an array [4, K]: rows low, high, shown, smallest detectable; a column a metric."""


@dataclass(frozen=True)
class Setting:
    """One way the two arms may differ, on one size of test set, with some models (`seeds`) an arm.

    A case's evidence for its true class is the sum of a mean (82 % accuracy by view) and normal deviates: `shared`
    ones (standard deviations by patient, study and view) strike both arms, `arm` ones all models of an arm, `run`
    ones (by patient and view) one model; `between_runs` is that of a model's mean, and 0.0714 makes 1.5 points
    of accuracy. The first arm has `gap` more evidence, and calls more abnormal by `offset`, the second less.
    """

    size: str
    seeds: int = 1
    gap: float = 0.0
    offset: float = 0.0
    between_runs: float = 0.0
    mean: float = 1.14
    shared: tuple[float, float, float] = (0.6, 0.6, 0.5)
    arm: tuple[float, float, float] = (0.4, 0.4, 0.3)
    run: tuple[float, float] = (0.3, 0.3)

    @property
    def name(self) -> str:
        arms = "equal"
        if self.gap:
            arms = "first is better"
        elif self.offset:
            arms = "equal, other thresholds"
        return arms if self.seeds == 1 else f"{arms}, {self.between_runs * 21:.1f} points between seeds"


@dataclass(frozen=True)
class Patients:
    """Who is in a test set: of each view its patient, study, and label."""

    patient_of_study: NDArray[np.intp]
    study_of_view: NDArray[np.intp]
    label_of_study: NDArray[np.bool_]
    extremity_of_study: NDArray[np.intp] | None = None

    def deviates(self, rng: np.random.Generator, sigmas: tuple[float, float, float]) -> Floats:
        """Return a normal deviate a view, [N]: the sum of one of its patient, one of its study and its own."""
        patient = rng.normal(0, sigmas[0], self.patient_of_study.max() + 1)[self.patient_of_study]
        study = patient + rng.normal(0, sigmas[1], len(self.patient_of_study))
        return study[self.study_of_view] + rng.normal(0, sigmas[2], len(self.study_of_view))

    def levels(self, evidence: Floats, offset: Floats) -> dict[str, Cases]:
        """Return views and studies as `evidence` [M, N] and the models' `offset` [M, 1] or [M, N] make them."""
        sign = np.where(self.label_of_study[self.study_of_view], 1, -1)
        probability = 1 / (1 + np.exp(-SLOPE * (sign * evidence + offset)))
        of_study = np.array([np.bincount(self.study_of_view, weights=row) for row in probability])
        studies = Cases(
            self.patient_of_study, self.label_of_study, of_study / np.bincount(self.study_of_view),
            self.extremity_of_study,
        )  # fmt: skip
        view = self.study_of_view
        extremity = None if studies.extremity is None else studies.extremity[view]
        return {"image": Cases(studies.patient[view], studies.label[view], probability, extremity), "study": studies}


def draw_patients(rng: np.random.Generator, patients: int, studies: int, views: int) -> Patients:
    """Return a test set: every patient has a study, every study a view, and chance places the others."""
    patient_of_study = np.sort(np.r_[np.arange(patients), rng.integers(0, patients, studies - patients)])
    study_of_view = np.sort(np.r_[np.arange(studies), rng.integers(0, studies, views - studies)])
    usual, own = rng.random(patients) < 0.5, rng.random(studies) < 0.5
    label = np.where(rng.random(studies) < SAME_LABEL, usual[patient_of_study], own)
    return Patients(patient_of_study, study_of_view, label)


def draw_seven(rng: np.random.Generator) -> Patients:
    """Return the seven extremities' test sets as one."""
    parts = [draw_patients(rng, *counts) for counts in BY_EXTREMITY]
    patients, studies, _ = np.cumsum([(0, 0, 0), *BY_EXTREMITY], axis=0).T
    return Patients(
        np.concatenate([part.patient_of_study + start for part, start in zip(parts, patients, strict=False)]),
        np.concatenate([part.study_of_view + start for part, start in zip(parts, studies, strict=False)]),
        np.concatenate([part.label_of_study for part in parts]),
        np.repeat(np.arange(len(parts)), [len(part.label_of_study) for part in parts]),
    )


def simulate(setting: Setting, rng: np.random.Generator) -> dict[str, Cases]:
    """Return one test set with the predictions of `seeds` models of the first arm, then of the second."""
    return levels_of(setting, draw_patients(rng, *SIZES[setting.size]), rng)


def levels_of(setting: Setting, patients: Patients, rng: np.random.Generator, spread: float = 0.0) -> dict[str, Cases]:
    """Return a test set with its predictions; `spread` is the sd of the logit offsets of the second arm's models.

    Each of its models is then seven, one an extremity, with independent offsets, which change no order within one.
    """
    shared = setting.mean + patients.deviates(rng, setting.shared)
    evidence = []
    for gap in (setting.gap, 0.0):
        arm = shared + gap + patients.deviates(rng, setting.arm)
        for _ in range(setting.seeds):
            own = patients.deviates(rng, (setting.run[0], 0.0, setting.run[1]))
            evidence.append(arm + own + rng.normal(0, setting.between_runs))
    offset = np.repeat([setting.offset, -setting.offset], setting.seeds)[:, None]
    if patients.extremity_of_study is not None:
        extremity = patients.extremity_of_study[patients.study_of_view]
        seven = rng.normal(0, spread / SLOPE, (setting.seeds, len(BY_EXTREMITY)))
        offset = offset + np.r_[np.zeros((setting.seeds, len(extremity))), seven[:, extremity]]
    return patients.levels(np.array(evidence), offset)


def truth(setting: Setting, rng: np.random.Generator) -> dict[str, Floats]:
    """Return the difference [K] between the arms in the population of patients and of training runs, by level.

    It is zero where the arms are equal, else the mean of DRAWS test sets of POPULATION patients each.
    """
    if setting.gap == 0:
        return {level: np.zeros(len(COMPARED_METRICS)) for level in LEVELS}
    drawn = [large_difference(setting, rng) for _ in range(DRAWS)]
    return {level: np.mean([differences[level] for differences in drawn], axis=0) for level in LEVELS}


def large_difference(setting: Setting, rng: np.random.Generator) -> dict[str, Floats]:
    """Return the difference [K] between the arms on POPULATION patients, by level.

    Both arms have the same deviates there (each arm's own distribution is the same either way), and the runs are the
    nodes of a Gauss-Hermite rule.
    """
    times = POPULATION // SIZES[setting.size][0]
    patients = draw_patients(rng, *(times * count for count in SIZES[setting.size]))
    case = sum(np.square([*setting.shared, *setting.arm]).reshape(2, 3))
    sigmas = np.sqrt(case + np.square([setting.run[0], 0.0, setting.run[1]]))
    evidence = setting.mean + patients.deviates(rng, tuple(sigmas))
    nodes, weights = np.polynomial.hermite_e.hermegauss(5 if setting.between_runs else 1)
    means = np.r_[setting.gap + setting.between_runs * nodes, setting.between_runs * nodes][:, None]
    levels = patients.levels(evidence + means, np.zeros_like(means))
    signed = np.r_[weights, -weights] / weights.sum()
    return {level: observed(cases) @ signed for level, cases in levels.items()}


def run(setting: Setting, simulations: int, resamples: int, rng: np.random.Generator) -> Outcomes:
    """Return what all methods say of `simulations` test sets of one setting."""
    outcomes: Outcomes = defaultdict(list)
    label = f"{setting.size}, {setting.seeds} a side, {setting.name}"
    for _ in track(range(simulations), description=label, console=Console(stderr=True), transient=True):
        for level, cases in simulate(setting, rng).items():
            draws = bootstrap(cases, resamples, rng)
            outcomes[OURS, level].append(ours(cases, draws, setting.seeds, rng))
            for method, differences in others(cases, draws, setting.seeds, rng).items():
                low, high = np.percentile(differences, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)], axis=-1)
                shown = (low > 0) | (high < 0)
                outcomes[method, level].append(np.array([low, high, shown, np.full(len(COMPARED_METRICS), np.nan)]))
            if setting.seeds > 1:
                outcomes[COUNTED_ONCE, level].append(counted_once(cases, draws, setting.seeds))
    return outcomes


def ours(cases: Cases, draws: Floats, seeds: int, rng: np.random.Generator) -> Floats:
    """Return what `mura.comparison.verdict` says of one simulated test set, without Holm: shown means p < 5 %."""
    first, second = list(range(seeds)), list(range(seeds, 2 * seeds))
    estimates = contrast(cases, first, second, draws, rng).values()
    rows = [(e.low, e.high, e.p is not None and e.p < ALPHA, smallest_detectable(e, 1)) for e in estimates]
    return np.array(rows, dtype=float).T


def others(cases: Cases, draws: Floats, seeds: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Return the bootstrapped differences [K, R] of the methods that this project does without."""
    resamples = draws.shape[-1]
    if seeds == 1:
        alone = Cases(np.arange(len(cases.label)), cases.label, cases.probability)
        by_case = bootstrap(alone, resamples, rng)
        return {BY_CASE: by_case[:, 0] - by_case[:, 1]}
    chosen = rng.integers(0, seeds, size=(2, seeds, resamples))
    column = np.arange(resamples)
    first, second = draws[:, chosen[0], column], draws[:, seeds + chosen[1], column]
    return {
        FIXED_SEEDS: draws[:, :seeds].mean(axis=1) - draws[:, seeds:].mean(axis=1),
        RESAMPLED_SEEDS: first.mean(axis=1) - second.mean(axis=1),
    }


def counted_once(cases: Cases, draws: Floats, seeds: int) -> Floats:
    """Return what would be said if the patients' chance in the runs' variance were taken out, as `ours` does."""
    rows = []
    for values, drawn in zip(observed(cases), draws, strict=True):
        parts = split_variance([values[:seeds], values[seeds:]], [drawn[:seeds], drawn[seeds:]], cases.patients)
        error, degrees = replace(parts, patients_of_runs=0.0).error(seeds)
        first, second = float(values[:seeds].mean()), float(values[seeds:].mean())
        low, high = Estimate(first, second, first - second, error=error, degrees=degrees).interval(ALPHA)
        rows.append((low, high, not low <= 0 <= high, np.nan))
    return np.array(rows, dtype=float).T


def offset_rows(
    spread: float, seeds: int, simulations: int, resamples: int, rng: np.random.Generator
) -> list[list[str]]:
    """Return a row a level and estimator for AUROC of `all` where both arms have the same discrimination."""
    outcomes: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    label = f"seven models, offsets of {spread}, {seeds} a side"
    for _ in track(range(simulations), description=label, console=Console(stderr=True), transient=True):
        for level, cases in levels_of(Setting("seven", seeds), draw_seven(rng), rng, spread).items():
            for estimator, seen in ((POOLED, replace(cases, extremity=None)), (WITHIN, cases)):
                draws = bootstrap(seen, resamples, rng)
                found = contrast(seen, list(range(seeds)), list(range(seeds, 2 * seeds)), draws, rng)["auroc"]
                outcomes[level, estimator].append((found.difference or 0.0, (found.p or 0.0) < ALPHA))
    rows = []
    for (level, estimator), values in outcomes.items():
        difference, rejected = np.mean(np.array(values, dtype=float), axis=0)
        rows.append([f"{spread}", str(seeds), level, estimator, f"{100 * difference:+.1f}", f"{100 * rejected:.1f}"])
    return rows


def print_offsets(arguments: argparse.Namespace) -> None:
    """Print how often the null is rejected where the second arm is seven models with offsets of their own."""
    rows = []
    for number, (spread, seeds) in enumerate(product((0.6, 1.0), (1, 3))):
        rng = np.random.default_rng([arguments.seed, 100 + number])
        rows += offset_rows(spread, seeds, arguments.simulations, arguments.resamples, rng)
    print(markdown(["sd of the offsets", "models an arm", "level", "AUROC", "mean difference", "p < 5 %"], rows))


def print_margin(arguments: argparse.Namespace) -> None:
    """Print how often the arms are called equivalent, or the first not worse, within a margin.

    Where they differ, the margin is the true difference: each of these words is then wrong for a worse first arm.
    """
    rows = []
    between_runs = {1: 0.0, 3: 0.0476}
    for number, (seeds, gap) in enumerate(product(between_runs, (-0.135, 0.0, 0.15))):
        setting = Setting("whole", seeds, gap, between_runs=between_runs[seeds])
        rng = np.random.default_rng([arguments.seed, 200 + number])
        rows += margin_rows(setting, arguments.simulations, arguments.resamples, rng)
    print(markdown(["models an arm", "level", "true difference", "margin", "equivalent", "first not worse"], rows))


def margin_rows(setting: Setting, simulations: int, resamples: int, rng: np.random.Generator) -> list[list[str]]:
    """Return a row a level: how often `mura.comparison.equivalence` says either of its words of accuracy."""
    true = {level: float(values[0]) for level, values in truth(setting, rng).items()}
    margins = {level: abs(difference) or MARGIN for level, difference in true.items()}
    models = {"first": list(range(setting.seeds)), "second": list(range(setting.seeds, 2 * setting.seeds))}
    seeds = {arm: range(setting.seeds) for arm in models}
    said: dict[str, list[str]] = defaultdict(list)
    label = f"margin, {setting.seeds} a side, {setting.name}"
    for number in track(range(simulations), description=label, console=Console(stderr=True), transient=True):
        for level, cases in simulate(setting, rng).items():
            rows = pd.DataFrame({"extremity": "any", "patient": cases.patient, "label": cases.label})
            paired = PairedCases(level, rows, cases.probability, models, seeds, folds={})
            records = compare_cases(paired, "simulated", Bootstraps(resamples), seed=number)
            said[level] += [str(r.equivalence) for r in apply_margin(records[:1], margins[level])]
    about = {
        level: [str(setting.seeds), level, f"{100 * true[level]:+.1f}", f"{100 * margins[level]:.1f}"] for level in said
    }
    return [
        [*about[level], *percentages(np.array([["equivalent" in word, "not worse" in word] for word in words]))]
        for level, words in said.items()
    ]


@dataclass(frozen=True)
class FewRuns:
    """Two equal arms of so many runs; the first arm's values spread `ratio` times as much. Pairs share a seed."""

    first: int
    second: int
    ratio: float = 1.0
    by_seed: bool = False

    @property
    def name(self) -> str:
        if self.by_seed:
            return f"{self.first} pairs"
        count = f"{self.first}" if self.first == self.second else f"{self.first} and {self.second}"
        return count if self.ratio == 1 else f"{count}, the first spread {self.ratio:g} times as much"

    def p_below(self, part: float, rng: np.random.Generator) -> float:
        """Return the share of p < 5 % in T_TESTS tests; the patients' variance is `part` of the training runs'."""
        between = 1 / self.first if self.by_seed else self.ratio**2 / self.first + 1 / self.second
        spread = math.sqrt(part * between)
        drawn, patients = spread * np.array([-1.0, 1.0]), SIZES["whole"][0]
        found = 0
        for shift in rng.normal(0, spread, T_TESTS):
            first, second = rng.normal(0, self.ratio, self.first), rng.normal(size=self.second)
            if self.by_seed:  # what the pairs differ by has the variance 1
                first, second = first / math.sqrt(2), second / math.sqrt(2)
            estimate = over_training_runs(first + shift, second, drawn, patients, self.by_seed)
            found += estimate.p is not None and estimate.p < ALPHA
        return found / T_TESTS


def print_degrees(arguments: argparse.Namespace) -> None:
    """Print how often the t test with few seeds rejects a true null, by the patients' part of the variance."""
    parts = (0.0, 0.05, 0.2, 0.5, 1.0, 4.0)
    rng = np.random.default_rng([arguments.seed, 300])
    cases = [
        FewRuns(2, 2), FewRuns(2, 2, 2), FewRuns(2, 5), FewRuns(2, 5, 2), FewRuns(3, 3), FewRuns(3, 3, 2),
        FewRuns(5, 5), FewRuns(5, 5, 2), *(FewRuns(pairs, pairs, by_seed=True) for pairs in (3, 4, 5, 10)),
    ]  # fmt: skip
    rows = [[case.name, *(f"{100 * case.p_below(part, rng):.1f}" for part in parts)] for case in cases]
    print(markdown(["models an arm", *(f"{part:g}" for part in parts)], rows))


def settings() -> list[Setting]:
    """Return what docs/statistics.md shows: one model an arm, then several, 1, 1.5 and 2 points between seeds."""
    gaps = {"humerus": 0.45, "whole": 0.155}
    chosen = []
    for size, gap in gaps.items():
        chosen += [Setting(size), Setting(size, offset=0.3), Setting(size, gap=gap)]
        chosen += [Setting(size, seeds=seeds, between_runs=0.0714) for seeds in (2, 3, 5)]
        chosen += [Setting(size, seeds=3, between_runs=0.0952)]
        chosen += [Setting(size, seeds=3, between_runs=0.0476, gap=gap)]
    return chosen


def percentages(values: Floats | NDArray[np.bool_]) -> list[str]:
    """Return means over simulations [S, K] as cells."""
    return [f"{100 * value:.1f}" for value in np.mean(values, axis=0)]


def coverage_rows(setting: Setting, outcomes: Outcomes, true: dict[str, Floats]) -> list[list[str]]:
    """Return a row a method: the share of intervals that hold the truth, both levels side by side."""
    rows = []
    for method in dict.fromkeys(method for method, _ in outcomes):
        cells = []
        for level in LEVELS:
            low, high = np.stack(outcomes[method, level], axis=1)[:2]
            cells += percentages((low <= true[level]) & (true[level] <= high))
        rows.append([setting.size, str(setting.seeds), setting.name, method, *cells])
    return rows


def finding_rows(setting: Setting, outcomes: Outcomes, true: dict[str, Floats]) -> list[list[str]]:
    """Return a row a level: the true difference, the smallest detectable one, and how often p was below 5 %."""
    rows = []
    for level in LEVELS:
        _, _, shown, detectable = np.stack(outcomes[OURS, level], axis=1)
        real = percentages(true[level][None]) if setting.gap else ["0"] * len(COMPARED_METRICS)
        rows.append([setting.size, str(setting.seeds), setting.name, level])
        rows[-1] += [" / ".join(cells) for cells in (real, percentages(detectable), percentages(shown))]
    return rows


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parts = {"arms": print_arms, "offsets": print_offsets, "margin": print_margin, "degrees": print_degrees}
    parser = argparse.ArgumentParser(description="Coverage of the intervals of mura.comparison.verdict, simulated.")
    parser.add_argument("--simulations", type=int, default=2000, help="test sets a setting")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples and permutations a test set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(parts), help="one of the parts; all without it")
    arguments = parser.parse_args()
    started = time.perf_counter()
    for name, show in parts.items():
        if arguments.only in (None, name):
            show(arguments)
            count = T_TESTS if name == "degrees" else arguments.simulations
            error = 100 * math.sqrt(0.05 * 0.95 / count)
            print(f"\n{count} simulations a row; the standard error of a 5 % is {error:.2f} points\n")
    print(f"{time.perf_counter() - started:.0f} seconds")


def print_arms(arguments: argparse.Namespace) -> None:
    """Print coverage and findings of every setting with two arms of one model each."""
    coverage, findings = [], []
    for number, setting in enumerate(settings()):
        rng = np.random.default_rng([arguments.seed, number])
        true = truth(setting, rng)
        outcomes = run(setting, arguments.simulations, arguments.resamples, rng)
        coverage += coverage_rows(setting, outcomes, true)
        findings += finding_rows(setting, outcomes, true)
    columns = [f"{level} {metric}" for level in LEVELS for metric in COMPARED_METRICS]
    print(markdown(["test set", "models an arm", "arms", "method", *columns], coverage))
    print()
    wanted = ["true difference", "smallest detectable", "p < 5 %"]
    print(markdown(["test set", "models an arm", "arms", "level", *wanted], findings))


if __name__ == "__main__":
    main()
