"""results.md: the study's tables and verdicts in Markdown."""

from collections.abc import Sequence

from mura.comparison.summary import SYNTHETIC, ComparedPair, Study
from mura.comparison.transfer import transfer_matrix
from mura.comparison.tuning import StudySearch
from mura.report.references import KUMAR, PAPER, REFERENCE_NOTES
from mura.report.tables import (
    METRIC_NAMES,
    TABLE_METRICS,
    backbone_rows,
    pair_rows,
    point_rows,
    published_rows,
    search_rows,
)
from mura.report.words import (
    ELSEWHERE,
    NOT_PUBLISHED,
    QUESTION,
    describe_backbones,
    describe_before,
    describe_models,
    describe_search,
    describe_thresholds,
    describe_transfer,
    describe_verdict,
    number,
)

SEARCH_COLUMNS = ("best, on other patients", "chosen", "share of the variance")


def results_md(study: Study) -> str:
    """Return Kumar et al.'s table with ours beside it, and each comparison by extremity."""
    lines = [f"# {QUESTION}", ""]
    if study.synthetic:
        lines += [f"**{SYNTHETIC}**", ""]
    for compared in study.pairs:
        pair, words = compared.pair, escape(" ".join(describe_verdict(compared)))
        about = ", ".join(filter(None, (f"{pair.model}, {pair.a} and {pair.b}", describe_models(pair))))
        lines += [f"**{escape(about)}.** {words}", ""]
        lines += [*(f"- Warning: {escape(warning)}" for warning in compared.warnings), ""] if compared.warnings else []
    lines += [f"- {escape(note)}" for note in study.notes]
    lines += ["", "## Beside published figures", ""]
    lines += [NOT_PUBLISHED, ""] if study.synthetic else []
    lines += table_lines(*published_table(study))
    lines += ["", *(f"- {escape(note)}" for note in REFERENCE_NOTES), "- ours: mean over the seeds of the arm.", ""]
    for compared in study.pairs:
        lines += _pair_section(compared)
    lines += _backbone_section(study)
    for search in study.searches:
        lines += _search_section(search)
    lines += [line for sentence in describe_before(study) for line in (escape(sentence), "")]
    for model in study.transfer["model"].unique():
        lines += _transfer_section(study, str(model))
    return "\n".join(lines)


def published_table(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: image accuracies beside each other, then study kappas, each with whose it is."""
    header = ["extremity", *(f"Kumar et al. 2024, {column.name}: image accuracy, %" for column in KUMAR)]
    header += [f"ours, {model}: image accuracy, %" for model in study.models]
    header += [f"MURA paper, {PAPER.name}: study kappa, hidden test set"]
    header += [f"ours, {model}: study kappa" for model in study.models]
    return header, [[row.name, *row.kumar, *row.accuracy, row.paper, *row.kappa] for row in published_rows(study)]


def _pair_section(compared: ComparedPair) -> list[str]:
    """Return the table by extremity and the table by operating point, which is left out where none was fitted."""
    pair = compared.pair
    header = ["extremity", "studies", "patients"]
    header += [f"{level} {METRIC_NAMES[metric]}: {arm}" for level, metric in TABLE_METRICS for arm in (pair.a, pair.b)]
    header += ["difference (95 % interval)", "simultaneous interval", "p", "p (Holm)", "verdict"]
    rows = [
        [
            row.group, str(row.studies), str(row.patients), *sum(row.values, ()),
            row.difference, row.simultaneous, row.p, row.p_holm, row.verdict,
        ]
        for row in pair_rows(compared)
    ]  # fmt: skip
    lines = [f"## {escape(pair.model)}: {escape(pair.a)} and {escape(pair.b)}", ""]
    lines += [f"Test set, by extremity; difference = {escape(pair.a)} minus {escape(pair.b)}, study accuracy.", ""]
    lines += [*table_lines(header, rows), ""]
    header = ["operating point", pair.a, pair.b, "difference (95 % interval)", "verdict", "other verdicts than at 0.5"]
    rows = [[row.point, row.a, row.b, row.difference, row.verdict, row.other_verdicts] for row in point_rows(compared)]
    title = "Study accuracy at operating points fitted on the validation part:"
    thresholds = [f"- {escape(sentence)}" for sentence in describe_thresholds(compared)]
    return lines + ([title, "", *table_lines(header, rows), "", *thresholds, ""] if rows else [])


def _backbone_section(study: Study) -> list[str]:
    """Return the models of each arm against each other; nothing of a study of one model."""
    header = ["arm", "models", "first", "second", "difference (95 % interval)", "p (Holm)", "verdict", "extremities"]
    rows = [[*vars(row).values()] for row in backbone_rows(study)]
    words = [line for sentence in describe_backbones(study) for line in (escape(sentence), "")]
    return ["## Backbones against each other", "", *words, *table_lines(header, rows), ""] if rows else []


def _search_section(search: StudySearch) -> list[str]:
    """Return what was searched, tried and chosen."""
    if not search.arms:
        return []
    header = ["model, data", "arm", "trials", "steps", f"{search.terms['monitor']}: recipe", "best", *SEARCH_COLUMNS]
    rows = [[*vars(row).values()] for row in search_rows(search)]
    words = [line for sentence in describe_search(search) for line in (escape(sentence), "")]
    return ["## Tuning", "", *words, *table_lines(header, rows), "", escape(ELSEWHERE), ""]


def _transfer_section(study: Study, model: str) -> list[str]:
    """Return what specialised models make of the other extremities, AUROC by image."""
    matrix = transfer_matrix(study.transfer, model, "image", "auroc")
    rows = [[row, *(number(matrix.values[row][column]) for column in matrix.columns)] for row in matrix.rows]
    words = describe_transfer(study, model)
    heading = f"## {escape(model)}: transfer, AUROC by image (rows: trained on, columns: tested on)"
    table = table_lines(["trained on", *matrix.columns], rows)
    return [heading, "", *([escape(words), ""] if words else []), *table, ""]


def escape(words: str) -> str:
    """Return the words with the characters escaped that Markdown, or the HTML in it, would read as more than text."""
    for character in "\\`*_[]<>|#":
        words = words.replace(character, f"\\{character}")
    return " ".join(words.split())


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table; its first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    head, *body = [[escape(cell) for cell in line] for line in (header, *rows)]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]
