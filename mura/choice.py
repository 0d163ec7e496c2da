"""An automatic choice is always explained."""

from typing import NamedTuple


class Choice(NamedTuple):
    """A value and why it was chosen; the log prints both."""

    value: str
    reason: str
