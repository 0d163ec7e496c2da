"""The server of `mura app`: a model, a port on 127.0.0.1, and a clean end."""

import importlib.util
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mura.errors import ConfigError, MuraError
from mura.processes import quick_imports
from mura.signals import answering_signals

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn import Server

HOST = "127.0.0.1"
LIBRARIES = ("starlette", "uvicorn", "python_multipart", "markdown_it")
HIGHEST_PORT = 65535
MOST_CONNECTIONS = 32
PATIENCE = 2  # seconds that a connection gets to end when the program does


def serve(place: Path, arm: str | None, backbone: str | None, port: int) -> None:
    """Show the page of the model at `place` on a port, 0 for a free one, until Ctrl-C or SIGTERM.

    Raises ConfigError for a port that can't be had, MuraError when a library of the extra or the model is missing.
    """
    refuse_without_libraries()
    with answering_signals(), listen(port) as listener, ThreadPoolExecutor(1) as worker:
        with quick_imports():
            from mura.app.page import application
            from mura.inference.models import load_model
        port = listener.getsockname()[1]
        server = server_of(application(load_model(place, arm, backbone), port, worker))
        print(f"http://{HOST}:{port}/ (of this machine only; Ctrl-C ends it)", flush=True)
        server.run(sockets=[listener])


def refuse_without_libraries() -> None:
    """Raise MuraError when a library of the extra is not installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise MuraError(f"mura app needs {' and '.join(missing)}: pip install -e '.[app]' in the clone.")


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine's own address; 0 takes a free one.

    Raises ConfigError when there is no such port, or it can't be had.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise ConfigError(f"--port {port}: a port lies between 1 and {HIGHEST_PORT}; leave it out for a free one.")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a page that has just ended is free
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        why = os.strerror(error.errno or 0)
        raise ConfigError(f"--port {port}: can't be had ({why}); name another, or leave it out.") from None
    return listener


def server_of(application: "ASGIApp") -> "Server":
    """Return the server of a page, to be run with a socket of `listen`. It logs nothing; the page logs its faults."""
    import uvicorn

    config = uvicorn.Config(
        application, loop="asyncio", http="h11", ws="none", lifespan="off", interface="asgi3", log_config=None,
        log_level="critical", access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=PATIENCE,
    )  # fmt: skip
    return uvicorn.Server(config)
