"""The report's files agree with each other and with the metrics; the page works in a real browser, offline."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from browser import chromium
from reports import printed, report

from mura.comparison.estimates import Estimate
from mura.comparison.summary import RESULT_COLUMNS
from mura.comparison.verdict import Comparison, compare
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.metrics import summarise
from mura.report import figures
from mura.report.markdown import published_table
from mura.report.references import KUMAR, PAPER, PUBLISHED_ROWS, SEVEN_TOGETHER, TEST_VIEWS
from mura.report.tables import wide_numbers
from mura.report.words import describe_difference, describe_verdict

FILES = ["comparison.json", "index.html", "operating_points.csv", "results.csv", "results.md"]


def test_the_report_does_without_the_libraries_that_are_slow_to_import():
    code = "import sys, mura.report.write; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "scipy.stats", "sklearn", "matplotlib", "lightning"} & set(loaded)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag not in ("meta", "br", "input", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_all_files_are_written_and_no_other(study, out):
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (out / "index.html").stat().st_size < 2_000_000


def test_results_are_the_metrics_of_the_run_folders(study, out):
    results = pd.read_csv(out / "results.csv")
    assert list(results.columns) == RESULT_COLUMNS
    assert len(results) == 2 * 2 * 8 * 2 * 11  # arms, seeds, extremities and all, levels, metrics
    for run in study.runs:
        about, before = summarise(run.test), summarise(run.validation)
        for row in results[(results["data"] == run.data) & (results["seed"] == run.seed)].itertuples():
            group, group_before = about[row.level][row.extremity], before[row.level][row.extremity]
            assert as_number(row.value) == close_to(group[row.metric])
            assert row.n == group["n"]
            assert as_number(row.val_value) == close_to(group_before[row.metric])
            assert row.val_n == group_before["n"]
            for end in ("low", "high"):
                assert as_number(getattr(row, end)) == close_to(group.get(f"{row.metric}_{end}"))
            is_of_calibration = row.metric in ("calibration_slope", "calibration_intercept")
            assert as_number(row.why_undefined) == (group["why_no_calibration"] if is_of_calibration else None)
    routed = results[(results["data"] == "routed") & (results["seed"] == 0)]
    assert set(routed["extremity"]) == {"all"}
    whole = summarise(pd.concat([r.test for r in study.runs if r.arm == "specialised" and r.seed == 0]))
    for row in routed.itertuples():
        assert row.value == pytest.approx(whole[row.level]["all"][row.metric], abs=1e-12)


def close_to(value):
    """What equals a value but for the rounding of a file."""
    return None if value is None else pytest.approx(value, rel=1e-12)


def as_number(cell):
    """A cell of a table that was read; None where it is empty."""
    return None if pd.isna(cell) else cell


def test_the_page_shows_intervals_reasons_and_which_calibration_error_it_is(study, out):
    page = (out / "index.html").read_text()
    row = wide_numbers(study.results)[0]
    group = study.results[study.results["metric"] == "sensitivity"].iloc[0]
    assert row["notes"]["sensitivity"] == f"({group['low']:.3f} to {group['high']:.3f})"
    assert f'{row["sensitivity"]:.3f} <span class="quiet">{row["notes"]["sensitivity"]}</span>' in page
    assert "(a threshold separates the classes)</span>" in page
    assert page.count("15 bins of equal width over [0, 1], of the probability of abnormal") == 3
    for head in ("sensitivity at 0.887", "calibration slope", "calibration intercept", "ECE"):
        assert f">{head}<" in page


def test_the_page_shows_validation_accuracy_beside_test_accuracy(study, out):
    page = (out / "index.html").read_text()
    results = pd.read_csv(out / "results.csv")
    rows = wide_numbers(results)
    assert len(rows) == len(results) / 11
    first = results.iloc[0]
    assert first["metric"] == "accuracy"
    assert (rows[0]["accuracy"], rows[0]["validation_accuracy"]) == (first["value"], first["val_value"])
    assert ">validation accuracy<" in page
    assert f'data-value="{first["val_value"]}"' in page


def test_an_extremity_that_a_model_never_saw_has_no_validation_value(run, tmp_path):
    for name, trained in (("elbow", "hand"), ("hand", "elbow")):
        other = pd.read_csv(run(trained) / "predictions.csv").query("split == 'val'")
        file = run(name, arm="leave_one_out") / "predictions.csv"
        pd.concat([other, pd.read_csv(file).query("split == 'test'")]).to_csv(file, index=False)
    results = report(tmp_path / "runs", tmp_path / "out").results
    alone = results[results["arm"] == "leave_one_out"]
    assert set(alone["extremity"]) == {"elbow", "hand", "elbow+hand"}
    assert alone["val_value"].isna().all()
    assert set(alone["val_n"]) == {0}


def test_comparisons_agree_with_the_results_and_with_compare(study, out):
    records = json.loads((out / "comparison.json").read_text())
    [compared] = study.pairs
    assert records == [record.to_dict() for record in compare(compared.pair.tables(), "cnn4", 200)]
    assert len(records) == 8 * 2 * 3
    results = pd.read_csv(out / "results.csv")
    means = results.groupby(["arm", "extremity", "level", "metric"])["value"].mean()
    for r in records:
        key = (r["extremity"], r["level"], r["metric"])
        assert r["a"] == pytest.approx(means["unified", *key])
        assert r["b"] == pytest.approx(means["specialised", *key])


def test_page_markdown_and_console_show_the_same_difference_and_verdict(study, out):
    [compared] = study.pairs
    page, markdown = (out / "index.html").read_text(), (out / "results.md").read_text()
    console = printed(study)
    for group in (*EXTREMITIES, "all"):
        record = compared.record(group, "study", "accuracy")
        for text in (page, markdown, console):
            assert describe_difference(record) in text
            assert record.verdict in text
    for sentence in describe_verdict(compared):
        assert sentence in page
        assert " ".join(sentence.split()) in " ".join(markdown.split())
        assert " ".join(sentence.split()) in " ".join(console.split())
    assert str(out / "index.html") in console.replace("\n", "")
    assert "curves.png" in console


def test_the_console_table_fits_120_columns(study):
    assert max(map(len, printed(study).splitlines())) <= 120


def test_the_page_is_well_formed_and_points_nowhere_outside(out, study):
    tags = Tags()
    tags.feed((out / "index.html").read_text())
    assert tags.open == []
    assert tags.sources
    assert all(source.startswith("#") for source in tags.sources)


def test_every_figure_has_words_for_those_who_cannot_see_it(out, study):
    drawn = re.findall(r"<svg [^>]*>", (out / "index.html").read_text())
    assert len(drawn) > 6 + 8 + 1 + 16
    assert all("aria-label=" in one or 'aria-hidden="true"' in one for one in drawn)


def test_published_figures_stand_under_their_true_name_and_level(study):
    header, rows = published_table(study)
    assert [row[0] for row in rows] == list(PUBLISHED_ROWS)
    wrist = dict(zip(header, rows[6], strict=True))
    assert wrist["Kumar et al. 2024, ResNet: image accuracy, %"] == "83.0"
    assert wrist["MURA paper, DenseNet-169, five models averaged: study kappa, hidden test set"] == "0.931"
    ours = study.mean("cnn4", "specialised", "wrist", "image", "accuracy")
    assert wrist["ours, cnn4: image accuracy, %"] == f"{100 * ours:.1f}"
    unified = dict(zip(header, rows[8], strict=True))
    ours = study.mean("cnn4", "unified", "all", "study", "kappa")
    assert unified["ours, cnn4: study kappa"] == f"{ours:.3f}"
    assert all(0 < value < 1 for column in (*KUMAR, PAPER) for value in column.values.values())


def test_the_seven_together_stand_against_the_unified_row(study):
    header, rows = published_table(study)
    seven = dict(zip(header, rows[7], strict=True))
    assert seven["extremity"] == SEVEN_TOGETHER
    kumars = [seven[f"Kumar et al. 2024, {column.name}: image accuracy, %"] for column in KUMAR]
    assert kumars == ["54.6", "76.6", "78.3"]  # 76.63 and 78.26 %
    assert seven["MURA paper, DenseNet-169, five models averaged: study kappa, hidden test set"] == "–"
    ours = study.mean("cnn4", "specialised", "all", "image", "accuracy")
    assert seven["ours, cnn4: image accuracy, %"] == f"{100 * ours:.1f}"


def test_kumars_seven_together_are_the_sum_of_their_rows():
    views = dict(zip(EXTREMITIES, (465, 461, 301, 460, 288, 563, 659), strict=True))
    assert sum(views.values()) == TEST_VIEWS
    right = [sum(round(column.values[name] * n) for name, n in views.items()) for column in KUMAR]
    assert right == [1747, 2450, 2502]
    for column, count in zip(KUMAR, right, strict=True):
        assert column.values[SEVEN_TOGETHER] == pytest.approx(count / TEST_VIEWS)
        for name, n in views.items():  # each accuracy is a whole number of test views
            assert abs(column.values[name] * n - round(column.values[name] * n)) < 0.05
    assert [round(column.values["unified"] * TEST_VIEWS) for column in KUMAR] == [1668, 2511, 2504]


def test_names_are_escaped(run, tmp_path):
    evil = "<script>alert(1)</script>|[bold]"
    half = tmp_path / "runs" / "half"
    run("wrist", model=evil)
    run("wrist", model=evil, arm='shared" onclick="x')
    half.mkdir()
    (half / "config.yaml").touch()
    (half / "train.log").write_text("<img src=x onerror=alert(2)>")
    study = report(tmp_path / "runs", tmp_path / "out")
    page, markdown = ((tmp_path / "out" / name).read_text() for name in ("index.html", "results.md"))
    assert "<script>alert" not in page
    assert "<img" not in page
    assert 'shared" onclick' not in page
    assert "\\<script\\>" in markdown
    assert "[bold]" in printed(study)


def test_a_run_without_curves_is_shown_all_the_same(run, tmp_path):
    (run("wrist") / "history.csv").unlink()
    (run("hand") / "history.csv").write_text("epoch,train_loss,train_accuracy,val_loss,val_accuracy\n0,,,0.7,0.5\n")
    report(tmp_path / "runs", tmp_path / "out")
    assert (tmp_path / "out" / "index.html").is_file()


def test_unfinished_runs_are_named_in_page_and_console(run, tmp_path):
    run("wrist")
    half = tmp_path / "runs" / "half"
    half.mkdir()
    (half / "config.yaml").touch()
    study = report(tmp_path / "runs", tmp_path / "out")
    assert str(half) in (tmp_path / "out" / "index.html").read_text()
    assert str(half) in printed(study).replace("\n", "")


def test_a_place_that_can_t_be_written_is_one_clear_sentence(run, tmp_path):
    run("wrist")
    (tmp_path / "file").touch()
    with pytest.raises(MuraError, match="can't be written there"):
        report(tmp_path / "runs", tmp_path / "file" / "out")


def test_the_same_runs_give_the_same_results(study, study_folder, tmp_path):
    report(study_folder, tmp_path)
    for name in ("results.csv", "comparison.json", "results.md"):
        assert (tmp_path / name).read_text() == (study.out / name).read_text()


def test_no_roc_curve_is_drawn_of_several_extremities_together(study, out):
    drawn = re.findall(r'aria-label="ROC curve of ([a-z]+),', (out / "index.html").read_text())
    assert drawn == list(EXTREMITIES)


def test_the_area_under_the_drawn_roc_curve_is_the_auroc(study):
    for run in study.runs[:3]:
        x, y = figures.roc_points(run.test[run.test["extremity"] == run.extremities[0]])
        expected = summarise(run.test)["image"][run.extremities[0]]["auroc"]
        assert np.trapezoid(y, x) == pytest.approx(expected, abs=0.003)


def test_calibration_bins_give_the_calibration_error(study):
    run = study.runs[0]
    bins = figures.calibration_bins(run.test)
    error = (bins["size"] * (bins["probability"] - bins["label"]).abs()).sum() / bins["size"].sum()
    assert error == pytest.approx(summarise(run.test)["image"]["all"]["ece"])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (-11, 11, [-10, -5, 0, 5, 10]), (0.5, 1.5, [0.5, 0.75, 1.0, 1.25, 1.5])],
)
def test_ticks_are_round(low, high, expected):
    assert figures.ticks(low, high) == expected


def test_a_forest_of_what_can_t_be_assessed_is_still_a_figure():
    nothing = Estimate(None, None, None)
    record = Comparison(
        "m", "a-b", "elbow", "study", "kappa", nothing.a, nothing.b, None, None, None, None, None, "not assessable",
        None, 4, 1, 1, "these trained models",
    )  # fmt: skip
    assert "not assessable" in figures.forest([record], "a", "b")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser, out, study):
    """The report, open on a phone's width; afterwards nothing may have been said or asked for."""
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    address = (out / "index.html").as_uri()
    opened.goto(address)
    yield opened
    opened.close()
    assert said == []
    assert asked == [address]


def column(page, table, number):
    return page.locator(f"#{table} tbody tr:visible td:nth-child({number})").all_inner_texts()


def test_in_a_browser_the_page_does_not_overflow_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_in_a_browser_a_table_sorts_by_its_headers_from_the_keyboard(page):
    head = page.locator("#results th", has_text="validation accuracy")
    head.get_by_role("button").focus()
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        values = [float(value) for value in column(page, "results", 8)]
        assert values == sorted(values, reverse=direction == "descending")
    page.locator("#results th", has_text="extremity").get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, "results", 5) == sorted(column(page, "results", 5))


def test_in_a_browser_the_filter_shows_the_rows_with_all_its_words(page):
    page.get_by_label("Show rows with").fill("wrist STUDY unified")
    assert set(column(page, "results", 5)) == {"wrist"}
    assert set(column(page, "results", 6)) == {"study"}
    assert page.locator("#count").inner_text() == "2 of 64 rows"
    page.get_by_label("Show rows with").fill("")
    assert page.locator("#count").inner_text() == "64 of 64 rows"


def test_in_a_browser_the_page_follows_light_and_dark(page):
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(252, 252, 250)", "rgb(20, 23, 26)"]


def test_a_narrow_console_shows_fewer_metrics_and_cuts_no_word(study_folder, tmp_path):
    study = report(study_folder, tmp_path)
    narrow, wide = printed(study, 80), printed(study)
    assert "…" not in narrow.partition("report:")[0]
    for word in ("extremity", "humerus", "no difference"):
        assert word in narrow
    assert "AUROC" in wide
    assert "AUROC" not in narrow
