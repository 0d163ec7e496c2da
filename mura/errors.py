"""The errors that are a user's to mend. Raised where the fault is known; turned into one line at the door."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class MuraError(Exception):
    """One clear sentence: what is wrong, where (file, config key), and what to do. No traceback is shown."""

    exit_code = 1


class ConfigError(MuraError):
    """A command line or config that can't be run as it stands. Nothing was started, nothing written."""

    exit_code = 2


class InterruptedRunError(MuraError):
    """Ctrl-C, or SIGTERM (exit code 143). The run can go on; the sentence says how."""

    def __init__(self, sentence: str, exit_code: int = 130) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
