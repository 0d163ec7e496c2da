"""The strength of the tests of the core: small faults are planted in its files, and the tests should notice each.

    python tests/mutants.py --minutes 20 --seed 0

A mutant is a file with one operator, constant, condition or returned value changed. It is run against the tests of its
file only, in a copy of the tree: first those that run the changed lines, and no further than the first that fails. The
sample is drawn from the seed, file by file in turn, until the time is up. Mutants that no test can notice are listed in
equivalent_mutants.toml, each with the reason.

Most mutants change the body of a function. These are planted in a process that has the tests of the file collected,
which saves most of the time. What changes at the import, and whatever seems to be unnoticed, is written into the file
and imported anew: only that counts as unnoticed.
"""

import argparse
import ast
import gc
import inspect
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate, chain, zip_longest
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
TESTS_OF = {
    "mura/metrics.py": ["tests/test_metrics.py"],
    "mura/calibration.py": ["tests/test_calibration.py", "tests/test_metrics.py"],
    "mura/data/split.py": ["tests/data/test_split.py"],
    "mura/data/batches.py": ["tests/data/test_batches.py"],
    "mura/data/datamodule.py": ["tests/data/test_loaders.py", "tests/data/test_datamodule.py"],
    "mura/data/images.py": ["tests/data/test_images.py", "tests/data/test_formats.py"],
    "mura/data/levels.py": ["tests/data/test_levels.py"],
    "mura/comparison/bootstrap.py": ["tests/comparison/test_permutation.py", "tests/comparison/test_bootstrap.py"],
    "mura/comparison/pairs.py": ["tests/comparison/test_pairs.py", "tests/comparison/test_verdict.py"],
    "mura/comparison/estimates.py": ["tests/comparison/test_estimates.py", "tests/comparison/test_verdict.py"],
    "mura/comparison/verdict.py": ["tests/comparison/test_estimates.py", "tests/comparison/test_verdict.py"],
    "mura/comparison/equivalence.py": ["tests/comparison/test_equivalence.py"],
    "mura/comparison/operating.py": ["tests/comparison/test_operating.py"],
    "mura/comparison/collect.py": ["tests/comparison/test_collect.py", "tests/comparison/test_warnings.py"],
    "mura/comparison/warnings.py": ["tests/comparison/test_warnings.py"],
    "mura/runs/fitted.py": ["tests/comparison/test_operating.py", "tests/runs/test_fitted.py"],
}
COPIED = ("mura", "hydra_plugins", "conf", "tests", "benchmarks", "train.py", "sweep.py", "pyproject.toml")
LIBRARIES = (
    "filelock", "hydra", "jinja2", "lightning", "matplotlib.figure", "PIL.Image", "platformdirs", "scipy.optimize",
    "scipy.stats", "sklearn.linear_model", "sklearn.metrics", "sklearn.model_selection",
    "statsmodels.stats.contingency_tables", "statsmodels.stats.multitest", "torch",
)  # fmt: skip
SHARE_TO_KILL = 0.95
LONGEST = 300  # seconds that the tests of a mutant may take
TIMES_LONGER = 10  # so many times the tests' own time in the processor, and 20 s, end an endless loop
ALL_PASSED, NOTICED, WRONG_TREE, NOT_PLANTED = 0, 1, 77, 78

SWAPPED: dict[type[ast.AST], Any] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change in `file`, from `line` to `last`: the whole `source` after it, and these lines before and after."""

    file: str
    source: str
    line: int
    last: int
    before: str
    after: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the mutant in the list of equivalent ones, wherever its line moves to."""
        return self.file, self.before, self.after

    @property
    def diff(self) -> str:
        return f"{self.file}:{self.line}\n    - {self.before}\n    + {self.after}"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return every mutant of a file, once each."""
    whole = source.encode()
    starts = [0, *accumulate(map(len, whole.splitlines(keepends=True)))]
    mutants: dict[str, Mutant] = {}
    for node, becomes in _changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        mutated = (whole[:begin] + becomes.encode() + whole[end:]).decode()
        line, line_end = starts[node.lineno - 1], starts[node.end_lineno]
        before = whole[line:line_end].decode()
        after = (whole[line:begin] + becomes.encode() + whole[end:line_end]).decode()
        words = (" ".join(lines.split()) for lines in (before, after))
        mutants.setdefault(mutated, Mutant(file, mutated, node.lineno, node.end_lineno, *words))
    return list(mutants.values())


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yield each expression that is changed and what stands in its place, outside of annotations and messages."""
    for node in _code(tree):
        if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
            yield node.value, "None"
        elif isinstance(node, ast.Compare):
            for place, operator in enumerate(node.ops):
                operators = [*node.ops]
                operators[place] = SWAPPED[type(operator)]()
                yield node, f"({ast.unparse(ast.Compare(node.left, operators, node.comparators))})"
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
            yield node, f"({ast.unparse(ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right))})"
        elif isinstance(node, ast.BoolOp):
            yield node, f"({ast.unparse(ast.BoolOp(SWAPPED[type(node.op)](), node.values))})"
        elif isinstance(node, ast.UnaryOp):
            yield node, f"({ast.unparse(node.operand)})"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, str(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, f"({node.value + 1})"
            yield node, f"({node.value - 1})"


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree but for annotations, decorators, the texts of messages and zip's `strict`."""
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    yield node
    left_out = ("annotation", "returns", "decorator_list")
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children:
            if name not in left_out and isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from _code(child)


def drawn(files: list[str], seed: int) -> list[Mutant]:
    """Return all mutants, those of each file in random order, one file after the other in turn."""
    by_file = []
    for file in files:
        mutants = mutants_of(file, (REPOSITORY / file).read_text(encoding="utf-8"))
        random.Random(f"{seed} {file}").shuffle(mutants)
        by_file.append(mutants)
    return [mutant for mutant in chain.from_iterable(zip_longest(*by_file)) if mutant is not None]


def copy_tree(folder: Path) -> Path:
    """Copy what the tests need into `folder`, and return it."""
    folder.mkdir()
    for name in COPIED:
        origin = REPOSITORY / name
        if origin.is_dir():
            shutil.copytree(origin, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy2(origin, folder / name)
    return folder


def preload() -> None:
    """Import the libraries once, so that a process forked from this one starts in milliseconds."""
    for name in LIBRARIES:
        import_module(name)
    sys.modules["torch"].set_num_threads(1)
    hypothesis = import_module("hypothesis")
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # shrinking a failure would take most of the time
    hypothesis.settings.register_profile("mutants", phases=phases, deadline=None, database=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")


class Recorder:
    """A pytest plugin that notes how long each test takes and which lines of `file` it runs."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)
        self.tests: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        lines, begin = set[int](), time.perf_counter()

        def on_line(frame: FrameType, event: str, _: object) -> Any:
            lines.add(frame.f_lineno)
            return on_line

        sys.settrace(lambda frame, *_: on_line if frame.f_code.co_filename == self.file else None)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.tests[item.nodeid] = {"seconds": time.perf_counter() - begin, "lines": sorted(lines)}


class InOrder:
    """A pytest plugin that runs the tests in the order of `names`."""

    def __init__(self, names: list[str]) -> None:
        self.place = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.place[item.nodeid] if item.nodeid in self.place else len(self.place))


class Server:
    """A pytest plugin that collects the tests once and runs them, for each mutant that is sent, in a fork.

    It gets a mutant and the order of the tests, and sends back the exit code.
    """

    def __init__(self, connection: Connection, file: Path, cpu_limit: int) -> None:
        self.connection, self.file, self.cpu_limit = connection, file, cpu_limit

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        live = [one for one in gc.get_objects() if type(one) is FunctionType]
        functions = [one for one in live if one.__code__.co_filename == str(self.file)]
        while True:
            try:
                mutant, names = self.connection.recv()
            except EOFError:
                os._exit(0)
            child = os.fork()
            if child == 0:
                limit_process(self.cpu_limit)
                if not plant(functions, self.file, mutant.source):
                    os._exit(NOT_PLANTED)
                InOrder(names).pytest_collection_modifyitems(session.items)
                return  # to the tests, in pytest's own loop
            self.connection.send(exit_code(child))


def plant(functions: list[FunctionType], file: Path, source: str) -> bool:
    """Give the functions of an imported file their code in another source; return whether no other code differs."""
    codes = [compile(text, str(file), "exec", dont_inherit=True) for text in (file.read_text(encoding="utf-8"), source)]
    changed = changed_functions(codes[0], codes[1])
    if changed is None:
        return False
    try:
        for function in functions:
            function.__code__ = changed.get(function.__code__, function.__code__)
    except ValueError:  # another number of variables of the enclosing function
        return False
    return True


def changed_functions(old: CodeType, new: CodeType) -> dict[CodeType, CodeType] | None:
    """Return the new code of each function that differs, by its old one; None where a module or class differs itself.

    `old` and `new` are of the same module or class.
    """
    parts = [[one for one in code.co_consts if isinstance(one, CodeType)] for code in (old, new)]
    rests = [[repr(one) for one in code.co_consts if not isinstance(one, CodeType)] for code in (old, new)]
    if (old.co_code, old.co_names, rests[0]) != (new.co_code, new.co_names, rests[1]):
        return None
    changed: dict[CodeType, CodeType] = {}
    for before, after in zip(*parts, strict=True):
        if before.co_flags & inspect.CO_OPTIMIZED:
            changed |= {before: after} if before != after else {}
        elif (inside := changed_functions(before, after)) is None:
            return None
        else:
            changed |= inside
    return changed


@dataclass(frozen=True)
class Record:
    """What was seen of a file's tests without a mutant: theirs as `Recorder` has them, and their processor time."""

    tests: dict[str, dict[str, Any]]
    cpu_seconds: float

    def order(self, mutant: Mutant) -> list[str]:
        """Return the names of the tests, first those that run the changed lines, the quick ones first."""
        changed = set(range(mutant.line, mutant.last + 1))
        return sorted(
            self.tests, key=lambda name: (changed.isdisjoint(self.tests[name]["lines"]), self.tests[name]["seconds"])
        )

    @property
    def cpu_limit(self) -> int:
        return math.ceil(20 + TIMES_LONGER * self.cpu_seconds)


def start_tests(tree: Path, file: str, plugin: object, cpu_limit: int) -> int:
    """Run the tests of `file` in a fork of this process; return its id."""
    child = os.fork()
    if child == 0:
        limit_process(cpu_limit)
        os._exit(_run_tests(tree, file, plugin))
    return child


def limit_process(cpu_limit: int) -> None:
    """Put this process into a group of its own, and end it after so many seconds in the processor."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, cpu_limit))


def _run_tests(tree: Path, file: str, plugin: object) -> int:
    """Return pytest's exit code, or WRONG_TREE if the tests did not import the copy."""
    os.chdir(tree)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio"]
    options.append("-Wignore::pytest.PytestAssertRewriteWarning")  # of the libraries that are imported already
    options.append(f"--basetemp={tree.parent / f'{tree.name}-tmp'}")
    try:
        code = int(pytest.main([*options, *TESTS_OF[file]], plugins=[plugin]))
    except BaseException:  # whatever a mutant throws out of pytest itself
        return NOTICED
    if isinstance(plugin, Recorder):
        _record_of(tree).write_text(json.dumps(plugin.tests), encoding="utf-8")
    module = sys.modules.get(file.removesuffix(".py").replace("/", "."))
    elsewhere = module is not None and not Path(str(module.__file__)).is_relative_to(tree)
    return WRONG_TREE if elsewhere else code


def _record_of(tree: Path) -> Path:
    return tree.parent / f"{tree.name}-tests.json"


def record_tests(files: list[str], tree: Path) -> dict[str, Record]:
    """Run the tests of each file without a mutant; exit with a sentence if they fail. Leaves bytecode in the tree."""
    records = {}
    sys.dont_write_bytecode = False
    for file in files:
        _, status, used = os.wait4(start_tests(tree, file, Recorder(tree / file), 3600), 0)
        code = os.waitstatus_to_exitcode(status)
        if code == WRONG_TREE:
            raise SystemExit(f"the tests of {file} imported another copy of it")
        if code != ALL_PASSED:
            raise SystemExit(f"the tests fail without a mutant: {' '.join(TESTS_OF[file])}")
        records[file] = Record(json.loads(_record_of(tree).read_text(encoding="utf-8")), used.ru_utime + used.ru_stime)
    sys.dont_write_bytecode = True
    for file in files:  # what stands beside a mutant must not be read in its place
        for compiled in (tree / file).parent.glob(f"__pycache__/{Path(file).stem}.*.pyc"):
            compiled.unlink()
    return records


def exit_code(child: int) -> int:
    """Return how the tests ended, with no process of theirs left; tests that hang are killed."""
    deadline = time.monotonic() + LONGEST
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status if ended else os.waitpid(child, 0)[1])
        time.sleep(0.005)


class Worker:
    """Runs mutants in a tree of its own, one after the other."""

    def __init__(self, tree: Path, records: dict[str, Record]) -> None:
        self.tree, self.records = tree, records
        self.servers: dict[str, Connection] = {}

    def notices(self, mutant: Mutant) -> bool:
        """Return whether a test fails with the mutant."""
        if mutant.file not in self.servers:
            self.servers[mutant.file] = self._serve(mutant.file)
        code = self._ask(mutant)
        return self._from_file(mutant) != ALL_PASSED if code in (ALL_PASSED, NOT_PLANTED) else True

    def _serve(self, file: str) -> Connection:
        """Start the server of a file. Exits with a sentence if its tests fail in another order without a mutant."""
        ours, theirs = Pipe()
        child = os.fork()
        if child == 0:
            for connection in (ours, *self.servers.values()):
                connection.close()
            os._exit(_run_tests(self.tree, file, Server(theirs, self.tree / file, self.records[file].cpu_limit)))
        theirs.close()
        self.servers[file] = ours
        plain = Mutant(file, (REPOSITORY / file).read_text(encoding="utf-8"), 0, 0, "", "")
        if self._ask(plain) != ALL_PASSED:
            raise SystemExit(f"the tests fail in another order: {' '.join(TESTS_OF[file])}")
        return ours

    def _ask(self, mutant: Mutant) -> int:
        self.servers[mutant.file].send((mutant, self.records[mutant.file].order(mutant)))
        return int(self.servers[mutant.file].recv())

    def _from_file(self, mutant: Mutant) -> int:
        """Write the mutant into its file, run the tests in a new process, and return the exit code."""
        record = self.records[mutant.file]
        (self.tree / mutant.file).write_text(mutant.source, encoding="utf-8")
        code = exit_code(start_tests(self.tree, mutant.file, InOrder(record.order(mutant)), record.cpu_limit))
        shutil.copy2(REPOSITORY / mutant.file, self.tree / mutant.file)
        if code == WRONG_TREE:
            raise SystemExit(f"the tests of {mutant.file} imported another copy of it")
        return code


def outcomes(
    mutants: list[Mutant], trees: list[Path], records: dict[str, Record], until: float
) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant with whether the tests noticed it, in a process for each tree, until the time is up."""
    running: list[Connection] = []
    for place, tree in enumerate(trees):
        ours, theirs = Pipe()
        child = os.fork()
        if child == 0:
            for inherited in (ours, *running):  # or it would not see that this process has ended
                inherited.close()
            _work(Worker(tree, records), mutants[place :: len(trees)], until, theirs)
        theirs.close()
        running.append(ours)
    while running:
        for connection in wait(running):
            assert isinstance(connection, Connection)
            try:
                outcome = connection.recv()
            except EOFError:
                running.remove(connection)
                continue
            if isinstance(outcome, str):
                raise SystemExit(outcome)
            yield outcome


def _work(worker: Worker, mutants: list[Mutant], until: float, connection: Connection) -> NoReturn:
    """Send each mutant with whether it was noticed, or the sentence that ends the run; then end this process."""
    try:
        for mutant in mutants:
            if time.monotonic() < until:
                connection.send((mutant, worker.notices(mutant)))
    except SystemExit as error:
        connection.send(str(error))
    finally:
        os._exit(0)


def read_equivalent() -> dict[tuple[str, str, str], str]:
    """Return the reason of each listed mutant that no test can notice, by its key."""
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {(one["file"], one["line"], one["becomes"]): one["reason"] for one in listed}


def check_equivalent(files: list[str]) -> None:
    """Exit with a sentence if a listed mutant is no longer one."""
    keys = {mutant.key for mutant in drawn(files, 0)}
    for file, line, becomes in read_equivalent():
        if file in files and (file, line, becomes) not in keys:
            raise SystemExit(f"{EQUIVALENT.name} lists what is no mutant of {file}: {line} -> {becomes}")


def print_table(files: list[str], killed: Counter[str], survived: Counter[str], skipped: Counter[str]) -> float:
    """Print the share killed file by file and together, and return the latter."""
    print(f"\n{'file':34} {'run':>5} {'killed':>7} {'share':>7}   equivalent, not run")
    for file in files:
        run = killed[file] + survived[file]
        print(f"{file:34} {run:5} {killed[file]:7} {killed[file] / max(run, 1):7.1%}   {skipped[file]}")
    run, share = killed.total() + survived.total(), killed.total() / max(killed.total() + survived.total(), 1)
    print(f"{'together':34} {run:5} {killed.total():7} {share:7.1%}   {skipped.total()}")
    return share


def main() -> int:
    """Run the sample that the arguments describe; return 1 if too few mutants were noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--files", nargs="*", default=list(TESTS_OF), choices=list(TESTS_OF))
    arguments = parser.parse_args()
    files = arguments.files
    equivalent, sample = read_equivalent(), drawn(arguments.files, arguments.seed)
    to_run = [mutant for mutant in sample if mutant.key not in equivalent]
    skipped = Counter(mutant.file for mutant in sample if mutant.key in equivalent)
    killed, survived = Counter[str](), Counter[str]()
    until = time.monotonic() + 60 * arguments.minutes
    check_equivalent(files)
    preload()
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder).resolve() / "tree0")
        records = record_tests(files, tree)
        more = [Path(shutil.copytree(tree, tree.with_name(f"tree{n}"))) for n in range(1, arguments.workers)]
        for mutant, noticed in outcomes(to_run, [tree, *more], records, until):
            (killed if noticed else survived)[mutant.file] += 1
            if not noticed:
                print(mutant.diff, flush=True)
    share = print_table(files, killed, survived, skipped)
    print(f"seed {arguments.seed}, {killed.total() + survived.total()} of {len(to_run)} mutants run")
    return 0 if share >= SHARE_TO_KILL else 1


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[threads] = "1"
    here = {str(REPOSITORY), str(REPOSITORY / "tests")}
    sys.path[:] = [place for place in sys.path if str(Path(place).resolve()) not in here]
    raise SystemExit(main())
