"""What an offline W&B run holds, read back by W&B's own command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def inspect(run: Path, *options: str) -> str:
    [file] = run.glob("wandb/offline-run-*/run-*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", *options, "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def overview(run: Path) -> dict[str, Any]:
    """Config, summary and so on, as W&B shows a run."""
    return json.loads(inspect(run, "--summary"))


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in inspect(run).splitlines()]
    return [line[kind] for line in lines if line["type"] == kind]
