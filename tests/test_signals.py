"""Ctrl-C and SIGTERM, where nothing else answers them, and where something does."""

import os
import signal
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException

from mura.config.sentences import exit_with_sentence
from mura.errors import InterruptedRunError
from mura.runs.folder import RunFolder, resumable
from mura.signals import answering_signals, signal_behind


def test_sigterm_ends_a_program_with_a_sentence_and_143(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def working() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            closed.append("taken for a fault")
        finally:
            closed.append("closed")

    with pytest.raises(SystemExit) as ended, answering_signals():
        working()
    assert ended.value.code == 143
    assert closed == ["closed"]
    assert capsys.readouterr().err.endswith(": stopped.\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_answer_that_calls_ours_after_its_own_is_not_interrupted() -> None:
    heard = []
    with answering_signals():
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
        with answering_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def begun_run(folder: Path) -> RunFolder:
    """Return a run whose start has passed all checks, so that it can go on."""
    run = RunFolder(folder)
    run.overrides.parent.mkdir()
    for file in (run.config, run.overrides):
        file.write_text("")
    return run


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_says_how_to_go_on_unless_it_is_finished(
    sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    run = begun_run(tmp_path)
    with pytest.raises(InterruptedRunError, match=f"resume={tmp_path}") as stopped, answering_signals(), resumable(run):
        os.kill(os.getpid(), sent)
    assert stopped.value.exit_code == code
    run.metrics.write_text("{}")
    with pytest.raises((SystemExit, KeyboardInterrupt)), answering_signals(), resumable(run):
        os.kill(os.getpid(), sent)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("made_of_it", [ValueError("no such renderer"), ConfigCompositionException("no such key")])
def test_a_signal_is_answered_whatever_a_library_makes_of_it(
    sent: signal.Signals, code: int, made_of_it: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def working() -> None:
        try:
            os.kill(os.getpid(), sent)
        except BaseException:
            raise made_of_it from None

    with pytest.raises(SystemExit) as ended, answering_signals(), exit_with_sentence():
        working()
    assert ended.value.code == code
    assert capsys.readouterr().err.endswith(": stopped.\n")

    with pytest.raises(SystemExit) as ended, answering_signals(), exit_with_sentence(), resumable(begun_run(tmp_path)):
        working()
    assert ended.value.code == code
    assert capsys.readouterr().err.endswith(f"resume={tmp_path}\n")


def test_an_error_without_a_signal_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="of its own"), answering_signals(), exit_with_sentence():
        raise ValueError("of its own")


def test_a_signal_is_forgotten_once_the_program_that_it_ended_is_over() -> None:
    with pytest.raises(SystemExit), answering_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal_behind(ValueError("of the next program in this process")) is None
