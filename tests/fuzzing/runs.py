"""Run folders that are damaged: a comparison whose pages carry no markup of theirs, or a sentence with the file."""

import json
import random
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from run_folders import write_run

from mura.comparison.collect import collect
from mura.config.command_line import resume_arguments
from mura.report.write import console_table, write_report
from mura.runs.folder import RunFolder

from .cases import (
    VALUES,
    Case,
    Edit,
    Refused,
    answer,
    draw_byte_edit,
    edit_bytes,
    emptied_folder,
    outcome,
    writing_only_below,
)  # fmt: skip

FILES = ("metrics.json", "config.yaml", "history.csv", "predictions.csv", ".hydra/overrides.yaml")
CELLS = ("", "x", "nan", "inf", "-1", "2", "1e400", "0.5", "True", "=1+1", "<script>alert(1)</script>", "9" * 400, '"')
WHOLE_REPORT = 8
"""One case of so many goes through the whole report; the others are read and compared for belonging together."""


class Runs:
    """Tries two small runs, one of them damaged, as `mura report` and `resume=` read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for arm in ("specialised", "finetuned"):
            place = write_run(folder / "whole" / arm, ["wrist"], arm=arm, patients=6)
            (place / ".hydra").mkdir()
            (place / ".hydra" / "overrides.yaml").write_text("- model=cnn2\n- data=wrist\n")
        self.files = {name: (folder / "whole" / "specialised" / name).read_bytes() for name in FILES}
        self.whole = {
            "metrics.json": json.loads(self.files["metrics.json"]),
            "config.yaml": yaml.safe_load(self.files["config.yaml"]),
        }

    def draw(self, rng: random.Random) -> Case:
        return Case(f"run {rng.randrange(WHOLE_REPORT)}", tuple(self.draw_edit(rng) for _ in range(rng.randint(1, 4))))

    def draw_edit(self, rng: random.Random) -> Edit:
        file = rng.choice(FILES)
        if file in self.whole and rng.random() < 0.7:
            return ("put", file, tuple(draw_place(self.whole[file], rng)), rng.choice(VALUES))
        if file.endswith(".csv") and rng.random() < 0.7:
            return ("cell", file, rng.random() ** 2, rng.randrange(9), rng.choice(CELLS))
        return ("bytes", file, draw_byte_edit(rng))

    def attempt(self, case: Case) -> str:
        with emptied_folder(self.folder) as above:
            run = RunFolder(above / "runs" / "damaged")
            run.overrides.parent.mkdir(parents=True)
            for name, data in self.files.items():
                (run.path / name).write_bytes(edited(data, [edit for edit in case.edits if edit[1] == name]))
            (above / "runs" / "whole").symlink_to(self.folder / "whole" / "finetuned")
            with writing_only_below(above):
                result = self.compared(above, case)
                self.resumed(run)
            return outcome(result)

    def compared(self, above: Path, case: Case) -> Any:
        if case.base != "run 0":
            return answer(lambda: collect([above / "runs"], []))
        study = answer(lambda: write_report([above / "runs"], above / "out", resamples=10))
        if isinstance(study, Refused):
            assert not (above / "out").exists(), "a report was begun"
            return study
        page = (above / "out" / "index.html").read_text()
        assert "<script>alert" not in page, "markup of a run folder is in the report"
        Console(quiet=True).print(console_table(study))
        return study

    def resumed(self, run: RunFolder) -> None:
        run.metrics.unlink()
        arguments = answer(lambda: resume_arguments([f"resume={run.path}"]))
        if not isinstance(arguments, Refused):
            assert arguments[-1] == f"hydra.run.dir={run.path}"
            assert not any(each.lstrip("+~").startswith(("hydra.", "hydra/")) for each in arguments[:-1])


def draw_place(tree: Any, rng: random.Random) -> list[str]:
    """Return the keys that lead to some value of a tree."""
    place: list[str] = []
    while isinstance(tree, dict) and tree:
        place.append(rng.choice(list(tree)))
        tree = tree[place[-1]]
        if rng.random() < 0.4:
            break
    return place


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """Return a file's bytes with its edits, one after the other; one that no longer fits is left out."""
    for kind, name, *rest in edits:
        try:
            if kind == "bytes":
                data = edit_bytes(data, (rest[0],))
            elif kind == "cell":
                data = with_cell(data.decode(), *rest).encode()
            elif name.endswith(".json"):
                data = json.dumps(with_value(json.loads(data), *rest)).encode()
            else:
                data = yaml.dump(with_value(yaml.safe_load(data), *rest)).encode(errors="surrogateescape")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
            pass
    return data


def with_value(tree: Any, place: tuple[str, ...], value: Any) -> Any:
    if not place:
        return value
    changed: dict[str, Any] = {**tree}
    changed[place[0]] = with_value(tree.get(place[0], {}), place[1:], value)
    return changed


def with_cell(text: str, row: float, column: int, value: str) -> str:
    lines = text.splitlines()
    at = int(row * len(lines))
    cells = lines[at].split(",")
    cells[column % len(cells)] = value
    lines[at] = ",".join(cells)
    return "\n".join([*lines, ""])
