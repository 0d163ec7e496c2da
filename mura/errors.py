"""The errors that are a user's to mend. Raised where the fault is known; turned into one line at the door."""

import errno
import io
import sys
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
LONGEST = 200  # letters of a value that a sentence shows


class MuraError(Exception):
    """One clear sentence: what is wrong, where (file, config key), and what to do. No traceback is shown."""

    exit_code = 1


class ConfigError(MuraError):
    """A command line or config that can't be run as it stands. Nothing was started, nothing written."""

    exit_code = 2


class DivergedError(MuraError):
    """A training whose loss is no number any more: its settings are at fault, and the same again would do the same."""

    exit_code = 3


class InterruptedRunError(MuraError):
    """Ctrl-C, or SIGTERM. The run can go on; the sentence says how."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def say(sentence: str) -> None:
    """Print the sentence on stderr, behind the program's name."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # `python -m mura`
    print(f"{name}: {printable(sentence)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return `text` with escapes for what a terminal would obey or can't show: `\\x1b`, `\\n`, `\\udce9`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def escape_on_stdout() -> None:
    """Have stdout write escapes for what its encoding lacks, such as a Latin-1 terminal's, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
