"""How something is refused: in one sentence."""

from collections.abc import Callable

from mura.errors import MuraError


def refusal(read: Callable[[], object]) -> str | None:
    """The one sentence with which something is refused; None when it is not."""
    try:
        read()
    except MuraError as error:
        said = str(error)
    else:
        return None
    assert "\n" not in said
    return said
