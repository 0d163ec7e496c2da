"""Verdicts in words, and numbers as they are written in tables."""

from collections.abc import Iterator, Sequence
from typing import Any

from mura.comparison import transfer
from mura.comparison.operating import ONE_EACH, AtPoint
from mura.comparison.pairs import Pair
from mura.comparison.summary import ComparedPair, Study
from mura.comparison.tuning import StudySearch
from mura.comparison.verdict import (
    NO_DIFFERENCE,
    NOT_AFTER_CORRECTION,
    NOT_ASSESSABLE,
    PRIMARY,
    SEEDS_FOR_AN_APPROACH,
    SEEDS_FOR_PAIRS,
    THESE_MODELS,
    Comparison,
    describe_splits,
)
from mura.comparison.warnings import describe_changed_margin, describe_changed_primary, describe_extension
from mura.metrics import OVERALL
from mura.report.references import KUMAR_BACKBONES
from mura.runs.folder import COMPLETE
from mura.study.arms import share_start

QUESTION = "One model for all seven extremities, or one for each?"
NOT_PUBLISHED = "Synthetic data: ours can't be held against figures of MURA; the table shows what would stand here."


ELSEWHERE = (
    "The best of many trials looks better than it is: luck helped to make it the best. On other patients: the log loss "
    "to be expected of a choice like this on patients that didn't choose it (bootstrap over the validation patients). "
    "It doesn't undo that each trial's best epoch was chosen on the same views. Share of the variance between the "
    "trials that a setting explains (fANOVA): of few trials, a hint."
)


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")


def describe_search(search: StudySearch) -> list[str]:
    """Return how the searches of a study were made: alike for all, and on what."""
    terms = search.terms
    space = "; ".join(f"{key} {_dimension_words(each)}" for key, each in terms["space"].items())
    folds = f", the mean over the folds {', '.join(map(str, terms['folds']))}" if terms["folds"] else ""
    judge = "validation log loss" if terms["monitor"] == "val_loss" else terms["monitor"]
    side = "lowest" if terms["mode"] == "min" else "highest"
    spent = sorted({trial["steps"] for arm in search.arms for trial in arm.trials if trial["state"] == COMPLETE})
    steps = f"{spent[0]:,} steps" if len(spent) == 1 else f"{spent[0]:,} to {spent[-1]:,} steps (early stopping)"
    pruned = " Trials behind the median of earlier ones were stopped, by the same rule everywhere." * terms["prune"]
    return [
        f"Equal chances: {len(search.arms)} searches, each of {terms['trials']} trials in the same space ({space}). "
        "Each began with the recipe as it is, and then the same quasi-random points; a sampler suggested the rest. A "
        f"whole trial took {steps}.{pruned}",
        f"Chosen by the {side} {judge} in the best epoch{folds}. No trial predicted a test view, and all trained with "
        f"seed {terms['seed']}.",
    ]


def _dimension_words(dimension: dict[str, Any] | list[Any]) -> str:
    if isinstance(dimension, list):
        return " or ".join("null" if value is None else str(value) for value in dimension)
    scale = ", logarithmic" if dimension["log"] else ""
    return f"{dimension['low']:g} to {dimension['high']:g}{scale}"


def describe_before(study: Study) -> list[str]:
    """Return the verdict without tuning and with it, for every two arms; empty when the recipe was not tested."""
    after = {(compared.pair.model, compared.pair.name): compared for compared in study.pairs}
    words = []
    for before in study.before:
        pair = before.pair
        tuned = after.get((pair.model, pair.name))
        if tuned is not None:
            seeds = count_of(max(map(len, tuned.pair.seeds.values())), "seed")
            words.append(
                f"{pair.model}, {pair.a} and {pair.b}, before tuning (the recipe, one seed): "
                f"{_sentence(before.main, pair)} After tuning ({seeds}): {_sentence(tuned.main, tuned.pair)}"
            )
    return words


def count_of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def describe_verdict(compared: ComparedPair) -> list[str]:
    """Return the verdict on a pair: together, extremity by extremity, at other thresholds, and what it speaks of."""
    return [
        *_overall_words(compared),
        *_extremity_words(compared),
        *_threshold_words(compared),
        " ".join(filter(None, _declared_words(compared))),
    ]


def _declared_words(compared: ComparedPair) -> Iterator[str | None]:
    """Yield what the verdict speaks of, and what was changed of the study's plan; None where nothing was."""
    yield describe_scope(compared.pair)
    yield describe_extension(compared.pair)
    yield describe_changed_margin(compared.pair, compared.main.margin)


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
        record = compared.record(name, *PRIMARY)
        decided = f"alone {equals(record.p)}" if record.verdict == NOT_AFTER_CORRECTION else _against_interval(record)
        by_verdict.setdefault(record.verdict, []).append(f"{name} ({decided})" if decided else name)
    order = [f"{pair.a} better", f"{pair.b} better", NOT_AFTER_CORRECTION, NO_DIFFERENCE, NOT_ASSESSABLE]
    parts = [f"{verdict} for {_listed(by_verdict[verdict])}" for verdict in order if verdict in by_verdict]
    yield f"Extremity by extremity: {'; '.join(parts)}."
    small = [name for name in pair.extremities if compared.record(name, *PRIMARY).equivalence]
    if small:
        answer = compared.record(small[0], *PRIMARY).equivalence
        yield f"{_listed(small).capitalize()}: {answer} (half of the 90 % interval exceeds it)."


def _against_interval(record: Comparison) -> str | None:
    """Return what decided where the interval leaves out zero and the test still shows no difference; else None."""
    if record.verdict != NO_DIFFERENCE or record.low is None or record.high is None or record.low <= 0 <= record.high:
        return None
    return f"{equals(record.p)}, though the interval leaves out zero"


def _threshold_words(compared: ComparedPair) -> Iterator[str]:
    """Yield whether the verdict hangs on the threshold of 0.5."""
    points = compared.points
    others = [at for at in points if at.main.verdict != points[0].main.verdict]
    if points and not others:
        yield "At thresholds and temperatures fitted on the validation part the verdict is the same."
    for at in others:
        verdict = _sentence(at.main, compared.pair)
        yield f"With another operating point ({at.point.description}) the verdict is: {verdict}"


def describe_thresholds(compared: ComparedPair) -> list[str]:
    """Return how sure each kind of fitted threshold is; empty where none was fitted."""
    return [sentence for at in compared.points if (sentence := _threshold_error_words(at))]


def _threshold_error_words(at: AtPoint) -> str | None:
    parts = []
    for arm, bases in at.bases.items():
        errors = [basis.error for basis in bases if basis.error is not None]
        if errors:
            studies = _span([basis.studies for basis in bases if basis.studies is not None], 0)
            parts.append(f"{_span(errors, 2)} for {arm} ({studies} validation studies)")
    if not parts:
        return None
    noise = "; fitted on few studies, it is partly noise" if at.point.scope == ONE_EACH else ""
    return f"{at.point.description.capitalize()}: its standard error is {' and '.join(parts)}{noise}."


def _span(values: Sequence[float], digits: int) -> str:
    """Return `0.05 to 0.21`, or the one number that all are."""
    low, high = (f"{end:.{digits}f}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def describe_backbones(study: Study) -> list[str]:
    """Return what the comparison of models within an arm speaks of, and what was changed of its plan."""
    if not study.backbones:
        return []
    first, fewest = study.backbones[0].pair, min(compared.main.seeds for compared in study.backbones)
    which = f"each model and {study.primary}" if study.primary else "every two models"
    speaks = f"With {fewest} {'seed' if fewest == 1 else 'seeds'} a model or more, a verdict speaks of "
    if fewest >= SEEDS_FOR_AN_APPROACH:
        speaks += "the models with their recipes."
    else:
        speaks += f"{THESE_MODELS}: to speak of more takes {SEEDS_FOR_AN_APPROACH} seeds."
    return [
        f"Within an arm, {which} are compared as two arms are: study accuracy on the test set, all extremities "
        "together, p after Holm's correction for the pairs of the arm. Each model is trained by its own recipe.",
        " ".join(filter(None, (speaks, describe_extension(first), describe_changed_primary(first, study.primary)))),
        *([KUMAR_BACKBONES] if {"resnet18", "resnet50"} <= set(study.models) else []),
    ]


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


NO_HEAT = (
    "No run left heat maps (heat.npz), so nothing is shown of where the models look: give `mura explain` the study's "
    "folder with --test, or train with explain=true."
)


def describe_heat(study: Study) -> list[str]:
    """Return for each model and two arms how alike their heat maps are, beside two seeds of one arm."""
    sentences = []
    for model, a, b in dict.fromkeys((each.model, each.a, each.b) for each in study.heat if each.a != each.b):
        of_model = [each for each in study.heat if each.model == model]
        between = [each.correlation for each in of_model if (each.a, each.b) == (a, b)]
        within = [each.correlation for each in of_model if each.a == each.b and each.a in (a, b)]
        beside = (
            "with one seed an arm, nothing says how alike two trainings of one arm would be"
            if not within
            else f"two seeds of one arm: {sum(within) / len(within):.2f}"
        )
        mean = sum(between) / len(between)
        sentences.append(f"{model}, {a} and {b}: rank correlation {mean:.2f} on average; {beside}.")
    return sentences


def _sentence(record: Comparison, pair: Pair) -> str:
    if record.difference is None or record.a is None or record.b is None:
        return f"{record.verdict}."
    words = record.verdict
    if record.equivalence not in (None, record.verdict):
        words += f", {record.equivalence}"
    values = (
        f"study accuracy {100 * record.a:.1f} % {pair.a}, {100 * record.b:.1f} % {pair.b}, "
        f"difference {signed(100 * record.difference)} points"
    )
    if record.low is None or record.high is None:
        return f"{words}; {values}."
    interval = f"95 % interval {signed(100 * record.low)} to {signed(100 * record.high)}"
    if record.margin is not None and record.low_90 is not None and record.high_90 is not None:
        interval += f", 90 % interval {signed(100 * record.low_90)} to {signed(100 * record.high_90)}"
    if decided := _against_interval(record):
        interval += f"; {decided}"
    if record.verdict == NO_DIFFERENCE and record.smallest_detectable is not None:
        interval += f"; a difference of {100 * record.smallest_detectable:.1f} points could have been shown"
    elif record.verdict == NO_DIFFERENCE and record.why_not_detectable is not None:
        interval += f"; what could have been shown is unknown, since {record.why_not_detectable}"
    return f"{words}; {values} ({interval})."


def describe_row(record: Comparison) -> str:
    """Return the verdict of a row and, where only the correction stood against it, that."""
    if record.verdict != NOT_AFTER_CORRECTION:
        return record.verdict
    return f"{record.verdict} for {NUMBERS[record.tests]} extremities (alone {equals(record.p)})"


def describe_scope(pair: Pair) -> str:
    """Return what a verdict speaks of: with few seeds of the models, with three or more of the approaches."""
    seeds = {arm: len(tables) for arm, tables in pair.arms.items()}
    is_by_seed, how = _pairing_words(pair)
    if is_by_seed:
        seeds = dict.fromkeys(seeds, len(pair.common_seeds))
    fewest = min(seeds.values())
    counts = f"{fewest} seeds an arm" if len(set(seeds.values())) == 1 else " and ".join(
        f"{n} {'seed' if n == 1 else 'seeds'} of {arm}" for arm, n in seeds.items()
    )  # fmt: skip
    if fewest >= SEEDS_FOR_AN_APPROACH:
        return f"With {counts}, this speaks of the two approaches {describe_splits(pair.splits)}.{how}"
    counts = "one seed" if set(seeds.values()) == {1} else counts
    models = "these two trained models" if counts == "one seed" else "these trained models"
    return (
        f"With {counts}, this speaks of {models}, not of the two approaches: "
        f"that takes {SEEDS_FOR_AN_APPROACH} seeds or more.{how}"
    )


def _pairing_words(pair: Pair) -> tuple[bool, str]:
    """Return whether two arms that share a start or splits are paired by seed, and a sentence where there is a choice.

    Arms that share a start may have too few seeds in common; those that share splits have the same seeds.
    """
    shared = [*(["start"] if share_start(pair.a, pair.b) else []), *(["split"] if pair.splits > 1 else [])]
    if not shared or min(map(len, pair.arms.values())) < 2:
        return False, ""
    if len(pair.common_seeds) >= SEEDS_FOR_PAIRS:
        return True, f" Runs of one seed share their {_listed(shared)}: paired by seed ({_listed(pair.common_seeds)})."
    few = f"The arms share their {_listed(shared)} but fewer than {NUMBERS[SEEDS_FOR_PAIRS]} seeds"
    return False, f" {few}: their seeds are counted as independent."


def _listed(names: Sequence[object]) -> str:
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last


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
    """Return p with three digits, near 5 % with four: there they decide."""
    if value is None:
        return "–"
    if value < 0.001:
        return "< 0.001"
    return f"{value:.4f}" if 0.045 <= value < 0.055 else f"{value:.3f}"


def equals(p: float | None) -> str:
    """Return `p = 0.025`, or `p < 0.001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def describe_difference(record: Comparison) -> str:
    """Return `−1.2 (−5.0 to +2.6)`: percentage points for accuracy, else as it is."""
    if record.difference is None:
        return "–"
    text = _in_units(record, record.difference)
    return text if record.low is None else f"{text} ({_interval(record, record.low, record.high)})"


def describe_simultaneous(record: Comparison) -> str:
    """Return the simultaneous interval, `−7.1 to +4.7`."""
    return _interval(record, record.low_simultaneous, record.high_simultaneous)


def _interval(record: Comparison, low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{_in_units(record, low)} to {_in_units(record, high)}"


def _in_units(record: Comparison, value: float) -> str:
    factor, digits = (100, 1) if record.metric == "accuracy" else (1, 3)
    return signed(factor * value, digits)


def describe_duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
