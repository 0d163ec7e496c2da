"""What the report says of a study: its scope, its verdicts and reasons, in the same words everywhere."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from reports import printed, report
from run_folders import write_run, write_study

from mura.comparison.verdict import Comparison
from mura.errors import ConfigError
from mura.extremities import EXTREMITIES
from mura.report import figures
from mura.report.markdown import escape
from mura.report.words import describe_row, describe_simultaneous, describe_verdict, p_value, signed
from mura.report.write import write_report
from mura.study.plan import note_plan


def test_few_seeds_speak_of_models_and_three_of_the_approaches(study_folder, run, tmp_path):
    two = report(study_folder, tmp_path / "two")
    assert "these trained models, not of the two approaches" in describe_verdict(two.pairs[0])[-1]
    for seed in range(3):
        run(["elbow", "hand"], seed=seed, arm="unified")
        run("elbow", seed=seed)
        run("hand", seed=seed)
    three = report(tmp_path / "runs", tmp_path / "three")
    assert describe_verdict(three.pairs[0])[-1] == (
        "With 3 seeds an arm, this speaks of the two approaches on this split."
    )
    shutil.rmtree(tmp_path / "runs")
    run("elbow", seed=5)
    run(["elbow", "hand"], arm="unified")
    one = report(tmp_path / "runs", tmp_path / "one")
    words = describe_verdict(one.pairs[0])
    assert words[0].startswith("Elbow: ")
    assert "these two trained models, not of the two approaches" in words[-1]
    assert {record.extremity for record in one.comparisons} == {"elbow"}
    for folder, models in (("one", ", these two trained models"), ("two", ", these trained models"), ("three", "")):
        page = (tmp_path / folder / "index.html").read_text()
        assert f"<h2>cnn4, unified or specialised{models}: " in page
        assert f"**cnn4, unified and specialised{models}.**" in (tmp_path / folder / "results.md").read_text()
    assert "cnn4, these two trained models, test: unified / specialised" in printed(one)


def test_a_study_whose_folds_rotate_speaks_of_several_splits(run, tmp_path):
    for seed in range(3):
        run(["elbow", "hand"], seed=seed, arm="unified", fold=seed)
        run("elbow", seed=seed, fold=seed)
        run("hand", seed=seed, fold=seed)
    study = report(tmp_path / "runs", tmp_path / "out")
    sentence = (
        "With 3 seeds an arm, this speaks of the two approaches over 3 splits. "
        "Runs of one seed share their split: paired by seed (0, 1 and 2)."
    )
    page = (tmp_path / "out" / "index.html").read_text()
    for text in (" ".join(printed(study).split()), page, (tmp_path / "out" / "results.md").read_text()):
        assert sentence in text
    assert "validation fold 0, 1, 2 (by seed)." in page
    assert {record.scope for record in study.comparisons} == {"the two approaches over 3 splits"}
    assert study.notes == []


def test_warnings_stand_beside_the_verdict_in_page_markdown_and_console(tmp_path):
    folder = write_study(tmp_path, patients=8, best_epoch=4, epochs=5, stopped_by="max_epochs")
    study = report(folder, folder)
    [warning] = study.pairs[0].warnings
    page = (folder / "index.html").read_text()
    assert f'<p class="warning"><strong>Warning:</strong> {warning}</p>' in page.partition("</section>")[0]
    markdown = (folder / "results.md").read_text()
    assert f"- Warning: {escape(warning)}" in markdown.partition("## ")[0]
    words = " ".join(printed(study).split())
    assert words.index(f"Warning: {warning}") > words.index("With one seed")


def test_what_a_finetuned_arm_was_trained_includes_the_runs_that_it_starts_from_once(tmp_path):
    for names in (EXTREMITIES, ("elbow",), ("hand",)):
        arm = "unified" if len(names) == 7 else "finetuned"
        data = names[0] if arm == "finetuned" else arm
        write_run(tmp_path / "cnn4" / data / "seed0", names, arm=arm, patients=8)
    study = report(tmp_path, tmp_path)
    page = (study.out / "index.html").read_text()
    assert "finetuned: 2 runs, 100 steps after 50 of the runs that they start from, " in page


def test_a_study_extended_after_a_look_says_so_in_its_scope(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    note_plan(folder, [0])
    write_study(folder, seeds=(0, 1), patients=8)
    study = report(folder, folder)
    assert "Planned with 1 seed, extended to 2 after a look" in describe_verdict(study.pairs[0])[-1]
    for text in (
        " ".join(printed(study).split()),
        (folder / "index.html").read_text(),
        (folder / "results.md").read_text(),
    ):
        assert "Planned with 1 seed, extended to 2 after a look" in text


def test_arms_that_share_a_start_are_paired_by_seed_and_say_so(run, tmp_path):
    for seed in range(4):
        run(["elbow", "hand"], seed=seed, arm="unified")
        run("elbow", seed=seed + 1, arm="finetuned")
        run("hand", seed=seed + 1, arm="finetuned")
    [compared] = report(tmp_path / "runs", tmp_path / "out").pairs
    assert describe_verdict(compared)[-1].startswith("With 3 seeds an arm")
    assert describe_verdict(compared)[-1].endswith("Runs of one seed share their start: paired by seed (1, 2 and 3).")
    assert {(r.seed, r.level) for r in compared.agreements} == {(seed, "study") for seed in (1, 2, 3)}


def test_two_pairs_of_runs_are_too_few_to_pair_and_the_scope_says_so(run, tmp_path):
    for seed in range(2):
        run(["elbow", "hand"], seed=seed, arm="unified")
        run("elbow", seed=seed, arm="finetuned")
        run("hand", seed=seed, arm="finetuned")
    [compared] = report(tmp_path / "runs", tmp_path / "out").pairs
    assert describe_verdict(compared)[-1].endswith(
        " The arms share their start but fewer than three seeds: their seeds are counted as independent."
    )


def test_a_subset_is_named_and_never_called_all(run, tmp_path):
    run(EXTREMITIES)
    run("finger")
    run("wrist")
    study = report(tmp_path / "runs", tmp_path / "out")
    assert {record.extremity for record in study.comparisons} == {"finger", "wrist", "finger+wrist"}
    assert "Over finger and wrist together" in (tmp_path / "out" / "index.html").read_text()
    assert "elbow is left out" in printed(study)
    results = study.results
    assert set(results.loc[results["arm"] == "unified", "extremity"]) == {*EXTREMITIES, "all", "finger+wrist"}
    [record] = [r for r in study.comparisons if (r.extremity, r.level, r.metric) == ("finger+wrist", "study", "kappa")]
    assert record.a == study.mean("cnn4", "unified", "finger+wrist", "study", "kappa")
    assert record.b == study.mean("cnn4", "specialised", "finger+wrist", "study", "kappa")


def test_one_arm_alone_is_reported_without_a_verdict(run, tmp_path):
    run("wrist")
    study = report(tmp_path / "runs", tmp_path / "out")
    assert study.comparisons == []
    assert (tmp_path / "out" / "comparison.json").read_text() == "[]\n"
    assert "No verdict" in (tmp_path / "out" / "index.html").read_text()
    assert "nothing can be compared" in printed(study)


def test_more_arms_and_models_are_all_compared(run, tmp_path):
    for model in ("cnn4", "resnet18"):
        for arm in ("unified", "shared", "union"):
            run(["elbow", "hand"], arm=arm, model=model)
    study = report(tmp_path / "runs", tmp_path / "out")
    assert len(study.pairs) == 6
    assert {compared.main.comparison for compared in study.pairs} == {
        "unified-shared", "unified-union(elbow+hand)", "shared-union(elbow+hand)",
    }  # fmt: skip
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())) == 6 * 3 * 2 * 3 + 3 * 3 * 3


def one_class(table):
    return table.assign(label=np.where(table["extremity"] == "hand", 1, table["label"]))


def test_an_extremity_with_one_class_has_no_kappa_and_says_so(run, tmp_path):
    run(["elbow", "hand"], arm="unified", change=one_class)
    run("elbow")
    run("hand", change=one_class)
    study = report(tmp_path / "runs", tmp_path / "out")
    record = study.pairs[0].record("hand", "study", "kappa")
    assert (record.a, record.verdict) == (None, "not assessable")
    assert study.pairs[0].record("hand", "study", "accuracy").low is not None
    assert any(note.startswith("All test views of hand are abnormal: it has no kappa and no") for note in study.notes)
    assert study.pairs[0].record("elbow+hand", "study", "auroc").verdict == "not assessable"
    assert study.pairs[0].record("elbow+hand", "study", "accuracy").low is not None
    results = pd.read_csv(tmp_path / "out" / "results.csv")
    assert results.loc[(results["extremity"] == "hand") & (results["metric"] == "auroc"), "value"].isna().all()
    assert "NaN" not in (tmp_path / "out" / "comparison.json").read_text()


def test_a_single_patient_gets_values_but_no_verdict(run, tmp_path):
    run("elbow", patients=1)
    run("elbow", patients=1, arm="finetuned")
    study = report(tmp_path / "runs", tmp_path / "out")
    assert {record.verdict for record in study.comparisons} == {"not assessable"}
    assert "not assessable" in printed(study)


def test_synthetic_data_are_called_so_everywhere(run, tmp_path):
    (tmp_path / "boxes.csv").touch()
    run("wrist", root=tmp_path)
    study = report(tmp_path / "runs", tmp_path / "out")
    for text in (printed(study), *((tmp_path / "out" / name).read_text() for name in ("index.html", "results.md"))):
        assert "Synthetic data" in text


def test_differences_are_written_with_a_true_minus():
    assert (signed(-1.25), signed(0.04), signed(-0.04), signed(2)) == ("−1.2", "0.0", "0.0", "+2.0")


def record(**values):
    plain = {
        "model": "m", "comparison": "unified-specialised", "extremity": "hand", "level": "study", "metric": "accuracy",
        "a": 0.75, "b": 0.61, "difference": 0.136, "low": 0.032, "high": 0.246, "p": 0.0251, "p_holm": 0.1757,
        "verdict": "not shown after correction", "smallest_detectable": 0.2, "n": 66, "patients": 63, "seeds": 1,
        "scope": "these trained models", "tests": 7, "low_simultaneous": -0.012, "high_simultaneous": 0.29,
    }  # fmt: skip
    return Comparison(**plain | values)


def test_an_arm_that_always_answers_alike_leaves_no_figure_but_a_reason(run, tmp_path):
    def dull(table):
        return table.assign(logit=-1.0, probability=0.3)

    run("elbow", change=dull)
    run("elbow", arm="finetuned", change=dull)
    [compared] = report(tmp_path / "runs", tmp_path / "out").pairs
    assert compared.main.smallest_detectable is None
    reason = "what could have been shown is unknown, since specialised and finetuned always give the same answer"
    assert reason in describe_verdict(compared)[0]


def test_a_declared_margin_is_stored_and_answered_at_every_operating_point(study_folder, tmp_path):
    [compared] = write_report([study_folder], tmp_path, 200, margin=0.5).pairs
    main = compared.main
    assert (main.margin, main.equivalence) == (0.5, "equivalent within 50 points")
    assert {at.main.equivalence for at in compared.points} == {"equivalent within 50 points"}
    records = json.loads((tmp_path / "comparison.json").read_text())
    assert {r["margin"] for r in records if r["metric"] == "accuracy"} == {0.5}
    assert "equivalent within 50 points" in (tmp_path / "index.html").read_text()
    narrow = write_report([study_folder], tmp_path, 200, margin=0.01)
    assert "wrist: test set too small for a margin of 1 point" in " ".join(printed(narrow).split())


def test_the_declared_margin_holds_without_being_named_again_and_another_one_is_said_beside_the_verdict(tmp_path):
    (tmp_path / "study").mkdir()
    note_plan(tmp_path / "study", [0], 0.5)
    write_study(tmp_path / "study", patients=12)
    [compared] = report(tmp_path / "study", tmp_path / "out").pairs
    assert compared.main.margin == 0.5
    assert "changed after a look" not in (tmp_path / "out" / "results.md").read_text()
    write_report([tmp_path / "study"], tmp_path / "out", 200, margin=0.4)
    for name in ("results.md", "index.html"):
        assert "The margin was changed after a look (at the first start 50 points, now 40" in (
            tmp_path / "out" / name
        ).read_text().replace("\\", "")


def test_two_models_are_compared_within_their_arms_in_a_section_of_its_own(tmp_path):
    write_study(tmp_path / "study", models=("resnet18", "resnet50"), patients=12)
    write_report([tmp_path / "study"], tmp_path / "out", 200)
    records = json.loads((tmp_path / "out" / "comparison.json").read_text())
    mains = [
        r for r in records if r["model"] == "resnet18-resnet50" and (r["extremity"], r["metric"]) == ("all", "kappa")
    ]
    assert [r["comparison"] for r in mains] == ["unified", "specialised"]
    for name in ("index.html", "results.md"):
        said = (tmp_path / "out" / name).read_text().replace("\\", "")
        assert "Backbones against each other" in said
        assert "With 1 seed a model or more, a verdict speaks of these trained models" in said
        assert "Kumar et al. 2024 claim ResNet-18 over ResNet-50" in said
    assert "| unified | resnet18 / resnet50 |" in (tmp_path / "out" / "results.md").read_text()


def test_a_declared_primary_model_holds_in_the_report(tmp_path):
    (tmp_path / "study").mkdir()
    note_plan(tmp_path / "study", [0], primary="cnn2")
    write_study(tmp_path / "study", models=("cnn4", "cnn2", "cnn15"), patients=12)
    study = write_report([tmp_path / "study"], tmp_path / "out", 100)
    assert {each.pair.name for each in study.backbones} == {"cnn2-cnn15", "cnn2-cnn4"}
    assert "each model and cnn2 are compared" in (tmp_path / "out" / "results.md").read_text()
    study = write_report([tmp_path / "study"], tmp_path / "out", 100, primary="cnn4")
    assert {each.pair.name for each in study.backbones} == {"cnn4-cnn15", "cnn4-cnn2"}
    with pytest.raises(
        ConfigError, match=r"^primary=cnn5: no finished run is of that model; options: cnn15, cnn2, cnn4\.$"
    ):
        write_report([tmp_path / "study"], tmp_path / "out", 100, primary="cnn5")


def test_a_study_of_one_model_has_no_section_on_backbones(study, out):
    assert study.backbones == []
    assert not any("Backbones" in (out / name).read_text() for name in ("index.html", "results.md"))


def test_without_a_margin_no_word_is_said_of_one(study, out):
    assert not any("90 %" in (out / name).read_text() for name in ("index.html", "results.md"))


def test_a_row_that_fails_only_by_the_correction_says_so():
    assert describe_row(record()) == "not shown after correction for seven extremities (alone p = 0.025)"
    assert describe_row(record(verdict="unified better")) == "unified better"
    assert describe_simultaneous(record()) == "−1.2 to +29.0"


def test_the_colour_of_the_forest_follows_the_simultaneous_interval():
    assert figures.row_colour(record(), "unified", "specialised") == "neither"
    assert figures.row_colour(record(low_simultaneous=0.01), "unified", "specialised") == "arm0"
    below = record(low_simultaneous=-0.2, high_simultaneous=-0.01)
    assert figures.row_colour(below, "unified", "specialised") == "arm1"
    drawn = figures.forest([record()], "unified", "specialised")
    assert 'class="whisker thin neither"' in drawn
    assert 'class="whisker neither"' in drawn


def test_p_has_four_digits_where_they_decide():
    assert [p_value(p) for p in (0.0496, 0.05004, 0.06, 0.0251, 0.0001, None)] == [
        "0.0496", "0.0500", "0.060", "0.025", "< 0.001", "–",
    ]  # fmt: skip


def test_the_p_of_all_is_under_no_heading_of_holm(study, out):
    lines = (out / "results.md").read_text().splitlines()
    [header] = [line for line in lines if "p (Holm)" in line]
    cells = next(line for line in lines if line.startswith("| all |") and line.count("|") == header.count("|"))
    names = [name.strip() for name in header.split("|")]
    values = dict(zip(names, [cell.strip() for cell in cells.split("|")], strict=True))
    assert values["p (Holm)"] == "–"
    assert values["p"] == p_value(study.pairs[0].main.p)


def test_where_the_interval_leaves_out_zero_and_the_test_shows_nothing_the_p_is_said(study):
    compared = study.pairs[0]
    decided = {"low": 0.014, "high": 0.294, "p": 0.0651, "verdict": "no difference shown"}
    comparisons = [
        replace(each, **decided) if (each.level, each.metric) == ("study", "accuracy") else each
        for each in compared.comparisons
    ]
    words = describe_verdict(replace(compared, comparisons=comparisons))
    assert "; p = 0.065, though the interval leaves out zero" in words[0]
    last = compared.pair.extremities[-1]
    assert f"{last} (p = 0.065, though the interval leaves out zero)" in words[1]
    usual = [replace(each, low=-0.1, high=0.1, verdict="no difference shown") for each in compared.comparisons]
    assert "though" not in "".join(describe_verdict(replace(compared, comparisons=usual)))
