"""python -m benchmarks [--quick] [--only NAME] [--list] [--write PAGE]

Each benchmark against its peer, by turns in one run: a table of ratios, and the same as JSON with the machine described
in benchmarks/results/. With --quick shorter, and rougher.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import REPOSITORY, Plan, Row

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Benchmark = Callable[[Plan], list[Row]]


def benchmarks(gpu: bool = False) -> dict[str, Benchmark]:
    from benchmarks import comparison, exporting, loading, scaling, startup, training, using

    if gpu:
        from benchmarks import gpu as on_gpu

        return dict(on_gpu.BENCHMARKS)
    return {
        "command_line": startup.command_line,
        "first_step": startup.first_step,
        "loader": loading.loader,
        "cache": loading.cache_building,
        "cnn4": training.cnn,
        "resnet18": training.resnet,
        "densenet121": training.densenet,
        "evaluation": training.evaluation,
        "predict": using.predict,
        "exported": exporting.exported,
        "study": startup.study,
        "comparison": comparison.comparison,
        "memory": scaling.memory,
        "growth": scaling.growth,
    }


LEFT_OUT_OF_QUICK = ("densenet121", "resnet18", "evaluation", "predict", "study")


def machine() -> dict[str, Any]:
    """What the figures hang on."""
    import torch

    from mura.machine import cpu_computes_bfloat16
    from mura.provenance import git_state

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "bfloat16_instructions": cpu_computes_bfloat16(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "lightning", "numpy")},
        "git": git_state(REPOSITORY),
    }


def cells(row: Row) -> tuple[str, ...]:
    wanted = "" if row.wanted is None else f"{'at most' if row.at_most else 'at least'} {row.wanted:g}"
    spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}" if len(row.ratios) > 1 else "one round"
    reached = {None: "", True: "yes", False: "no"}[row.reached]
    return row.what, row.against, f"{row.ratio:.2f}", spread, wanted, reached, row.detail


HEAD = ("what", "against", "ratio", "spread", "wanted", "reached", "medians")


def without_repeats(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row; what was measured, and the medians, only where the row above has others."""
    above: tuple[str, ...] = ("", "")
    for row in map(cells, rows):
        what = "the same" if row[0] == above[0] else row[0]
        yield what, *row[1:-1], "" if row[-1] == above[-1] else row[-1]
        above = row


def as_markdown(rows: list[Row], about: dict[str, Any], taken: float) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---:|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in without_repeats(rows)]
    commit = (about["git"] or {}).get("commit", "unknown")[:10]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    bf16 = "with" if about["bfloat16_instructions"] else "without"
    lines += [
        "",
        f"{about['cpu']}, {about['cores']} cores, {bf16} bfloat16 instructions, "
        f"load before {about['load_before']:.1f}; Python {about['python']}, {versions}; "
        f"commit {commit}; {datetime.now():%Y-%m-%d}, {taken / 60:.0f} minutes in all.",
    ]
    return "\n".join(lines)


def write_between_markers(page: Path, text: str) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller data, without the large networks")
    parser.add_argument("--only", action="append", metavar="NAME", help="this one (again for several)")
    parser.add_argument("--gpu", action="store_true", help="those that need a CUDA GPU")
    parser.add_argument("--list", action="store_true", help="the names")
    parser.add_argument("--folder", type=Path, help="where data and caches are kept for the next time")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    options = parser.parse_args()
    known = benchmarks(options.gpu)
    for name in options.only or []:
        if name not in known:
            parser.error(f"there is no benchmark {name}; there are {', '.join(known)}")
    options.names = options.only or [n for n in known if not (options.quick and n in LEFT_OUT_OF_QUICK)]
    return options


def measured(options: argparse.Namespace, console: Console) -> tuple[list[Row], list[str]]:
    """One benchmark after the other, each told of when it is done; their rows, and the names of those that failed."""
    rows: list[Row] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mura-bench-") as temporary:
        plan = Plan(1 if options.quick else 3, options.quick, (options.folder or Path(temporary)).resolve())
        plan.folder.mkdir(parents=True, exist_ok=True)
        for name in options.names:
            began = time.perf_counter()
            try:
                measured_rows = benchmarks(options.gpu)[name](plan)
            except Exception:  # what the others measured, in 25 minutes, is not lost with it
                traceback.print_exc()
                failed.append(name)
                continue
            rows += measured_rows
            taken = time.perf_counter() - began
            console.print(f"{name} ({taken:.0f} s): {'; '.join(f'{row.ratio:.2f}' for row in measured_rows)}")
    return rows, failed


def write_json(rows: list[Row], about: dict[str, Any]) -> Path:
    folder = REPOSITORY / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    file = folder / f"{datetime.now():%Y%m%d-%H%M%S}.json"
    content = [dict(zip(HEAD, cells(row), strict=True)) | {"ratios": list(row.ratios)} for row in rows]
    file.write_text(json.dumps({"machine": about, "rows": content}, indent=2) + "\n", encoding="utf-8")
    return file


def main() -> int:
    options = arguments()
    if options.list:
        print("\n".join(options.names))
        return 0
    if options.gpu:
        from benchmarks.gpu import needs_cuda

        needs_cuda()
    warnings.filterwarnings("ignore")
    console = Console(width=None if sys.stdout.isatty() else 160)
    about, start = machine(), time.perf_counter()
    rows, failed = measured(options, console)
    taken = time.perf_counter() - start
    table = Table(*HEAD)
    for row in rows:
        table.add_row(*cells(row), style="red" if row.reached is False else None)
    console.print(table)
    console.print(f"{taken / 60:.1f} minutes; written to {write_json(rows, about).relative_to(REPOSITORY)}")
    if options.write is not None:
        write_between_markers(options.write, as_markdown(rows, about, taken))
    if failed:
        console.print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
