"""The documents say what is there: settings, files, make targets, and commands that can be typed."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.settings import MADE_BY, settings_page

REPOSITORY = Path(__file__).parent.parent
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
COMMANDS = [REPOSITORY / "train.py", REPOSITORY / "sweep.py"]
CONFIGS = sorted((REPOSITORY / "conf").rglob("*.yaml"))
UNQUOTED = re.compile(r"(?<!['\"\w.])[\w.]+=[\[{]")
OURS = re.compile(r"(?<![\w/.-])(?:mura|docs|conf|tests|benchmarks)/[\w./-]*\w\.(?:py|md|yaml|j2|sbatch)\b")
ROOMS = "|".join(path.name for path in (REPOSITORY / "mura").iterdir() if path.is_dir())
IN_A_ROOM = re.compile(rf"`((?:{ROOMS})/[\w/.]+\.(?:py|j2))`")
MADE_BY_READERS = {
    "conf/model/efficientnet_b0.yaml",
    "model=efficientnet_b0",
    "callbacks=timer",
    "callbacks=[timer,ema]",
    "key=value",
    "conf/tuned/mine.yaml",
    "experiment=tuned/mine",
}

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def code_of(document: Path) -> Iterator[str]:
    """Yield what a reader may type: code spans, indented lines, and lines of blocks without a language."""
    text = document.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines() if not language else ()
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    yield from (span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def commands_of(document: Path) -> Iterator[str]:
    """Yield the command lines of train.py and sweep.py that the document shows, comments and continuations joined."""
    lines = "\n".join(code_of(document)).replace("\\\n", " ").splitlines()
    yield from (line.partition(" #")[0] for line in lines if re.match(r"python (train|sweep)\.py ", line))


def anchors_of(document: Path) -> set[str]:
    """Return the anchors that GitHub gives the document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_settings_is_what_the_configs_say() -> None:
    page = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), f"conf/ has changed since; make the page anew: {MADE_BY}"


def test_every_setting_is_explained() -> None:
    rows = re.findall(r"^\| `[\w.]+` \|.*\| *(.*?) *\|$", settings_page(), re.MULTILINE)
    assert len(rows) > 70
    assert all(rows)


def test_the_page_of_settings_is_printed() -> None:
    printed = subprocess.run(
        [sys.executable, "docs/settings.py"], capture_output=True, text=True, encoding="utf-8", check=True,
        cwd=REPOSITORY,
    )  # fmt: skip
    assert printed.stdout == settings_page()


@every_document
def test_brackets_in_a_command_are_quoted(document: Path) -> None:
    assert [line for line in code_of(document) if UNQUOTED.search(line)] == [], "zsh refuses these"


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.name)
def test_brackets_in_the_help_of_a_command_are_quoted(script: Path) -> None:
    words = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert words is not None
    assert UNQUOTED.findall(words) == []


def test_brackets_in_the_comments_of_the_configs_are_quoted() -> None:
    comments = {path: re.findall(r"(?:^|\s)# .*", path.read_text(encoding="utf-8")) for path in CONFIGS}
    assert [(path, line) for path in CONFIGS for line in comments[path] if UNQUOTED.search(line)] == []


@every_document
def test_every_file_named_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = {*OURS.findall(text), *(f"mura/{path}" for path in IN_A_ROOM.findall(text))}
    assert [path for path in sorted(named - MADE_BY_READERS) if not (REPOSITORY / path).is_file()] == []


@every_document
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@every_document
def test_every_make_target_named_is_there(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {target for line in code_of(document) for target in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= set(targets)


@every_document
def test_every_setting_of_a_command_is_there(document: Path) -> None:
    page = settings_page()
    for command in commands_of(document):
        for argument in shlex.split(command.partition(" -sc ")[0])[2:]:
            key, equals, value = argument.partition("=")
            if not equals or key.startswith("-") or argument in MADE_BY_READERS:
                continue
            if f"### `{key}=`" in page or key in ("experiment", "launcher", "search"):
                assert all(f"{key}={option}`" in page for option in value.split(",")), command
            else:
                assert f"| `{key}` |" in page or key == "hydra/launcher", command


def test_the_readme_shows_commands() -> None:
    assert len(list(commands_of(REPOSITORY / "README.md"))) >= 6
