"""The study as a user types it."""

import pytest
from command import Command, Ended

from mura.config.sentences import exit_with_sentence
from sweep import main


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str]) -> Command:
    """`python sweep.py ...` in this process, whose server has imported torch already: a run then starts in no time."""

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        try:
            with exit_with_sentence():
                code = main(list(arguments))
        except SystemExit as error:
            code = int(str(error.code))
        printed = capsys.readouterr()
        return Ended(code, printed.out + printed.err)

    return run
