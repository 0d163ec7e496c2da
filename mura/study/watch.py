"""A study while it runs: what is done, running, failed and waiting, and the time left."""

import sys
import time
from collections.abc import Callable

from rich.live import Live
from rich.text import Text

from mura.errors import DivergedError
from mura.launch.jobs import Job, Outcome
from mura.progress import console_on, log_above


class StudyWatch:
    """Told by the launcher of every start and end; prints what happened and keeps a line of totals.

    With `takes_divergence`, a loss that is no number any more is a result, as in a search, and no failure.
    """

    def __init__(self, total: int, missing: int, takes_divergence: bool = False) -> None:
        self.takes_divergence = takes_divergence
        self.console = console_on(sys.stderr)
        self.done, self.waiting = total - missing, missing
        self.running: dict[str, float] = {}
        self.failed: list[Outcome] = []
        self.seconds: list[float] = []
        self.live = Live(get_renderable=self.line, console=self.console, transient=True, refresh_per_second=2)

    def __call__(self, job: Job, outcome: Outcome | None) -> None:
        if outcome is None:
            self.waiting -= 1
            self.running[job.name] = time.monotonic()
            return
        del self.running[job.name]
        self.seconds.append(outcome.seconds)
        if outcome.exit_code == 0:
            self.done += 1
            self.console.print(f"done    {job.name} ({outcome.seconds:.0f} s)", highlight=False)
        elif outcome.exit_code == DivergedError.exit_code and self.takes_divergence:
            self.done += 1
            self.console.print(f"diverged {job.name}: {last_words(job)}", highlight=False)
        else:
            self.failed.append(outcome)
            self.console.print(f"FAILED  {job.name}: {last_words(job)} (log: {job.log})", style="red", highlight=False)

    def line(self) -> Text:
        """Return the counts, the time left, and what runs."""
        text = f"{self.done} done, {len(self.running)} running, {len(self.failed)} failed, {self.waiting} waiting"
        if self.seconds and self.running:
            each = sum(self.seconds) / len(self.seconds)
            spent = sum(time.monotonic() - started for started in self.running.values())
            left = max(0.0, each * (self.waiting + len(self.running)) - spent) / len(self.running)
            text += f"; about {left / 60:.0f} min left" if left > 90 else f"; about {left:.0f} s left"
        return Text(text + (f"   [{', '.join(self.running)}]" if self.running else ""))


def last_words(job: Job) -> str:
    """Return the last line of a failed run's log: the sentence of its error."""
    if not job.log.is_file():
        return "it left no log"
    lines = [line for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("train.py: ") if lines else "it said nothing"


def run_study(launch: Callable[..., list[Outcome]], waves: list[list[Job]], watch: StudyWatch) -> list[Outcome]:
    """Run one wave of jobs after the other; list those that failed once more at the end, and return them."""
    with watch.live, log_above():
        for jobs in waves:
            launch(jobs, watch)
    say_failed(watch)
    return watch.failed


def say_failed(watch: StudyWatch) -> None:
    """Name the runs that failed once more, and what to do."""
    for outcome in watch.failed:
        watch.console.print(f"failed: {outcome.job.name}, {outcome.job.log}", style="red", highlight=False)
    if watch.failed:
        watch.console.print("start the same command again: it trains only the missing runs", highlight=False)
