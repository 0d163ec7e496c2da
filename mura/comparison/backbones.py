"""Backbones against each other: within an arm, two models are compared as two arms of a model are.

The family for Holm's correction of a verdict over all extremities is an arm's pairs of models: every two, or each with
a primary model that was declared beforehand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from mura.comparison.bootstrap import COMPARED_METRICS, Bootstraps
from mura.comparison.equivalence import apply_margin
from mura.comparison.pairs import ArmTable, Pair, make_backbone_pairs, pair_views
from mura.comparison.verdict import PRIMARY, Comparison, Contrast, contrast_arms, holm, in_scope
from mura.errors import ConfigError
from mura.metrics import OVERALL

RESAMPLES_OF_BACKBONES = 2_000
"""Of 14 models in two arms there are 182 pairs; from two seeds on, resamples give only the patients' variance."""


@dataclass(frozen=True)
class ComparedBackbones:
    """Two models of one arm, by study; in their `pair`, `model` is the arm, and `a` and `b` are the models.

    In the records it is the other way round: `model` is `resnet18-resnet50`, and `comparison` the arm.
    """

    pair: Pair
    comparisons: list[Comparison]

    @cached_property
    def by_extremity(self) -> dict[str, Comparison]:
        """The records of the verdict's metric."""
        return {record.extremity: record for record in self.comparisons if record.metric == PRIMARY[1]}

    @property
    def main(self) -> Comparison:
        """The record that decides: all extremities together."""
        return self.by_extremity[self.pair.groups[-1]]


def chosen_primary(asked: str | None, declared: str | None, models: set[str]) -> str | None:
    """Return the primary model: the one asked for, or else declared. Raises ConfigError when no run is of it."""
    if asked is not None and asked not in {*models, declared}:
        raise ConfigError(f"primary={asked}: no finished run is of that model; options: {', '.join(sorted(models))}.")
    return declared if asked is None else asked


def compare_backbones(
    tables: Sequence[ArmTable], resamples: int, margin: float | None = None, primary: str | None = None
) -> list[ComparedBackbones]:
    """Return the comparison of every two models within each arm or, with a `primary` model, of each with it."""
    resamples = min(resamples, RESAMPLES_OF_BACKBONES)
    compared = []
    for _, group in groupby(make_backbone_pairs(tables, primary), key=lambda pair: pair.model):
        pairs = list(group)
        made = Bootstraps(resamples)
        contrasts = [_contrast(pair, made) for pair in pairs]
        for pair, contrast in zip(pairs, contrasts, strict=True):
            records = apply_margin(_records(pair, contrast, pairs, contrasts), margin, first=pair.a)
            named = [replace(each, model=pair.name, comparison=pair.model) for each in in_scope(records, pair)]
            compared.append(ComparedBackbones(pair, named))
    return compared


def _contrast(pair: Pair, made: Bootstraps) -> Contrast:
    """Return the estimates of two models, without the resamples behind them."""
    arms = pair.tables()
    paired = pair_views(arms, pair.seeds, pair.folds).levels(arms)[PRIMARY[0]]
    [contrast] = contrast_arms(paired, made, 0, [(pair.a, pair.b)])
    return replace(contrast, draws={})


def _records(
    pair: Pair, contrast: Contrast, pairs: Sequence[Pair], contrasts: Sequence[Contrast]
) -> Iterator[Comparison]:
    """Yield the records of one pair of an arm's; the one that decides is corrected for all pairs."""
    for metric in COMPARED_METRICS:
        family: dict[str, float] = {}
        for each, other in zip(pairs, contrasts, strict=True):
            p = other.estimates[_decisive(each)][metric].p
            family |= {} if p is None else {each.name: p}
        for group in contrast.estimates:
            if group == _decisive(pair):
                p_holm, tests = holm(family).get(pair.name), max(1, len(family))
            else:
                p_holm, tests = holm(contrast.p_values(group, metric)).get(group), contrast.tests(group, metric)
            yield contrast.record(pair.model, group, metric, p_holm, tests)


def _decisive(pair: Pair) -> str:
    """Return the group whose record decides: all extremities, or the only one."""
    return OVERALL if len(pair.extremities) > 1 else pair.extremities[0]
