"""The trials of all searches of a study as runs: started through the study's launcher, told, noted, and chosen from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mura.errors import DivergedError, MuraError
from mura.files import write_json
from mura.launch.jobs import Job, Outcome
from mura.progress import log_above
from mura.runs.folder import COMPLETE, DIVERGED, JOURNAL_FILE, PRUNED, SEARCH_FILE, RunFolder
from mura.runs.records import read_metrics, read_search
from mura.study.grid import Cell
from mura.study.search import Journal, Search, Terms, Told, importance
from mura.study.space import Params, overrides, without
from mura.study.watch import StudyWatch, run_study, say_failed

Launch = Callable[..., list[Outcome]]
EXIT_DIVERGED = DivergedError.exit_code
TRIES = 2  # of a run that fails, before the search stops
TESTING = ("data.transfer=true",)
"""The settings of an arm that ask for test views."""

PRUNING = "mura.training.callbacks.PruneTrial"


@dataclass
class Tuning:
    """The searches of a study, all on the same terms, in `folder`.

    `settings` are the command line's own, `logging` those of the trials' loggers, and `group` is their group in W&B.
    """

    terms: Terms
    folder: Path
    searches: list[Search]
    settings: list[str]
    logging: list[str]
    group: str

    @property
    def is_finished(self) -> bool:
        return all(search.is_finished for search in self.searches)

    @property
    def chosen(self) -> dict[str, list[str]]:
        """The settings that the finished searches have chosen, by `model/data`; none where the recipe was best."""
        return {
            search.name: overrides(search.chosen.params) if search.chosen.number else []
            for search in self.searches
            if search.is_finished
        }

    def stages(self) -> list[list[Search]]:
        """Return the searches in the order in which their runs can be trained: what starts from others comes last."""
        first = [search for search in self.searches if search.cell.parent is None]
        return [first, [search for search in self.searches if search.cell.parent is not None]]

    def describe(self) -> list[str]:
        """Return a line a search: how many of its trials are done, and what was chosen."""
        lines = []
        for search in self.searches:
            words = f"; chosen: trial {search.chosen.number}" if search.is_finished else ""
            lines.append(f"search     {search.name}: {len(search.told)} of {self.terms.trials} trials{words}")
        return lines

    def take_over(self) -> None:
        """Take over what an earlier start has noted. Raises MuraError when it searched on other terms."""
        if not (self.folder / SEARCH_FILE).is_file():
            return
        noted = read_search(self.folder)
        now = self.terms.describe()
        differing = [f"{key} {noted[key]}, now {now[key]}" for key in now if key != "space" and noted[key] != now[key]]
        for key in dict.fromkeys((*noted["space"], *now["space"])):
            before, after = noted["space"].get(key), now["space"].get(key)
            if before != after:
                differing.append(f"{key} {before or 'not searched'}, now {after or 'not searched'}")
        if differing:
            raise MuraError(
                f"{self.folder} holds a search on other terms: {'; '.join(differing)}; go on with those, or give the "
                "study another name=."
            )
        for search in self.searches:
            about = noted["searches"].get(search.name, {"trials": []})
            search.told = {each["number"]: Told(**each) for each in about["trials"]}
            search.importance = about.get("importance")

    def note(self) -> None:
        """Write SEARCH_FILE: the terms, what was told so far, and what was chosen."""
        searches = {search.name: search.describe() for search in self.searches}
        write_json(self.folder / SEARCH_FILE, self.terms.describe() | {"searches": searches})

    def run(self, searches: Sequence[Search], launch: Launch) -> list[Outcome]:
        """Run what is missing of these searches, one generation after the other; return the outcomes that failed."""
        if all(search.is_finished for search in searches):
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.note()
        watch = StudyWatch(sum(len(search.told) for search in searches), 0, takes_divergence=True)
        journal = Journal(self.folder / JOURNAL_FILE, self.searches)
        with watch.live, log_above():
            for generation in self.terms.generations():
                if failed := self._run_generation(generation, searches, journal, launch, watch):
                    watch.failed = failed
                    say_failed(watch)
                    return failed
        for search in searches:
            search.importance = search.importance or importance(self.terms, search.in_order())
        self.note()
        return []

    def _run_generation(
        self, generation: range, searches: Sequence[Search], journal: Journal, launch: Launch, watch: StudyWatch
    ) -> list[Outcome]:
        """Run the trials of a generation of all searches side by side, and tell them in the order of their numbers.

        A run that is killed, or fails by anything but its own numbers, goes on once. When it fails again nothing of the
        generation is told but what ended well; the next start repeats the rest.
        """
        missing = [(search, number) for search in searches for number in generation if number not in search.told]
        diverged: set[str] = set()
        failed: dict[str, Outcome] = {}
        for _ in range(TRIES):
            jobs = [job for each in missing for job in self._jobs(*each, generation, journal, diverged)]
            watch.waiting += len(jobs)
            outcomes = launch(jobs, watch) if jobs else []
            diverged |= {each.job.name for each in outcomes if each.exit_code == EXIT_DIVERGED}
            failed = {each.job.name: each for each in outcomes if each.exit_code not in (0, EXIT_DIVERGED)}
            if not failed:
                break
        for search, number in missing:
            if not any(self._name(run) in failed for run in search.runs(number).values()):
                search.told[number] = self._outcome(search, number, journal.tried(search, number), diverged)
                journal.tell(search, search.told[number])
        self.note()
        return list(failed.values())

    def _jobs(self, search: Search, number: int, generation: range, journal: Journal, diverged: set[str]) -> list[Job]:
        """Return a job for each run of a trial that has not ended; note that the trial is begun, or begun again."""
        ended = [run for run in search.runs(number).values() if run.finished or self._name(run) in diverged]
        params = journal.tried(search, number)
        if params is None:
            params = search.params(number, generation)
        if journal.is_under_way(search, number) and len(ended) == len(search.runs(number)):
            return []
        journal.begin(search, number, params)
        return [
            self._job(search, number, params, cell, search.limits(cell, generation))
            for cell, run in search.runs(number).items()
            if run not in ended
        ]

    def _job(self, search: Search, number: int, params: Params, cell: Cell, limits: list[float | None]) -> Job:
        """Return the job of a run of a trial: it begins, or goes on where it was stopped."""
        run = search.runs(number)[cell]
        if run.begun:
            return Job(self._name(run), [f"resume={run.path}"], run.path)
        name = f"name={search.name.replace('/', '-')}-trial{number}"
        place = [name, f"group={self.group}", f"hydra.run.dir={run.path}"]
        settings = [*self.trial_settings(cell, params if number else {}), *self._pruning(limits)]
        return Job(self._name(run), [*settings, *self.logging, *place], run.path)

    def trial_settings(self, cell: Cell, params: Params) -> list[str]:
        """Return the settings of a run of a trial that make its experiment; no test view is predicted."""
        typed = without(self.settings, [*params, "test"])
        of_cell = [each for each in cell.overrides(self.folder.parent) if each not in TESTING]
        return [*typed, *of_cell, *overrides(params), "test=false"]

    def _pruning(self, limits: list[float | None]) -> list[str]:
        if not limits:
            return []
        values = ",".join("null" if limit is None else str(limit) for limit in limits)
        settings = {"_target_": PRUNING, "monitor": self.terms.monitor, "mode": self.terms.mode}
        return [
            *(f"+callbacks.prune.{key}={value}" for key, value in settings.items()),
            f"+callbacks.prune.limits=[{values}]",
        ]

    def _name(self, run: RunFolder) -> str:
        """Return the name of a trial's run, by its place in the study."""
        return run.path.relative_to(self.folder.parent).as_posix()

    def _outcome(self, search: Search, number: int, params: Params | None, diverged: set[str]) -> Told:
        """Return what came of a trial whose runs have ended; its value is the mean over the folds."""
        runs = search.runs(number).values()
        metrics = [read_metrics(run.metrics) for run in runs if self._name(run) not in diverged]
        values = [each["best_value"] for each in metrics]
        is_whole = len(values) == len(runs) and None not in values
        pruned = any(each["stopped_by"] == PRUNED for each in metrics)
        return Told(
            number=number,
            params=search.recipe if number == 0 else params or {},
            value=fmean(values) if is_whole else None,
            state=DIVERGED if not is_whole else PRUNED if pruned else COMPLETE,
            epochs=sum(each["epochs"] for each in metrics),
            steps=sum(each["steps"] for each in metrics),
            seconds=round(sum(each["speed"].get("wall_seconds") or 0 for each in metrics), 1),
        )

    def test_recipes(self, launch: Launch) -> list[Outcome]:
        """Predict the test views with the recipe's trials, after everything was chosen; return the runs that failed.

        Of several folds, with the first one's run. That costs no training, and says what came before tuning.
        """
        jobs = []
        for search in self.searches:
            run = next(iter(search.runs(0).values()))
            if search.told[0].state != COMPLETE or (run.finished and read_metrics(run.metrics)["test"] is not None):
                continue
            run.metrics.unlink(missing_ok=True)
            jobs.append(Job(f"{self._name(run)}-test", [f"resume={run.path}", "test=true"], run.path))
        return run_study(launch, [jobs], StudyWatch(len(jobs), len(jobs))) if jobs else []
