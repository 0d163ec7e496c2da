"""SIGTERM, where nothing else answers it, and where something does."""

import os
import signal
from pathlib import Path

import pytest

from mura.errors import InterruptedRunError
from mura.runs import RunFolder
from mura.signals import held_back, resumable, sigterm_answered


def test_sigterm_ends_a_program_with_a_sentence_and_143(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def working() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            closed.append("taken for a fault")
        finally:
            closed.append("closed")

    with pytest.raises(SystemExit) as ended, sigterm_answered():
        working()
    assert ended.value.code == 143
    assert closed == ["closed"]
    assert capsys.readouterr().err.endswith(": stopped.\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_answer_that_calls_ours_after_its_own_is_not_interrupted() -> None:
    heard = []
    with sigterm_answered():
        ours = signal.getsignal(signal.SIGTERM)
        assert callable(ours)

        def lightnings(number: int, frame: object) -> None:
            heard.append(number)
            ours(number, None)

        signal.signal(signal.SIGTERM, lightnings)
        os.kill(os.getpid(), signal.SIGTERM)
        heard.append(0)
    assert heard == [signal.SIGTERM, 0]


@pytest.mark.parametrize("before", [signal.SIG_IGN, lambda *_: None])
def test_a_program_that_is_told_to_ignore_sigterm_goes_on_ignoring_it(before: signal.Handlers) -> None:
    signal.signal(signal.SIGTERM, before)
    try:
        with sigterm_answered():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_says_how_to_go_on_unless_it_is_finished(
    sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InterruptedRunError, match=f"resume={tmp_path}") as stopped, sigterm_answered(), resumable(run):
        os.kill(os.getpid(), sent)
    assert stopped.value.exit_code == code
    run.metrics.write_text("{}")
    with pytest.raises((SystemExit, KeyboardInterrupt)), sigterm_answered(), resumable(run):
        os.kill(os.getpid(), sent)


@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_what_may_not_be_interrupted_ends_first(sent: signal.Signals, raised: type[BaseException]) -> None:
    done = []

    def work() -> None:
        os.kill(os.getpid(), sent)
        done.append(True)

    with sigterm_answered():
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(raised), held_back():
            work()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert done == [True]
