"""Weights & Biases: online with a key and a network, else offline; it never asks, hangs or costs a run.

No torch here: a study's comparison is logged without it.
"""

import contextlib
import hashlib
import io
import logging
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mura.machine import Choice
from mura.processes import call_with_deadline

CONNECT_SECONDS = 3
SETTINGS = {"init_timeout": 30, "finish_timeout": 120, "console": "off", "silent": True}

log = logging.getLogger(__name__)


def choose_mode() -> Choice:
    """Return `online`, `offline` or `disabled`, with the reason. It asks nothing and waits three seconds at most."""
    import wandb

    wished = os.environ.get("WANDB_MODE")
    if wished in ("offline", "disabled"):
        return Choice(wished, "WANDB_MODE says so")
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            logged_in = wandb.login(prompt=False, verify=False)
        except Exception:  # a malformed key; without one there is nothing to lose
            logged_in = False
    if not logged_in:
        return Choice("offline", "no login: `wandb login` once, or WANDB_API_KEY")
    if wished:  # without a login it would ask for one
        return Choice(wished, "WANDB_MODE says so")
    address = urlparse(str(wandb.setup().settings.base_url))
    if not _answers(address.hostname or "", address.port or (443 if address.scheme == "https" else 80)):
        return Choice("offline", "the W&B server can't be reached")
    return Choice("online", "logged in")


def _answers(host: str, port: int) -> bool:
    """Return whether a server is there."""
    connect = partial(socket.create_connection, (host, port), timeout=CONNECT_SECONDS)
    try:
        call_with_deadline(lambda: connect().close(), CONNECT_SECONDS)
    except OSError:
        return False
    return True


def open_run(folder: Path, *, name: str, **settings: Any) -> Any:
    """Begin the W&B run `name` of a folder, or go on with it; return None when even offline fails."""
    mode = choose_mode()
    identity = hashlib.blake2b(f"{folder.resolve()} {name}".encode(), digest_size=5).hexdigest()
    for attempt in dict.fromkeys([mode, Choice("offline", "instead")]):
        try:
            run = _start(attempt.value, dir=str(folder), id=identity, resume="allow", name=name, **settings)
        except Exception as error:  # whatever W&B's failure is, the run goes on
            log.warning("W&B %s failed: %s", attempt.value, str(error).split("\n")[0])
            forget_failure()
            continue
        how = f"; later: wandb sync {folder}/wandb/offline-run-*" if attempt.value == "offline" else ""
        log.info("W&B: %s (%s)%s", attempt.value, attempt.reason, how)
        return run
    log.warning("W&B: not used; everything is in %s", folder)
    return None


def _start(mode: str, **arguments: Any) -> Any:
    import wandb

    run = wandb.init(mode=mode, settings=wandb.Settings(**SETTINGS), **arguments)  # type: ignore[arg-type]
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return run


def forget_failure() -> None:
    """End the service that could not start a run: it holds on to the run's id, and another one does not know it."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


@contextlib.contextmanager
def never_fatal(what: str) -> Iterator[None]:
    """Report a failure of W&B in one line, whatever it is; nothing is lost by it."""
    try:
        yield
    except Exception as error:
        log.warning("W&B: %s failed, the run folder has everything: %s", what, str(error).split("\n")[0])
