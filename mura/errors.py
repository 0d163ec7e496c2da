"""The errors that are a user's to mend. Raised where the fault is known; turned into one line at the door."""


class MuraError(Exception):
    """One clear sentence: what is wrong, where (file, config key), and what to do. No traceback is shown."""

    exit_code = 1


class ConfigError(MuraError):
    """A command line or config that can't be run as it stands. Nothing was started, nothing written."""

    exit_code = 2


class InterruptedRunError(MuraError):
    """Ctrl-C. The run can go on; the sentence says how."""

    exit_code = 130
