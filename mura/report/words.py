"""Verdicts in words, and numbers as they are written in tables."""

from collections.abc import Iterator, Sequence

from mura.comparison import transfer
from mura.comparison.collect import Pair
from mura.comparison.summary import PRIMARY, Study
from mura.comparison.verdict import ALL, NO_DIFFERENCE, NOT_ASSESSABLE, SEEDS_FOR_AN_APPROACH, Comparison


def in_words(study: Study, pair: Pair) -> list[str]:
    """The verdict on a pair: together, extremity by extremity, and of what it speaks."""
    sentences = []
    groups = study.groups(pair)
    records = {group: study.record(pair, group, *PRIMARY) for group in groups}
    if len(pair.extremities) > 1:
        together = "all seven extremities" if pair.scope == ALL else " and ".join(pair.extremities)
        sentences.append(f"Over {together} together: {_sentence(records[pair.scope], pair)}")
    by_verdict: dict[str, list[str]] = {}
    for name in pair.extremities:
        by_verdict.setdefault(records[name].verdict, []).append(name)
    order = [f"{pair.a} better", f"{pair.b} better", NO_DIFFERENCE, NOT_ASSESSABLE]
    parts = [f"{verdict} for {_listed(by_verdict[verdict])}" for verdict in order if verdict in by_verdict]
    if len(pair.extremities) == 1:
        sentences.append(f"{pair.extremities[0].capitalize()}: {_sentence(records[pair.extremities[0]], pair)}")
    else:
        sentences.append(f"Extremity by extremity: {'; '.join(parts)}.")
    return [*sentences, *_threshold_words(study, pair), scope_words(pair)]


def _threshold_words(study: Study, pair: Pair) -> Iterator[str]:
    """Whether the verdict hangs on the threshold of 0.5."""
    points = study.at_points[pair.model, pair.name]
    others = [at for at in points if at.main.verdict != points[0].main.verdict]
    if points and not others:
        yield "At thresholds and temperatures fitted on the validation part the verdict is the same."
    for at in others:
        yield f"With another operating point ({at.point.words}) the verdict is: {_sentence(at.main, pair)}"


def transfer_words(study: Study, model: str) -> str | None:
    """What is lost on the way from a model's own extremity to the others."""
    found = transfer.drop(transfer.matrix(study.transfer, model, "image", "auroc"))
    if found is None:
        return None
    own, others = found
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


def scope_words(pair: Pair) -> str:
    """What a verdict speaks of: with few seeds of the models, with three or more of the approaches."""
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
    """With its sign, a true minus; zero has none."""
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


def difference_words(record: Comparison) -> str:
    """`−1.2 (−5.0 to +2.6)`: points for accuracy, else as it is."""
    factor, digits = (100, 1) if record.metric == "accuracy" else (1, 3)
    if record.difference is None:
        return "–"
    text = signed(factor * record.difference, digits)
    if record.low is None or record.high is None:
        return text
    return f"{text} ({signed(factor * record.low, digits)} to {signed(factor * record.high, digits)})"
