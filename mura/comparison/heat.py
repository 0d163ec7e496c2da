"""Do two ways of training look at the same places? Heat maps of the same test views in, agreements out.

Shapes: N views, C cells of a map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mura.comparison.collect import FinishedRun, views_of
from mura.extremities import EXTREMITIES
from mura.study.arms import arm_rank

HOTTEST = 0.1
"""The share of a map's cells that `overlap` is about."""

Floats = NDArray[np.float64]
Maps = pd.DataFrame
"""A row a view, by path; a column a cell, NaN beside the picture."""


@dataclass(frozen=True)
class HeatAgreement:
    """How alike the heat maps of two arms are on the same test views of an extremity; two seeds of one if `a` is `b`.

    Means over the views: `correlation` of the cells' ranks (Spearman), `overlap` of their hottest tenths, and what that
    is by `chance`. A view on which either map has no heat is left out.
    """

    model: str
    extremity: str
    a: str
    b: str
    views: int
    correlation: float
    overlap: float
    chance: float


def heat_agreements(runs: Sequence[FinishedRun]) -> list[HeatAgreement]:
    """Return the agreements of every two arms, and of the seeds of each, by model and extremity; empty without heat."""
    of_cell: dict[tuple[str, str], dict[tuple[str, int], Maps]] = {}
    for run in runs:
        for name in run.extremities if run.heat is not None else ():
            of_cell.setdefault((run.model, name), {})[run.arm, run.seed] = maps_of(run, name)
    found = []
    for (model, name), maps in sorted(of_cell.items(), key=lambda item: (item[0][0], EXTREMITIES.index(item[0][1]))):
        arms = sorted({arm for arm, _ in maps}, key=arm_rank)
        for a, b in combinations_with_replacement(arms, 2):
            compared = [alike(maps[one], maps[other]) for one, other in pairs_of(a, b, maps)]
            if compared:
                by_view = pd.concat(compared).groupby(level=0).mean()
                found.append(HeatAgreement(model, name, a, b, len(by_view), *by_view.mean().astype(float)))
    return found


def pairs_of(a: str, b: str, maps: dict[tuple[str, int], Maps]) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """Yield the pairs of runs to compare: of two arms those of one seed, or all if they share none; of one arm all."""
    seeds = {arm: sorted(seed for each, seed in maps if each == arm) for arm in (a, b)}
    if a == b:
        pairs = list(combinations(seeds[a], 2))
    else:
        shared = [(seed, seed) for seed in seeds[a] if seed in seeds[b]]
        pairs = shared or list(product(seeds[a], seeds[b]))
    for one, other in pairs:
        if maps[a, one].shape[1] == maps[b, other].shape[1]:  # else the pictures had other sizes
            yield (a, one), (b, other)


def maps_of(run: FinishedRun, extremity: str) -> Maps:
    """Return the heat maps of a run's test views of one extremity."""
    assert run.heat is not None
    maps = pd.DataFrame(run.heat.heat.reshape(len(run.heat.path), -1).astype(float), index=run.heat.path)
    return maps[maps.index.isin(views_of(run.test, [extremity])["path"])]


def alike(one: Maps, other: Maps) -> pd.DataFrame:
    """Return `correlation`, `overlap` and `chance` for each view of both that has heat in both, by path."""
    paths = one.index.intersection(other.index)
    a_NC, b_NC = (maps.loc[paths].to_numpy() for maps in (one, other))
    is_picture_NC = np.isfinite(a_NC) & np.isfinite(b_NC)
    a_NC, b_NC = (np.where(is_picture_NC, cells, np.nan) for cells in (a_NC, b_NC))
    cells_N = is_picture_NC.sum(axis=1)
    most_N = np.maximum(1, np.round(HOTTEST * cells_N)).astype(int)
    has_heat_N = ((a_NC > 0).sum(axis=1) >= most_N) & ((b_NC > 0).sum(axis=1) >= most_N)
    hot_NC = hottest(a_NC, most_N) & hottest(b_NC, most_N)
    with np.errstate(invalid="ignore", divide="ignore"):
        measures = {
            "correlation": rank_correlation(a_NC, b_NC),
            "overlap": hot_NC.sum(axis=1) / most_N,
            "chance": most_N / cells_N,
        }
    return pd.DataFrame(measures, index=paths)[has_heat_N].dropna()


def rank_correlation(a_NC: Floats, b_NC: Floats) -> Floats:
    """Return Spearman's correlation of each row, NaN where one is constant; NaN cells don't count."""
    ranks = [pd.DataFrame(cells).rank(axis=1).to_numpy() for cells in (a_NC, b_NC)]
    a, b = (each - np.nanmean(each, axis=1, keepdims=True) for each in ranks)
    return np.nansum(a * b, axis=1) / np.sqrt(np.nansum(a**2, axis=1) * np.nansum(b**2, axis=1))


def hottest(cells_NC: Floats, most_N: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Return which cells are the `most_N` hottest of each row."""
    order_NC = np.argsort(-np.nan_to_num(cells_NC, nan=-1.0), axis=1, kind="stable")
    place_NC = np.argsort(order_NC, axis=1)
    return place_NC < most_N[:, None]
