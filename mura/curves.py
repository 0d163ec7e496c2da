"""Loss and accuracy over the epochs, as in Kumar et al. 2024, appendix A."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw_curves(history: pd.DataFrame, best_epoch: int, title: str, file: Path) -> None:
    """Two panels, training and validation, the best epoch marked; `history` has the columns of history.csv."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        epochs = history["epoch"] + 1
        axes.plot(epochs, history[f"train_{what}"], marker="o", markersize=3, label="training")
        axes.plot(epochs, history[f"val_{what}"], marker="o", markersize=3, label="validation")
        axes.axvline(best_epoch + 1, color="0.6", linestyle="--", linewidth=1, label="best epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=what)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(file, dpi=120)
