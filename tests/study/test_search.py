"""The search by itself: what a space may hold, what is tried and in which order, and Optuna's journal."""

import math
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from refusals import refusal

from mura.runs.folder import COMPLETE, DIVERGED, JOURNAL_FILE
from mura.study.grid import cells
from mura.study.search import Journal, Search, Terms, Told, importance
from mura.study.space import Options, Range, overrides, quasi_random, read_space

RATE = {"low": 1e-5, "high": 1e-1, "log": True}
SPACE = read_space({"optimizer": {"lr": RATE}, "augmentation": ["none", "strong"]})
RECIPE = {"optimizer.lr": 1e-3, "augmentation": "none"}


def terms(trials: int = 16, **more: Any) -> Terms:
    return Terms(
        SPACE, trials, **{"seed": 0, "folds": None, "prune": False, "monitor": "val_loss", "mode": "min"} | more
    )


def search(folder: Path, of: Terms, data: str = "wrist") -> Search:
    [cell] = [each for each in cells(["cnn4"], ["wrist", "hand"], ["specialised"], [0]) if each.data == data]
    return Search(cell, of, folder, RECIPE, max_epochs=4)


def tell(of: Search, number: int, value: float | None, params: dict[str, Any]) -> Told:
    of.told[number] = Told(number, params, value, DIVERGED if value is None else COMPLETE, 4, 40, 1.0)
    return of.told[number]


def run_all(of: Search, value: Any) -> list[dict[str, Any]]:
    """Tell every trial of a search what `value` makes of its parameters; those of a generation backwards."""
    for generation in of.terms.generations():
        tried = {number: of.params(number, generation) for number in generation}
        for number in reversed(generation):
            tell(of, number, value(tried[number]), tried[number])
    return [each.params for each in of.in_order()]


def far_from(best: float) -> Any:
    return lambda params: abs(params["optimizer.lr"] - best) + (params["augmentation"] == "none")


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({}, "search: an empty space"),
        ({"optimizer": {}}, "search: an empty space"),
        ({"optimizer": {"lr": {"low": 0.1, "high": 0.01}}}, "search.optimizer.lr: low=0.1 must be below high=0.01"),
        ({"optimizer": {"lr": {"low": 0.1, "high": 0.1}}}, "must be below"),
        ({"optimizer": {"lr": {"low": 0.0, "high": 0.1, "log": True}}}, "must begin above zero"),
        ({"optimizer": {"lr": {"low": 0.1}}}, "search.optimizer.lr.high=null: must be a number"),
        ({"optimizer": {"lr": {"low": True, "high": 2}}}, "search.optimizer.lr.low=True: must be a number"),
        ({"optimizer": {"lr": {"low": "a", "high": 2}}}, "search.optimizer.lr.low=a: must be a number"),
        ({"optimizer": {"lr": {"low": 0.1, "high": float("inf")}}}, "search.optimizer.lr.high=inf: must be a number"),
        ({"optimizer": {"lr": {"low": 0.1, "high": 0.2, "step": 0.1}}}, "search.optimizer.lr.step: a range has low"),
        (
            {"optimizer": {"lr": {"low": 0.1, "high": 0.2, "log": 1}}},
            "search.optimizer.lr.log=1: must be true or false",
        ),
        ({"scheduler": {"patience": {"low": 0.5, "high": 2, "whole": True}}}, "low=0.5: must be a whole number"),
        ({"optimizer": {"lr": 0.1}}, "search.optimizer.lr=0.1: must be a range"),
        ({"augmentation": ["none"]}, "name at least two options"),
        ({"augmentation": ["none", "none"]}, "each only once"),
        ({"augmentation": [["none"], "strong"]}, "each option must be a single value"),
        ({"data": {"batch_size": [8, 16]}}, "search.data: can't be searched, since all trials"),
        ({"trainer": {"max_epochs": {"low": 1, "high": 9, "whole": True}}}, "search.trainer.max_epochs: can't be"),
        ({"model": {"loss": {"balance": [True, False]}}}, "it changes what the validation loss is"),
        ({"seed": [0, 1]}, "search.seed: can't be searched"),
    ],
)
def test_what_can_t_be_searched_is_refused_in_a_sentence(space: dict[str, Any], sentence: str) -> None:
    assert sentence in str(refusal(lambda: read_space(space)))


def test_a_space_is_ranges_and_options_of_settings_and_groups() -> None:
    space = read_space({
        "model": {"dropout": {"low": 0, "high": 1}}, "scheduler": {"step_size": {"low": 1, "high": 3, "whole": True}},
        "optimizer": ["adam", "adamw"], "trainer": {"gradient_clip_val": {"low": 0.1, "high": 10, "log": True}},
    })  # fmt: skip
    assert space["model.dropout"] == Range(0.0, 1.0)
    assert space["scheduler.step_size"] == Range(1, 3, whole=True)
    assert space["optimizer"] == Options(("adam", "adamw"))
    assert overrides({"optimizer": "adam", "trainer.gradient_clip_val": 0.5, "model.batch_norm": None}) == [
        "optimizer=adam", "+trainer.gradient_clip_val=0.5", "model.batch_norm=null",
    ]  # fmt: skip


def test_the_first_points_fill_the_space_and_are_the_same_for_every_arm() -> None:
    points = quasi_random(SPACE, 8, seed=0)
    assert points == quasi_random(SPACE, 8, seed=0) != quasi_random(SPACE, 8, seed=1)
    assert {point["augmentation"] for point in points} == {"none", "strong"}
    rates = sorted(point["optimizer.lr"] for point in points)
    # two of eight in each quarter of the range, on its logarithmic scale
    assert [sum(10.0**low <= rate < 10.0 ** (low + 1) for rate in rates) for low in (-5, -4, -3, -2)] == [2, 2, 2, 2]


def test_every_search_begins_with_the_recipe_and_the_same_points(tmp_path: Path) -> None:
    tried = [run_all(search(tmp_path, terms(), data), far_from(best)) for data, best in (("wrist", 0.1), ("hand", 0.0))]
    assert tried[0][0] == tried[1][0] == RECIPE
    assert tried[0][:8] == tried[1][:8]
    assert tried[0][8:] != tried[1][8:], "the sampler goes where each is better"


def test_the_sampler_looks_where_earlier_trials_were_good(tmp_path: Path) -> None:
    def far(params: dict[str, Any]) -> float:
        return abs(math.log10(params["optimizer.lr"]) + 2.5) + 0.5 * (params["augmentation"] == "none")

    tried = [far(params) for params in run_all(search(tmp_path, terms(trials=32)), far)]
    assert median(tried[10:]) < median(tried[:10]) / 1.5


def test_the_same_trials_are_tried_whatever_order_they_end_in_and_however_often_it_is_interrupted(
    tmp_path: Path,
) -> None:
    whole = run_all(search(tmp_path, terms()), far_from(0.02))
    again = search(tmp_path, terms())
    for generation in again.terms.generations():
        for number in generation:  # forwards, and what is tried is asked anew each time
            params = again.params(number, generation)
            tell(again, number, far_from(0.02)(params), params)
    assert [each.params for each in again.in_order()] == whole
    assert run_all(search(tmp_path, terms(seed=1)), far_from(0.02)) != whole


def test_the_best_trial_is_chosen_and_of_equals_the_first(tmp_path: Path) -> None:
    found = search(tmp_path, terms(trials=4))
    for number, value in enumerate((0.5, 0.3, None, 0.3)):
        tell(found, number, value, RECIPE)
    assert found.chosen.number == 1
    found.terms = terms(trials=4, mode="max", monitor="val_auroc")
    assert found.chosen.number == 0


def test_a_search_whose_trials_all_diverged_chooses_nothing(tmp_path: Path) -> None:
    found = search(tmp_path, terms(trials=2))
    for number in range(2):
        tell(found, number, None, RECIPE)
    assert "every trial diverged" in str(refusal(lambda: found.chosen))


def test_the_sampler_knows_of_diverged_trials_and_of_a_recipe_outside_of_the_space(tmp_path: Path) -> None:
    found = search(tmp_path, terms())
    found.recipe = {"optimizer.lr": 0.0, "augmentation": "rajpurkar"}
    tried = run_all(found, lambda params: None if params["optimizer.lr"] > 0.01 else params["optimizer.lr"])
    assert tried[0] == found.recipe
    assert all(SPACE["optimizer.lr"].holds(params["optimizer.lr"]) for params in tried[1:])


def test_a_trial_is_pruned_by_the_median_of_the_generations_before_after_a_third_of_its_epochs(tmp_path: Path) -> None:
    found = search(tmp_path, terms(trials=8, prune=True))
    first, second = found.terms.generations()
    assert found.limits(found.cell, first) == []
    courses = {0: [0.9, 0.8, 0.7, 0.75], 1: [0.9, 0.6], 2: [0.5, 0.5, 0.5, 0.5], 3: [9.0, 9.0, 9.0, 9.0]}
    for number, values in courses.items():
        run = found.runs(number)[found.cell]
        run.path.mkdir(parents=True)
        run.history.write_text("val_loss\n" + "".join(f"{value}\n" for value in values))
        tell(found, number, None if number == 3 else min(values), RECIPE)
    assert found.limits(found.cell, second) == [None, 0.6, 0.6, 0.6], "the diverged one counts for nothing"
    found.terms = terms(trials=8)
    assert found.limits(found.cell, second) == []


def test_importance_names_the_setting_that_decides(tmp_path: Path) -> None:
    found = search(tmp_path, terms())
    run_all(found, lambda params: params["augmentation"] == "none")
    shares = importance(found.terms, found.in_order())
    assert shares is not None
    assert shares["augmentation"] > 0.9
    run_all(found, lambda params: 0.5)
    assert importance(found.terms, found.in_order()) is None


def test_a_killed_trial_is_told_as_failed_and_begun_again_with_the_same_values(tmp_path: Path) -> None:
    found = search(tmp_path, terms())
    params = {"optimizer.lr": 0.01, "augmentation": "strong"}
    Journal(tmp_path / JOURNAL_FILE, [found]).begin(found, 1, params)
    later = Journal(tmp_path / JOURNAL_FILE, [found])
    assert later.tried(found, 1) == params
    assert later.is_under_way(found, 1)
    later.begin(found, 1, params)
    later.tell(found, tell(found, 1, 0.4, params))
    attempts = Journal(tmp_path / JOURNAL_FILE, [found]).attempts(found, 1)
    assert [(each.state.name, each.value, each.params) for each in attempts] == [
        ("FAIL", None, params), ("COMPLETE", 0.4, params),
    ]  # fmt: skip


def test_a_torn_journal_is_cut_back_to_its_last_whole_line(tmp_path: Path) -> None:
    found, file = search(tmp_path, terms()), tmp_path / JOURNAL_FILE
    params = {"optimizer.lr": 0.01, "augmentation": "strong"}
    journal = Journal(file, [found])
    journal.begin(found, 1, params)
    journal.tell(found, tell(found, 1, 0.4, params))
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    journal = Journal(file, [found])
    assert journal.is_under_way(found, 1), "the line that told it is gone"
    journal.tell(found, found.told[1])
    assert [each.state.name for each in Journal(file, [found]).attempts(found, 1)] == ["COMPLETE"]


def test_a_dead_writer_s_lock_holds_nobody_up(tmp_path: Path) -> None:
    found, file = search(tmp_path, terms()), tmp_path / JOURNAL_FILE
    Journal(file, [found])
    file.with_name(f"{file.name}.lock").symlink_to(file)  # as Optuna makes it
    Journal(file, [found]).begin(found, 0, RECIPE)
