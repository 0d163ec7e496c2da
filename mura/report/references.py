"""Published figures that stand beside ours, each with what it is, at which level, and where it comes from.

Accuracies and kappas are fractions.
"""

from dataclasses import dataclass

from mura.extremities import ALL_SEVEN, EXTREMITIES

KUMAR_ROWS: tuple[str, ...] = (*EXTREMITIES, ALL_SEVEN)
"""The rows of Kumar et al.'s table: a specialised model on its own extremity, and the unified one on all seven."""

SEVEN_TOGETHER = "the seven together"
"""The specialised models, each on its own extremity: what stands against the unified row."""

PUBLISHED_ROWS = (*EXTREMITIES, SEVEN_TOGETHER, ALL_SEVEN)
"""The rows of the report's table of published figures."""

TEST_VIEWS = 3197
"""Views of MURA's official validation set, all seven extremities."""


@dataclass(frozen=True)
class Reference:
    """A column of published figures, by row; a row that was not published is absent."""

    name: str
    values: dict[str, float]


def _in_rows(*values: float) -> dict[str, float]:
    return dict(zip(KUMAR_ROWS, values, strict=True))


def _with_the_seven(right: int, *values: float) -> dict[str, float]:
    """Return the rows with the seven together: `right` is how many test views they call rightly, by our arithmetic."""
    return _in_rows(*values) | {SEVEN_TOGETHER: right / TEST_VIEWS}


KUMAR = (
    Reference("from scratch", _with_the_seven(1747, 0.5054, 0.4642, 0.4983, 0.5891, 0.5139, 0.4938, 0.6844, 0.5217)),
    Reference("ResNet", _with_the_seven(2450, 0.7785, 0.7354, 0.7841, 0.6717, 0.8264, 0.7442, 0.8300, 0.7854)),
    Reference("DenseNet-121", _with_the_seven(2502, 0.8000, 0.7592, 0.7741, 0.7087, 0.8472, 0.7637, 0.8300, 0.7832)),
)
"""Accuracies by image."""

PAPER = Reference(
    "DenseNet-169, five models averaged", _in_rows(0.710, 0.389, 0.737, 0.851, 0.600, 0.729, 0.931, 0.705)
)
"""Kappas by study."""

BEST_RADIOLOGIST_KAPPA = 0.778

KUMAR_SOURCE = (
    "R. Kumar, N. Rae-Grant, X. Wang, Abnormality detection based on musculoskeletal radiographs, course report, 2024"
)
PAPER_SOURCE = (
    "P. Rajpurkar, J. Irvin, A. Bagul et al., MURA: large dataset for abnormality detection in musculoskeletal "
    "radiographs, arXiv:1712.06957, 2017"
)
KUMAR_BACKBONES = (
    "Kumar et al. 2024 claim ResNet-18 over ResNet-50: test accuracy by image 83.0 against 78.3 % on the wrist, 78.54 "
    f"against 77.20 % unified ({KUMAR_SOURCE})."
)
REFERENCE_NOTES = (
    f"Kumar et al. 2024: test accuracy by image on MURA's official validation set ({KUMAR_SOURCE}). Of ResNet-18 and "
    "ResNet-50 the better one for wrist and unified: ResNet-18 (ResNet-50: 78.3 % and 77.2 %).",
    f"{SEVEN_TOGETHER.capitalize()}: the specialised models of the rows above, each on its own extremity. Kumar et al. "
    "do not print it; each of their accuracies is a whole number of test views, and these are added up here.",
    "The column that Kumar et al. name after the original paper is no accuracy: it is the paper's kappa times 100. "
    "It stands here as what it is.",
    f"MURA paper: Cohen's kappa by study on the hidden test set, overall in the row unified ({PAPER_SOURCE}). That set "
    f"was never released, so it is not the set of our figures. Its best radiologist: {BEST_RADIOLOGIST_KAPPA}.",
)
