"""Verdicts in words, and numbers as they are written in tables."""

from collections.abc import Iterator, Sequence

from mura.comparison import transfer
from mura.comparison.pairs import Pair
from mura.comparison.summary import ComparedPair, Study
from mura.comparison.verdict import (
    NO_DIFFERENCE,
    NOT_ASSESSABLE,
    PRIMARY,
    SEEDS_FOR_AN_APPROACH,
    THESE_MODELS,
    Comparison,
)
from mura.comparison.warnings import describe_extension
from mura.metrics import OVERALL

QUESTION = "One model for all seven extremities, or one for each?"
NOT_PUBLISHED = "Synthetic data: ours can't be held against figures of MURA; the table shows what would stand here."


def describe_verdict(compared: ComparedPair) -> list[str]:
    """Return the verdict on a pair: together, extremity by extremity, at other thresholds, and what it speaks of."""
    return [
        *_overall_words(compared),
        *_extremity_words(compared),
        *_threshold_words(compared),
        " ".join(filter(None, (describe_scope(compared.pair), describe_extension(compared.pair)))),
    ]


def describe_models(pair: Pair) -> str | None:
    """Return what a heading must say of few seeds: that the verdict speaks of trained models; None from three on."""
    seeds = {len(tables) for tables in pair.arms.values()}
    if min(seeds) >= SEEDS_FOR_AN_APPROACH:
        return None
    return "these two trained models" if seeds == {1} else THESE_MODELS


def _overall_words(compared: ComparedPair) -> Iterator[str]:
    """Yield the verdict on all extremities together, where there are several."""
    pair = compared.pair
    if len(pair.extremities) > 1:
        together = "all seven extremities" if pair.scope == OVERALL else " and ".join(pair.extremities)
        yield f"Over {together} together: {_sentence(compared.main, pair)}"


def _extremity_words(compared: ComparedPair) -> Iterator[str]:
    """Yield the verdict on each extremity, in one sentence."""
    pair = compared.pair
    if len(pair.extremities) == 1:
        yield f"{pair.extremities[0].capitalize()}: {_sentence(compared.main, pair)}"
        return
    by_verdict: dict[str, list[str]] = {}
    for name in pair.extremities:
        by_verdict.setdefault(compared.record(name, *PRIMARY).verdict, []).append(name)
    order = [f"{pair.a} better", f"{pair.b} better", NO_DIFFERENCE, NOT_ASSESSABLE]
    parts = [f"{verdict} for {_listed(by_verdict[verdict])}" for verdict in order if verdict in by_verdict]
    yield f"Extremity by extremity: {'; '.join(parts)}."


def _threshold_words(compared: ComparedPair) -> Iterator[str]:
    """Yield whether the verdict hangs on the threshold of 0.5."""
    points = compared.points
    others = [at for at in points if at.main.verdict != points[0].main.verdict]
    if points and not others:
        yield "At thresholds and temperatures fitted on the validation part the verdict is the same."
    for at in others:
        verdict = _sentence(at.main, compared.pair)
        yield f"With another operating point ({at.point.description}) the verdict is: {verdict}"


def describe_transfer(study: Study, model: str) -> str | None:
    """Return what is lost on the way from a model's own extremity to the others; None without such runs."""
    means = transfer.own_and_others(transfer.transfer_matrix(study.transfer, model, "image", "auroc"))
    if means is None:
        return None
    own, others = means
    return (
        f"Specialised models, AUROC by image: {own:.3f} on their own extremity, {others:.3f} on the others on average "
        "(0.5 is chance)."
    )


def _sentence(record: Comparison, pair: Pair) -> str:
    if record.difference is None or record.a is None or record.b is None:
        return f"{record.verdict}."
    values = (
        f"study accuracy {100 * record.a:.1f} % {pair.a}, {100 * record.b:.1f} % {pair.b}, "
        f"difference {signed(100 * record.difference)} points"
    )
    if record.low is None or record.high is None or record.smallest_detectable is None:
        return f"{record.verdict}; {values}."
    interval = f"95 % interval {signed(100 * record.low)} to {signed(100 * record.high)}"
    if record.verdict == NO_DIFFERENCE and record.smallest_detectable > 0:
        interval += f"; a difference of {100 * record.smallest_detectable:.1f} points could have been shown"
    return f"{record.verdict}; {values} ({interval})."


def describe_scope(pair: Pair) -> str:
    """Return what a verdict speaks of: with few seeds of the models, with three or more of the approaches."""
    seeds = {arm: len(tables) for arm, tables in pair.arms.items()}
    fewest = min(seeds.values())
    counts = f"{fewest} seeds an arm" if len(set(seeds.values())) == 1 else " and ".join(
        f"{n} {'seed' if n == 1 else 'seeds'} of {arm}" for arm, n in seeds.items()
    )  # fmt: skip
    if fewest >= SEEDS_FOR_AN_APPROACH:
        return f"With {counts}, this speaks of the two approaches."
    counts = "one seed" if set(seeds.values()) == {1} else counts
    models = "these two trained models" if counts == "one seed" else "these trained models"
    return (
        f"With {counts}, this speaks of {models}, not of the two approaches: "
        f"that takes {SEEDS_FOR_AN_APPROACH} seeds or more."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign, a true minus; zero has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def describe_difference(record: Comparison) -> str:
    """Return `−1.2 (−5.0 to +2.6)`: percentage points for accuracy, else as it is."""
    factor, digits = (100, 1) if record.metric == "accuracy" else (1, 3)
    if record.difference is None:
        return "–"
    text = signed(factor * record.difference, digits)
    if record.low is None or record.high is None:
        return text
    return f"{text} ({signed(factor * record.low, digits)} to {signed(factor * record.high, digits)})"


def describe_duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
