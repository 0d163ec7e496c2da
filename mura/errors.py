"""The errors that are a user's to mend. Raised where the fault is known; turned into one line at the door."""

import errno
import sys
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class MuraError(Exception):
    """One clear sentence: what is wrong, where (file, config key), and what to do. No traceback is shown."""

    exit_code = 1


class ConfigError(MuraError):
    """A command line or config that can't be run as it stands. Nothing was started, nothing written."""

    exit_code = 2


class InterruptedRunError(MuraError):
    """Ctrl-C, or SIGTERM. The run can go on; the sentence says how."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def say(sentence: str) -> None:
    """Print the sentence on stderr, behind the program's name."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr, flush=True)
