"""Weights & Biases: online with a key and a network, else offline; it never asks, hangs or costs a run.

No torch here: a study's comparison is logged without it.
"""

import contextlib
import inspect
import io
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mura.errors import ConfigError
from mura.files import write_json
from mura.machine import Choice
from mura.processes import call_with_deadline

IDENTITY_FILE = "wandb_run.json"
"""The id, project and entity of the W&B run of a run's or study's folder: drawn once, at random."""

CONNECT_SECONDS = 3
RELEASE_SECONDS = 10  # in which W&B's process ends what failed
SETTINGS = {"init_timeout": 30, "finish_timeout": 120, "console": "off", "silent": True}

log = logging.getLogger(__name__)


def choose_mode() -> Choice:
    """Return `online`, `offline` or `disabled`, with the reason. It asks nothing and waits three seconds at most."""
    import wandb

    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        return Choice("disabled", "WANDB_DISABLED says so")
    wished = os.environ.get("WANDB_MODE")
    wished = {"dryrun": "offline", "run": "online"}.get(wished or "", wished)  # W&B's older words
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
    if not answers(str(wandb.setup().settings.base_url)):
        return Choice("offline", "the W&B server can't be reached")
    return Choice("online", "logged in")


def answers(address: str) -> bool:
    """Return whether a server is there, such as http://localhost:5000; it waits three seconds at most."""
    place = urlparse(address)
    port = place.port or (443 if place.scheme == "https" else 80)
    connect = partial(socket.create_connection, (place.hostname or "", port), timeout=CONNECT_SECONDS)
    try:
        call_with_deadline(lambda: connect().close(), CONNECT_SECONDS)
    except OSError:
        return False
    return True


def _start_when_free(mode: str, **settings: Any) -> Any:
    """Start a run as `_start` does; wait for W&B's process to let go of its id after an attempt that failed."""
    until = time.monotonic() + RELEASE_SECONDS
    while True:
        try:
            return _start(mode, **settings)
        except Exception as error:
            if "is in use" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.2)


def open_run(folder: Path, **settings: Any) -> Any:
    """Begin the W&B run of a folder, or go on with it; return None when even offline fails.

    `settings` are those of `wandb.init`; the tags in WANDB_TAGS are added to theirs.
    """
    import wandb

    for name in settings.keys() - inspect.signature(wandb.init).parameters:  # else W&B would be lost for it
        raise TypeError(f"unexpected keyword argument '{name}'")
    mode = choose_mode()
    settings["tags"] = [*settings["tags"], *filter(None, os.environ.get("WANDB_TAGS", "").split(","))]
    for attempt in dict.fromkeys([mode, Choice("offline", "instead")]):
        try:  # with a new id each time, where none is given: W&B's process may hold that of an attempt that failed
            run = _start_when_free(attempt.value, dir=str(folder), **settings | _identity(folder, settings))
            if attempt.value != "disabled":
                write_json(folder / IDENTITY_FILE, {"id": run.id, "project": run.project, "entity": run.entity or None})
        except Exception as error:  # whatever W&B's failure is, the run goes on
            log.warning("W&B %s failed: %s", attempt.value, str(error).split("\n")[0])
            forget_failure()
            continue
        how = f"; later: wandb sync {folder}/wandb/offline-run-*" if attempt.value == "offline" else ""
        log.info("W&B: %s (%s)%s", attempt.value, attempt.reason, how)
        return run
    log.warning("W&B: not used; everything is in %s", folder)
    return None


def _identity(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what says which W&B run it is: the one noted in the folder, the environment's, or a new one.

    In a W&B sweep it is the agent's run, which W&B finds by itself.
    """
    if "WANDB_SWEEP_ID" in os.environ:
        return {"project": None, "entity": None}
    if not (folder / IDENTITY_FILE).is_file():
        given = os.environ.get("WANDB_RUN_ID")
        resume = os.environ.get("WANDB_RESUME", "allow") if given else "allow"
        return {"id": given or secrets.token_hex(5), "resume": resume}
    noted = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
    if noted["project"] != settings["project"]:
        log.info("W&B: the run goes on in project %s, not in %s", noted["project"], settings["project"])
    return {**noted, "resume": "allow"}


def refuse_shared_id() -> None:
    """Raise ConfigError when WANDB_RUN_ID names one W&B run: call it where several runs are started."""
    if "WANDB_RUN_ID" in os.environ:
        raise ConfigError(
            f"WANDB_RUN_ID={os.environ['WANDB_RUN_ID']}: names one W&B run, and this starts several; unset it, or "
            "start one run (as an agent of a W&B sweep does)."
        )


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
def never_fatal(what: str, service: str = "W&B") -> Iterator[None]:
    """Report a failure of W&B, or of another service, in one line, whatever it is; nothing is lost by it."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s failed, the run folder has everything: %s", service, what, str(error).split("\n")[0])
