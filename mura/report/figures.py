"""The figures of the report: predictions, records or a history in, one SVG element as text out.

Colours come from the page's style sheet (classes `arm0`, `arm1`, ...), so that a figure follows light and dark. Every
figure carries its own words for those who can't see it.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from mura.calibration import calibration_bin
from mura.comparison.transfer import Matrix
from mura.comparison.tuning import ArmSearch
from mura.comparison.verdict import Comparison
from mura.metrics import roc_curve
from mura.report.words import describe_difference
from mura.runs.heat import overlay
from mura.study.arms import arm_rank

Floats = NDArray[np.float64]

CURVE_POINTS = 120
"""Points that are kept of a ROC curve: more than its width in a small panel."""


@dataclass(frozen=True)
class Panel:
    """A plotting area: data coordinates in, coordinates of the figure out."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def line(self, xs: Iterable[float], ys: Iterable[float], style: str) -> str:
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(x, y) for x, y in zip(xs, ys, strict=True)))
        return f'<polyline class="{style}" points="{points}"/>'

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str = "", y_label: str = "") -> str:
        """Return a frame, grid lines and figures at the ticks, and what the axes are."""
        bottom, right = self.top + self.height, self.left + self.width
        parts = [f'<rect class="frame" x="{self.left}" y="{self.top}" width="{self.width}" height="{self.height}"/>']
        for tick in x_ticks:
            x = self.at(tick, self.y[0])[0]
            parts += [f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{bottom}"/>']
            parts += [text(x, bottom + 14, _figure(tick), "tick middle")]
        for tick in y_ticks:
            y = self.at(self.x[0], tick)[1]
            parts += [f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>']
            parts += [text(self.left - 5, y + 4, _figure(tick), "tick end")]
        if x_label:
            parts.append(text(self.left + self.width / 2, bottom + 29, x_label, "tick middle"))
        if y_label:
            parts.append(text(self.left, self.top - 6, y_label, "tick"))
        return "".join(parts)


def arm_number(arm: str) -> int:
    """Return the number of an arm's colour and dash, the same in every figure."""
    return arm_rank(arm)[0]


def text(x: float, y: float, words: object, style: str = "") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _figure(tick: float) -> str:
    return f"{tick:g}".replace("-", "\N{MINUS SIGN}")


def svg(width: float, height: float, label: str, parts: Iterable[str], style: str = "") -> Markup:
    """Return one figure; `label` says in words what it shows."""
    head = f'<svg class="{style}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers from `low` to `high`, about `count` of them."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.85)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def forest(records: Sequence[Comparison], a: str, b: str) -> Markup:
    """Return differences with their intervals, a row a record; one metric at one level.

    The thin line is the simultaneous interval, and a row has the colour of the arm on whose side it lies.
    """
    factor = 100 if records[0].metric == "accuracy" else 1
    shown = ("difference", "low", "high", "low_simultaneous", "high_simultaneous")
    ends = [abs(factor * value) for record in records for name in shown if (value := getattr(record, name))]
    reach = 1.1 * max(ends, default=factor * 0.1)
    row, top = 30, 34
    panel = Panel(84, top, 212, row * len(records), (-reach, reach), (0, len(records)))
    bottom = panel.top + panel.height
    zero = panel.at(0, 0)[0]
    parts = [
        panel.axes(ticks(-reach, reach), []),
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="{top}" y2="{bottom}"/>',
    ]
    parts += [text(zero - 8, 14, f"\N{LEFTWARDS ARROW} {b} better", "tick end")]
    parts += [text(zero + 8, 14, f"{a} better \N{RIGHTWARDS ARROW}", "tick")]
    for number, record in enumerate(records):
        y = top + row * (number + 0.5)
        parts.append(text(78, y + 4, record.extremity if len(record.extremity) < 12 else "together", "end"))
        parts.append(text(304, y + 4, describe_difference(record), "value"))
        if record.difference is None:
            continue
        side = row_colour(record, a, b)
        x = panel.at(factor * record.difference, 0)[0]
        wide = (record.low_simultaneous, record.high_simultaneous)
        for style, (lower, upper) in (("whisker thin", wide), ("whisker", (record.low, record.high))):
            if lower is not None and upper is not None:
                low, high = (panel.at(factor * end, 0)[0] for end in (lower, upper))
                parts.append(f'<line class="{style} {side}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot {side}" cx="{x:.1f}" cy="{y}" r="5"/>')
    unit = "percentage points" if factor == 100 else {"kappa": "kappa", "auroc": "AUROC"}[records[0].metric]
    parts.append(text(zero, bottom + 31, f"difference, {unit} (95 % interval)", "tick middle"))
    told = "; ".join(f"{record.extremity} {describe_difference(record)}, {record.verdict}" for record in records)
    label = f"Difference in {records[0].level} {records[0].metric}, {a} minus {b}: {told}."
    return svg(480, bottom + 40, label, parts, "forest")


def row_colour(record: Comparison, a: str, b: str) -> str:
    """Return the style of the arm on whose side the simultaneous interval lies."""
    if record.low_simultaneous is not None and record.low_simultaneous > 0:
        return f"arm{arm_number(a)}"
    if record.high_simultaneous is not None and record.high_simultaneous < 0:
        return f"arm{arm_number(b)}"
    return "neither"


def roc(tables: Mapping[str, Sequence[pd.DataFrame]], title: str, areas: Mapping[str, str]) -> Markup:
    """Return ROC curves of the views, a line a table; `areas` are the AUROC of each arm in words."""
    panel = Panel(30, 26, 140, 140, (0, 1), (0, 1))
    parts = [text(30, 12, title, "heading"), panel.axes((0, 0.5, 1), (0, 0.5, 1))]
    parts.append(panel.line((0, 1), (0, 1), "diagonal"))
    for place, (arm, group) in enumerate(tables.items(), start=1 - len(tables)):
        number = arm_number(arm)
        for table in group:
            if table["label"].nunique() == 2:
                parts.append(panel.line(*roc_points(table), f"curve arm{number}"))
        parts.append(text(166, 160 + 14 * place, areas[arm], f"value end ink{number}"))
    told = "; ".join(f"{arm} AUROC {areas[arm]}" for arm in tables)
    label = f"ROC curve of {title}, by image: sensitivity over false alarm rate. {told}."
    return svg(180, 190, label, parts)


def roc_points(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return false alarm rate and sensitivity along the ROC curve, thinned to at most CURVE_POINTS."""
    false_alarm, sensitivity = roc_curve(table["label"].to_numpy(dtype=bool), table["probability"].to_numpy(float))
    kept = np.unique(np.linspace(0, len(sensitivity) - 1, CURVE_POINTS).round().astype(int))
    return false_alarm[kept], sensitivity[kept]


def calibration(tables: Mapping[str, Sequence[pd.DataFrame]], title: str, errors: Mapping[str, str]) -> Markup:
    """Return the share of abnormal views over their mean probability, in the bins of the calibration error."""
    panel = Panel(34, 26, 226, 226, (0, 1), (0, 1))
    marks = (0, 0.25, 0.5, 0.75, 1)
    parts = [
        text(34, 12, title, "heading"),
        panel.axes(marks, marks, "probability of abnormal"),
        panel.line((0, 1), (0, 1), "diagonal"),
    ]
    for place, (arm, group) in enumerate(tables.items()):
        number = arm_number(arm)
        for table in group:
            bins = calibration_bins(table)
            parts.append(panel.line(bins["probability"], bins["label"], f"curve thin arm{number}"))
            largest = bins["size"].max()
            for p, share, size in bins[["probability", "label", "size"]].itertuples(index=False):
                x, y = panel.at(p, share)
                radius = 1.5 + 4 * math.sqrt(size / largest)
                parts.append(f'<circle class="dot faint arm{number}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>')
        parts.append(text(34, 300 + 15 * place, f"{arm} {errors[arm]}", f"value ink{number}"))
    told = "; ".join(f"{arm} calibration error {errors[arm]}" for arm in tables)
    label = f"Calibration, {title}: share of abnormal images over their predicted probability. {told}."
    return svg(270, 292 + 15 * len(tables), label, parts)


def calibration_bins(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean `probability`, the share of abnormal views (`label`) and the `size` of each bin with views."""
    groups = table[["probability", "label"]].groupby(calibration_bin(table["probability"].to_numpy()))
    return groups.mean().assign(size=groups.size())


def search_course(arm: ArmSearch, monitor: str, mode: str) -> Markup:
    """Return the value of each trial of a search, the best so far as a line, and the chosen one marked."""
    known = [(trial["number"], trial["value"]) for trial in arm.trials if trial["value"] is not None]
    values = [value for _, value in known]
    better = min if mode == "min" else max
    # a trial far behind would leave no room for the others
    far = sorted(values, reverse=mode != "min")[math.ceil(0.75 * len(values)) - 1]
    low, high = min(*values[:1], far, better(values)), max(values[0], far, better(values))
    room = 0.08 * (high - low) or 0.01
    low, high = low - room, high + room
    last = max(len(arm.trials) - 1, 1)
    panel = Panel(52, 36, 218, 110, (0, last), (low, high))
    whole = [tick for tick in ticks(0, last) if tick == int(tick)]
    title = f"{arm.model}, {arm.data}"
    parts = [text(0, 12, title, "heading"), panel.axes(whole, ticks(low, high, 3), "trial", monitor)]
    style = f"arm{arm_number(arm.arm)}"
    best = [better(values[: place + 1]) for place in range(len(values))]
    parts.append(panel.line([number for number, _ in known], best, f"curve {style}"))
    for number, value in known:
        x, y = panel.at(number, min(max(value, low), high))
        radius = 5 if number == arm.chosen["number"] else 3
        faint = "" if number == arm.chosen["number"] else " faint"
        parts.append(f'<circle class="dot{faint} {style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')
    told = "; ".join(f"trial {number} {value:.4f}" for number, value in known)
    label = f"Search of {title}: {monitor} by trial, {told}. Chosen: trial {arm.chosen['number']}."
    return svg(284, 182, label, parts)


HEAT_COLOURS = ((247, 240, 222), (126, 178, 193), (22, 62, 106))
"""The colours of a heat map at 0.5 and below, in the middle, and at 1."""


def heat_map(matrix: Matrix) -> Markup:
    """Return a row a model, a column an extremity that it was tested on; a model's own extremity is framed."""
    side, height, left, top = 62, 30, 92, 42
    width = left + side * len(matrix.columns) + 4
    parts = [text(left + side * len(matrix.columns) / 2, 12, "tested on", "tick middle")]
    parts += [text(left - 8, top - 10, "trained on", "tick end")]
    parts += [text(left + side * (x + 0.5), top - 10, name, "middle") for x, name in enumerate(matrix.columns)]
    for y, row in enumerate(matrix.rows):
        above = top + height * y
        parts.append(text(left - 8, above + 19, row, "end"))
        for x, column in enumerate(matrix.columns):
            value = matrix.values[row][column]
            if value is None:
                parts.append(text(left + side * (x + 0.5), above + 19, "–", "middle"))
                continue
            ground, ink = heat_colours(value)
            own = "own" if row == column else "cell"
            place = f'x="{left + side * x + 1.5}" y="{above + 1.5}" width="{side - 3}" height="{height - 3}"'
            parts.append(f'<rect class="{own}" {place} fill="{ground}"/>')
            words = f"{100 * value:.1f}" if matrix.metric == "accuracy" else f"{value:.3f}"
            spot = f'x="{left + side * (x + 0.5)}" y="{above + 19}"'
            parts.append(f'<text class="middle" {spot} style="fill:{ink}">{words}</text>')
    told = "; ".join(
        f"{row}: {', '.join(f'{c} {v:.3f}' for c, v in matrix.values[row].items() if v is not None)}"
        for row in matrix.rows
    )
    name = "accuracy in percent" if matrix.metric == "accuracy" else "AUROC"
    label = f"Transfer of {matrix.model}, {matrix.level} {name}, trained on and tested on. {told}."
    return svg(width, top + height * len(matrix.rows) + 4, label, parts)


def heat_colours(value: float) -> tuple[str, str]:
    """Return the ground for a value between chance (0.5) and 1, and the ink that reads well on it."""
    share = min(1.0, max(0.0, 2 * value - 1)) * 2
    low, high = HEAT_COLOURS[:2] if share <= 1 else HEAT_COLOURS[1:]
    colour = [round(a + (b - a) * (share if share <= 1 else share - 1)) for a, b in zip(low, high, strict=True)]
    red, green, blue = colour
    light = luminance(colour)
    # contrast (L + 0.05) / (l + 0.05), as WCAG 2 has it: white's luminance is 1, black's 0
    return f"rgb({red},{green},{blue})", "#ffffff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000000"


def luminance(colour: Sequence[int]) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2.2)."""
    shares = [value / 255 for value in colour]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def curves(history: pd.DataFrame, best_epoch: int, title: str) -> Markup:
    """Return loss and accuracy over the epochs, the best epoch marked, as in Kumar et al., appendix A."""
    epochs = history["epoch"].to_numpy(float) + 1
    span = (epochs.min(), epochs.max()) if len(epochs) > 1 else (epochs[0] - 0.5, epochs[0] + 0.5)
    whole = [tick for tick in ticks(*span) if tick == int(tick)]
    parts, told = [text(0, 12, title, "heading")], []
    for number, what in enumerate(("loss", "accuracy")):
        both = history[[f"train_{what}", f"val_{what}"]].to_numpy(float)
        known = both[np.isfinite(both)]
        if not len(known):
            continue
        low, high = known.min(), known.max()
        room = 0.06 * (high - low) or 0.05
        panel = Panel(38 + 178 * number, 36, 132, 104, span, (low - room, high + room))
        parts.append(panel.axes(whole, ticks(*panel.y, count=3), "epoch", what))
        x = panel.at(best_epoch + 1, low)[0]
        parts.append(f'<line class="best" x1="{x:.1f}" x2="{x:.1f}" y1="{panel.top}" y2="{panel.top + panel.height}"/>')
        for column, style in ((0, "train"), (1, "val")):
            there = np.isfinite(both[:, column])
            parts.append(panel.line(epochs[there], both[there, column], f"curve {style}"))
            if there.any():
                part = "training" if style == "train" else "validation"
                told.append(f"{part} {what} from {both[there, column][0]:.3f} to {both[there, column][-1]:.3f}")
    label = f"Loss and accuracy of {title}, {len(epochs)} epochs, best {best_epoch + 1}: {'; '.join(told)}."
    return svg(354, 176, label, parts)


def picture(grey_TT: NDArray[np.uint8], heat_GG: NDArray[np.floating], words: str) -> Markup:
    """Return a square picture with its heat as an image within the page; `words` are for those who can't see it."""
    heat = Image.fromarray(np.nan_to_num(heat_GG).astype(np.float32))
    heat_TT = np.asarray(heat.resize(grey_TT.shape[::-1], Image.Resampling.BILINEAR))
    file = BytesIO()
    Image.fromarray(overlay(grey_TT, heat_TT)).save(file, "JPEG", quality=85)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return Markup(f'<img src="data:image/jpeg;base64,{content}" alt="{escape(words)}">')
