"""The search for good settings, with equal chances: the same space, trials and budget for every arm and data set.

Each model and data set (cnn4/unified, cnn4/wrist) has a search of its own. Trial 0 is the recipe as it is. Then come
the same quasi-random points for all, then what a sampler suggests. Trials are run and told in generations. What a trial
tries depends on the generations before it, on what is tried beside it, and on its number: all of that is fixed before
one of its generation has ended. So neither the order in which trials end, nor how many run at a time, nor a kill in the
middle changes what is tried and chosen.

The judge is the best epoch's `monitor` on the validation views (log loss unless said otherwise); no trial predicts a
test view. Optuna is imported here alone, and only when there is a search.
"""

import logging
import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mura.errors import MuraError
from mura.runs.folder import COMPLETE, PRUNED, RunFolder, trial_runs
from mura.study.grid import Cell
from mura.study.space import Options, Params, Range, Space, describe_space, quasi_random

STARTS = 10
"""The most trials that are tried before the sampler's: the recipe and the quasi-random points."""

GENERATION = 4
"""How many of the sampler's trials are suggested at once, from the same earlier results."""

GOOD = 1 / 3
"""The share of the trials that the sampler takes for good."""

FROM_EPOCH = 3
"""A trial is stopped after 1/FROM_EPOCH of its epochs at the earliest."""

DIRECTION: Any = {"min": "minimize", "max": "maximize"}  # in Optuna's words

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """What is the same for every search of a study; `folds` None: each trial is one run, on the fold of its cell."""

    space: Space
    trials: int
    seed: int
    folds: tuple[int, ...] | None
    prune: bool
    monitor: str
    mode: str

    def describe(self) -> dict[str, Any]:
        """Return the terms as they are noted in SEARCH_FILE."""
        own = {name: getattr(self, name) for name in ("trials", "seed", "prune", "monitor", "mode")}
        return {"space": describe_space(self.space), "folds": list(self.folds or ()), **own}

    def generations(self) -> Iterator[range]:
        """Yield the numbers of the trials that run together."""
        starts = min(math.ceil(self.trials / 2), STARTS)
        yield range(starts)
        for first in range(starts, self.trials, GENERATION):
            yield range(first, min(first + GENERATION, self.trials))

    @cached_property
    def points(self) -> list[Params]:
        """The quasi-random points, which follow the recipe."""
        return quasi_random(self.space, len(next(self.generations())) - 1, self.seed)


@dataclass(frozen=True)
class Told:
    """What came of a trial; `value` is None if it diverged."""

    number: int
    params: Params
    value: float | None
    state: str
    epochs: int
    steps: int
    seconds: float


@dataclass
class Search:
    """The search of one model and data set. `recipe` holds what the space's keys are without a search."""

    cell: Cell
    terms: Terms
    folder: Path
    recipe: Params
    max_epochs: int
    told: dict[int, Told] = field(default_factory=dict)
    importance: dict[str, float] | None = None

    @property
    def name(self) -> str:
        return f"{self.cell.model}/{self.cell.data}"

    def runs(self, number: int) -> dict[Cell, RunFolder]:
        """Return the runs of a trial, one a fold, and where each is written."""
        folds = self.terms.folds or ()
        of_folds = [replace(self.cell, fold=fold) for fold in folds] or [self.cell]
        return dict(zip(of_folds, trial_runs(self.folder / self.name, number, folds), strict=True))

    @property
    def is_finished(self) -> bool:
        return len(self.told) == self.terms.trials

    @property
    def chosen(self) -> Told:
        """The best trial; of equals the first, so that the recipe stays unless something is better."""
        sign = 1 if self.terms.mode == "min" else -1
        complete = [each for each in self.in_order() if each.state == COMPLETE and each.value is not None]
        if not complete:
            raise MuraError(f"{self.folder / self.name}: every trial diverged; give the space smaller learning rates.")
        return min(complete, key=lambda each: sign * float(each.value or 0))

    def in_order(self) -> list[Told]:
        return [self.told[number] for number in sorted(self.told)]

    def params(self, number: int, generation: range) -> Params:
        """Return what a trial of this generation tries: it depends on the generations before alone."""
        if number == 0:
            return self.recipe
        if number <= len(self.terms.points):
            return self.terms.points[number - 1]
        beside: list[Params] = []
        for each in range(generation.start, number + 1):
            beside.append(suggest(self.terms, each, self.before(generation), beside))
        return beside[-1]

    def before(self, generation: range) -> list[Told]:
        return [each for each in self.in_order() if each.number < generation.start]

    def limits(self, cell: Cell, generation: range) -> list[float | None]:
        """Return, by epoch, what a run of this generation must have reached not to be stopped; empty when none is.

        That is the median of what the complete trials of the generations before had reached by then, on the same fold.
        """
        earlier = [self.runs(each.number)[cell] for each in self.before(generation) if each.state == COMPLETE]
        if not self.terms.prune or not earlier:
            return []
        courses = [best_by_epoch(run, self.terms.monitor, self.terms.mode, self.max_epochs) for run in earlier]
        first = math.ceil(self.max_epochs / FROM_EPOCH) - 1
        medians = [round(statistics.median(values), 6) for values in zip(*courses, strict=True)]
        return [None if epoch < first else median for epoch, median in enumerate(medians)]

    def describe(self) -> dict[str, Any]:
        """Return the search as it is noted in SEARCH_FILE; with what was chosen once it is finished."""
        about = {"model": self.cell.model, "data": self.cell.data, "arm": self.cell.arm, "recipe": self.recipe}
        trials = {"trials": [asdict(each) for each in self.in_order()]}
        chosen = {"chosen": self.chosen.number, "importance": self.importance} if self.is_finished else {}
        return {**about, **trials, **chosen}


def best_by_epoch(run: RunFolder, monitor: str, mode: str, epochs: int) -> list[float]:
    """Return the best value that a finished run had reached by each epoch; its last one for those it didn't train."""
    import pandas as pd

    better = min if mode == "min" else max
    course: list[float] = []
    for value in pd.read_csv(run.history)[monitor]:
        course.append(better([float(value), *course[-1:]]))
    return course + course[-1:] * (epochs - len(course))


def require_optuna() -> None:
    """Raise MuraError unless Optuna can be imported."""
    try:
        import optuna
    except ImportError:
        raise MuraError("search= needs Optuna: pip install -e '.[search]' in the clone.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class Journal:
    """Optuna's record of all attempts of all searches: what was tried, and what came of it.

    An attempt is a trial of Optuna's; which of ours it is, its user attribute `trial` says.
    """

    def __init__(self, file: Path, searches: Sequence[Search]) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        cut_to_last_line(file)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
        self.studies = {
            search.name: optuna.create_study(
                storage=storage, study_name=search.name, direction=DIRECTION[search.terms.mode], load_if_exists=True
            )
            for search in searches
        }

    def attempts(self, search: Search, number: int) -> list[Any]:
        """Return Optuna's trials of this trial, in the order in which they were begun."""
        return [each for each in self.studies[search.name].get_trials() if each.user_attrs.get("trial") == number]

    def begin(self, search: Search, number: int, params: Params) -> None:
        """Note that a trial is begun; an attempt that was under way is told as failed: it was killed."""
        from optuna.trial import TrialState, create_trial

        for attempt in self.attempts(search, number):
            if attempt.state == TrialState.RUNNING:
                self.studies[search.name].tell(attempt.number, state=TrialState.FAIL)
        inside = {key: value for key, value in params.items() if search.terms.space[key].holds(value)}
        kept = {key: each for key, each in distributions(search.terms.space).items() if key in inside}
        attempt = create_trial(
            state=TrialState.RUNNING, params=inside, distributions=kept, user_attrs={"trial": number}
        )
        self.studies[search.name].add_trial(attempt)

    def tell(self, search: Search, told: Told) -> None:
        """Note what came of the attempt that is under way."""
        from optuna.trial import Trial, TrialState

        study, attempt = self.studies[search.name], self.attempts(search, told.number)[-1]
        if attempt.state != TrialState.RUNNING:
            return
        if told.state == PRUNED:
            Trial(study, attempt._trial_id).report(float(told.value or 0), told.steps)
            study.tell(attempt.number, state=TrialState.PRUNED)
        else:
            study.tell(attempt.number, worst(search.terms.mode) if told.value is None else told.value)

    def is_under_way(self, search: Search, number: int) -> bool:
        from optuna.trial import TrialState

        return any(attempt.state == TrialState.RUNNING for attempt in self.attempts(search, number))

    def tried(self, search: Search, number: int) -> Params | None:
        """Return the values with which a trial was begun; None if it never was."""
        attempts = self.attempts(search, number)
        return dict(attempts[0].params) if attempts else None


def cut_to_last_line(file: Path) -> None:
    """Cut a journal back to its last whole line: after a kill or on a full disk the last one may be torn."""
    if file.is_file():
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            log.warning("%s: the last line was torn, and is cut off", file)
            with file.open("r+b") as journal:
                journal.truncate(whole)
    for lock in file.parent.glob(f"{file.name}.lock*"):  # of a dead writer: the study's own lock keeps others out
        lock.unlink()


def worst(mode: str) -> float:
    return math.inf if mode == "min" else -math.inf


def distributions(space: Space) -> dict[str, Any]:
    """Return the space as Optuna describes it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(each: Range | Options) -> Any:
        if isinstance(each, Options):
            return CategoricalDistribution(each.values)
        kind: Any = IntDistribution if each.whole else FloatDistribution
        return kind(each.low, each.high, log=each.log)

    return {key: of(each) for key, each in space.items()}


def suggest(terms: Terms, number: int, told: Sequence[Told], beside: Sequence[Params]) -> Params:
    """Return what the sampler tries next after these trials, away from those tried `beside` it.

    It is the same for the same number, seed and trials. The best GOOD of the trials count as good ones: of so few,
    Optuna's tenth is a single one, and the sampler then looks in empty corners.
    """
    import optuna
    from numpy.random import SeedSequence
    from optuna.trial import TrialState, create_trial

    seed = int(SeedSequence([terms.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        for category in (optuna.exceptions.ExperimentalWarning, FutureWarning):  # gamma goes in Optuna 6
            warnings.simplefilter("ignore", category)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=0, multivariate=True, gamma=lambda count: math.ceil(GOOD * count), seed=seed
        )
    study, known = as_study(terms, told, sampler), distributions(terms.space)
    for params in beside:
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=known))
    params = study.ask(known).params
    return {key: each.rounded(params[key]) for key, each in terms.space.items()}


def as_study(terms: Terms, told: Sequence[Told], sampler: Any = None) -> Any:
    """Return these trials as a study of Optuna's in memory, in the order of their numbers; those within the space."""
    import optuna
    from optuna.trial import create_trial

    study = optuna.create_study(direction=DIRECTION[terms.mode], sampler=sampler)
    known = distributions(terms.space)
    for each in told:
        if all(terms.space[key].holds(value) for key, value in each.params.items()):
            value = worst(terms.mode) if each.value is None else each.value
            study.add_trial(create_trial(params=each.params, distributions=known, value=value))
    return study


def importance(terms: Terms, told: Sequence[Told]) -> dict[str, float] | None:
    """Return each setting's share of the variance between the trials (fANOVA); None where that says nothing."""
    import optuna

    study = as_study(terms, [each for each in told if each.state == COMPLETE and each.value is not None])
    if len(study.trials) < 2 or len({trial.value for trial in study.trials}) < 2:
        return None
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=terms.seed)
    )
    return {key: round(float(shares[key]), 4) for key in terms.space if key in shares}
