"""The benchmarks start and compare like with like; nothing is timed here."""

import logging
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from benchmarks import coverage, gpu
from benchmarks.__main__ import main
from benchmarks.comparison import arms
from benchmarks.measure import Plan, Row
from benchmarks.ours import composed
from benchmarks.peers import TemplateModule
from benchmarks.scaling import study_of
from benchmarks.training import network
from benchmarks.worlds import WORLDS, binomial_interval, null_p_values
from mura.comparison.collect import collect
from mura.config.rules import check_config
from mura.extremities import EXTREMITIES
from mura.machine import Choice
from mura.synthetic import dataset


@pytest.fixture(autouse=True)
def logs_as_before():
    """Undo what a benchmark does to keep the terminal to itself."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "mura")]
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


def test_the_runner_lists_its_benchmarks(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--list"])
    assert main() == 0
    assert {"cnn4", "loader", "comparison"} <= set(capsys.readouterr().out.split())


def test_a_benchmark_that_fails_costs_no_other_its_rows(monkeypatch, tmp_path, capsys):
    def fails(plan):
        raise ValueError("no such thing")

    page = tmp_path / "page.md"
    page.write_text("<!-- measured: begin -->\n<!-- measured: end -->\n")
    both = {"first": fails, "second": lambda plan: [Row("this", "that", [1.5], 1.0)]}
    monkeypatch.setattr("benchmarks.__main__.benchmarks", lambda gpu=False: both)
    monkeypatch.setattr("benchmarks.__main__.REPOSITORY", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr("sys.argv", ["benchmarks", "--write", str(page)])
    assert main() == 1
    assert "| this | that | 1.50 |" in page.read_text()
    said = capsys.readouterr()
    assert "failed: first" in said.out
    assert "no such thing" in said.err


def test_the_study_whose_growth_is_measured_can_be_reported(tmp_path):
    tenth = {name: [table.iloc[::10] for table in group] for name, group in arms().items()}
    runs, _ = collect([study_of(tenth, tmp_path)])
    assert len(runs) == 8


def test_a_row_knows_whether_more_or_less_is_wanted():
    assert Row("a", "b", [1.9, 2.0, 2.1], 2.0).reached
    assert not Row("a", "b", [1.9, 2.0, 2.1], 1.5, at_most=True).reached
    assert Row("a", "b", [1.0], None).reached is None


def test_the_template_trains_the_network_that_ours_trains():
    ours = network("cnn4").eval()
    template = TemplateModule(ours, lr=0.1)
    pictures = torch.rand(2, ours.channels, 64, 64)
    assert torch.equal(template.network(pictures), ours(pictures))


@pytest.mark.parametrize("name", sorted(file.stem for file in Path(__file__).parent.parent.glob("benchmarks/*.py")))
def test_every_benchmark_finds_what_it_imports(name):
    import_module(f"benchmarks.{name}")


@pytest.mark.filterwarnings("ignore")  # a CPU has no float16
def test_the_benchmarks_of_a_gpu_run_through_on_a_cpu(monkeypatch, tmp_path):
    """Stands in for a card: nothing is compiled, and the commands of several processes are read, not started."""
    bench = gpu.Bench("cpu", "cpu", side=32, pictures=96, steps=1, warm=1, models=("cnn4",), table=("cnn4",))
    asked = []

    def command(script, *arguments):
        cfg = composed(*arguments)
        check_config(cfg)
        asked.append((cfg.trainer.strategy, cfg.trainer.devices))
        run = Path(next(each for each in arguments if each.startswith("hydra.run.dir=")).partition("=")[2])
        run.mkdir(parents=True)
        (run / "metrics.json").write_text('{"speed": {"train_images_per_second": 100.0}}')

    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    monkeypatch.setattr(gpu, "seconds_of_command", command)
    monkeypatch.setattr(gpu, "choose_precision", lambda *_: Choice("bf16-mixed", "stated"))
    monkeypatch.setattr(gpu, "composed", lambda *given: composed(*given, "trainer.limit_val_batches=1"))
    plan = Plan(1, True, tmp_path)
    rows = {name: benchmark(plan, bench) for name, benchmark in gpu.BENCHMARKS.items()}
    assert all(row.ratio > 0 for group in rows.values() for row in group)
    assert [len(group) for group in rows.values()] == [1, 1, 4, 1, 2, 2]
    assert asked == [("ddp", 1), ("auto", 1), ("ddp", 2), ("auto", 1)]


def test_the_benchmarks_of_a_gpu_are_refused_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--gpu"])
    with pytest.raises(SystemExit, match="this machine has no CUDA GPU"):
        main()


def test_every_synthetic_world_has_an_answer_to_be_held_against():
    assert set(WORLDS) == set(dataset.WORLDS)


def test_a_replicate_of_the_null_world_has_a_p_value_at_each_level_for_each_extremity_and_for_all():
    p_values = null_p_values(seed=3)
    assert set(p_values) == {(level, name) for level in ("image", "study") for name in (*EXTREMITIES, "all")}
    assert all(0 < p <= 1 for p in p_values.values())


@pytest.mark.parametrize(("found", "tests"), [(0, 20), (5, 100), (20, 20)])
def test_the_interval_of_a_count_is_the_exact_binomial_one(found, tests):
    expected = binomtest(found, tests).proportion_ci(method="exact")
    assert binomial_interval(found, tests) == pytest.approx((expected.low, expected.high))


def test_equivalence_is_simulated_with_the_true_difference_as_the_margin(monkeypatch):
    monkeypatch.setattr(coverage, "DRAWS", 1)
    setting = coverage.Setting("humerus", gap=-0.3)
    for row in coverage.margin_rows(setting, simulations=3, resamples=100, rng=np.random.default_rng(0)):
        seeds, _, difference, margin, equivalent, not_worse = row
        assert (seeds, difference) == ("1", f"-{margin}")
        assert 0 <= float(equivalent) + float(not_worse) <= 100


@pytest.mark.parametrize("few", [coverage.FewRuns(2, 2), coverage.FewRuns(3, 3), coverage.FewRuns(3, 3, by_seed=True)])
def test_few_seeds_reject_a_true_null_in_no_more_than_six_of_a_hundred(monkeypatch, few):
    monkeypatch.setattr(coverage, "T_TESTS", 4000)
    assert few.p_below(0.2, np.random.default_rng(0)) < 0.06 + 2 * (0.06 * 0.94 / 4000) ** 0.5


def test_what_few_runs_are_called():
    assert coverage.FewRuns(2, 5, 2).name == "2 and 5, the first spread 2 times as much"
    assert coverage.FewRuns(3, 3, by_seed=True).name == "3 pairs"
