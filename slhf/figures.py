"""The figures everyone draws, on given axes, in colours that the colour-blind tell apart (Okabe & Ito 2008)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slhf.errors import InvalidParameter

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""In the order in which series get their colour."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "legend.fontsize": 7,
}


@mpl.rc_context(STYLE)
def new_figure(columns: int = 1, rows: int = 1, width: float = 3.4, height: float = 2.5) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` x ``columns`` panels, each ``width`` x ``height`` inches, in the project's style."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


@mpl.rc_context(STYLE)
def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix, making its folder.

    Raises:
        InvalidParameter: a suffix that is no format of figures, or a file that cannot be written.
    """
    known = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise InvalidParameter(f"{path}: unknown kind of picture {path.suffix!r}; use one of .{', .'.join(known)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise InvalidParameter(f"{path}: cannot be written: {error.strerror or error}.") from error


@mpl.rc_context(STYLE)
def curves(axes: Axes, series: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, title: str = "") -> None:
    """One line per series, name -> (x, y), each a sequence of numbers; legend and axis labels included."""
    for i, (name, (x, y)) in enumerate(series.items()):
        few: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "markersize": 3} if len(x) <= 30 else {}
        axes.plot(x, y, label=name, color=PALETTE[i % len(PALETTE)], linewidth=1.2, **few)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(series) > 1:
        axes.legend()


@mpl.rc_context(STYLE)
def intervals(
    axes: Axes,
    series: Mapping[str, tuple[Any, Any, Any, Any]],
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> None:
    """One line per series with error bars, name -> (x, mean, low, high)."""
    for i, (name, (x, mean, low, high)) in enumerate(series.items()):
        bars = np.abs(np.array([low, high]) - np.asarray(mean))
        place = np.asarray(x, dtype=float) + 0.06 * (i - (len(series) - 1) / 2)  # side by side, not on top
        axes.errorbar(
            place,
            mean,
            yerr=bars,
            label=name,
            color=PALETTE[i % len(PALETTE)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            capsize=2,
            linewidth=1.2,
        )
    ticks = sorted({float(value) for x, *_ in series.values() for value in x})
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xticks=ticks)
    axes.legend()


@mpl.rc_context(STYLE)
def convergence(
    axes: Axes, steps: Any, series: Mapping[str, Any], xlabel: str, ylabel: str, title: str = "", floor: float = 1e-17
) -> None:
    """What should go to zero, on two logarithmic axes; one line per series, name -> ``(len(steps),)``.

    Step 0 is drawn at 1/2. Values below ``floor`` are rounding and drawn there.
    """
    place = np.maximum(np.asarray(steps, dtype=float), 0.5)
    curves(axes, {name: (place, np.maximum(y, floor)) for name, y in series.items()}, xlabel, ylabel, title)
    axes.set(xscale="log", yscale="log")


SIMPLEX = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
"""The corners of an equilateral triangle."""


@mpl.rc_context(STYLE)
def simplex_path(
    axes: Axes, paths: Mapping[str, Any], corners: Sequence[str], target: Any = None, title: str = ""
) -> None:
    """Policies over three alternatives as paths in the triangle whose corners are sure choices.

    Args:
        axes: where to draw.
        paths: name -> ``(K, 3)``, policies in order; a circle marks the first, a dot the last.
        corners: the alternatives, from the left corner on to the right and the top one.
        target: ``(3,)``, the policy to be reached, marked by a star.
        title: of the panel.
    """
    axes.fill(*SIMPLEX.T, facecolor="none", edgecolor="0.4", linewidth=0.8)
    for i, (name, path) in enumerate(paths.items()):
        x, y = (np.asarray(path) @ SIMPLEX).T
        axes.plot(x, y, color=PALETTE[i % len(PALETTE)], linewidth=1, label=name)
        axes.plot(x[:1], y[:1], marker="o", markerfacecolor="white", color=PALETTE[i % len(PALETTE)], markersize=4)
        axes.plot(x[-1:], y[-1:], marker="o", color=PALETTE[i % len(PALETTE)], markersize=4)
    if target is not None:
        x, y = np.asarray(target) @ SIMPLEX
        star: dict[str, Any] = {"color": PALETTE[4], "markeredgecolor": "black", "markeredgewidth": 0.6, "zorder": 3}
        axes.plot(x, y, marker="*", markersize=9, linestyle="none", label="exact", **star)
    for (x, y), name in zip(SIMPLEX, corners, strict=True):
        axes.text(x, y + (0.03 if y else -0.03), name, ha="center", va="bottom" if y else "top")
    axes.set(aspect="equal", title=title, xlim=(-0.1, 1.1), ylim=(-0.14, 1))
    axes.axis("off")
    axes.legend(loc="upper right", bbox_to_anchor=(1.12, 1))


@mpl.rc_context(STYLE)
def bars(axes: Axes, series: Mapping[str, Any], labels: Sequence[str], ylabel: str, title: str = "") -> None:
    """Bars side by side: name -> a number for each of ``labels``."""
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        place = np.arange(len(labels)) + width * (i - (len(series) - 1) / 2)
        axes.bar(place, values, 0.92 * width, label=name, color=PALETTE[i % len(PALETTE)])
    _ticks(axes.xaxis, labels, 30)
    axes.set(ylabel=ylabel, title=title)
    axes.grid(False, axis="x")
    if len(series) > 1:
        axes.legend()


@mpl.rc_context(STYLE)
def verdict_table(
    axes: Axes, held: Any, texts: Any, rows: Sequence[str], columns: Sequence[str], note: str = ""
) -> None:
    """A table of what held (pale) and what failed (coloured, bold), (rows, columns) of bools and of texts."""
    held = np.asarray(held, dtype=bool)
    axes.imshow(held, cmap=mpl.colors.ListedColormap([PALETTE[4], "#EAF3F9"]), vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(held.shape):
        weight = "normal" if held[i, j] else "bold"
        axes.text(j, i, texts[i][j], ha="center", va="center", fontsize=6, weight=weight)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(False)
    axes.grid(True, which="minor", color="white", linewidth=1.5, alpha=1)
    axes.tick_params(which="both", length=0, labeltop=True, labelbottom=False)
    inches = axes.figure.bbox.width / axes.figure.dpi
    axes.set_xlabel(textwrap.fill(note, max(20, int(14 * inches))), fontsize=6)
    for spine in axes.spines.values():
        spine.set_visible(False)


MOST_NUMBERS = 12
"""Heat maps of more rows or columns are drawn without numbers, with a colour bar."""


@mpl.rc_context(STYLE)
def heat_map(
    axes: Axes,
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    notes: Any = None,
    outlined: Any = None,
) -> None:
    """Preferences in [0, 1] as colours around 1/2 with the numbers written in; NaN cells stay empty.

    Args:
        axes: where to draw.
        values: (rows, columns), p(row is preferred to column).
        rows: row labels.
        columns: column labels.
        title: of the panel.
        notes: (rows, columns) of strings for a second, smaller line in each cell.
        outlined: (rows, columns) of bools, cells to draw a frame around.
    """
    values = np.asarray(values, dtype=float)
    image = axes.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    if max(values.shape) > MOST_NUMBERS:
        axes.figure.colorbar(image, ax=axes)
    else:
        for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
            colour = "white" if abs(values[i, j] - 0.5) > 0.3 else "black"
            axes.text(j, i - (0.12 if notes else 0), f"{values[i, j]:.2f}", ha="center", va="center", color=colour)
            if notes:
                axes.text(j, i + 0.22, notes[i][j], ha="center", va="center", fontsize=5.5, color=colour)
    if outlined is not None:
        line: dict[str, Any] = {"edgecolor": "black", "linewidth": 1.2 if max(values.shape) <= MOST_NUMBERS else 0.6}
        for i, j in zip(*np.nonzero(outlined), strict=True):
            axes.add_patch(mpl.patches.Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, **line))
    _ticks(axes.xaxis, columns, 30)
    _ticks(axes.yaxis, rows, 0)
    axes.set_title(title)
    axes.grid(False)


MOST_TICKS = 30
"""Longer axes name every second, third, ... entry."""


def _ticks(axis: Any, labels: Sequence[str], rotation: float) -> None:
    step = -(-len(labels) // MOST_TICKS)
    turned = rotation if max(map(len, labels)) > 3 or len(labels) > MOST_NUMBERS else 0
    ends: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"} if turned else {}  # names end at their tick
    axis.set_ticks(range(0, len(labels), step), labels[::step], rotation=turned, **ends)


@mpl.rc_context(STYLE)
def reliability(axes: Axes, bins: Sequence[Mapping[str, float]], xlabel: str, ylabel: str, title: str = "") -> None:
    """Predicted probability against observed frequency, with intervals; on the diagonal they agree.

    Args:
        axes: where to draw.
        bins: each with ``predicted``, ``observed``, ``low``, ``high`` and ``n``; a marker's area grows with n.
        xlabel: what is predicted.
        ylabel: what is observed.
        title: of the panel.
    """
    x, y, low, high, n = (np.array([row[key] for row in bins]) for key in ("predicted", "observed", "low", "high", "n"))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    spread = np.maximum(0, [y - low, high - y])
    axes.errorbar(x, y, yerr=spread, fmt="none", color=PALETTE[0], elinewidth=0.8, capsize=2)
    axes.scatter(x, y, s=6 + 60 * n / n.max(), color=PALETTE[0], zorder=3)
    least = min(0.5, float(np.floor(10 * min(low)) / 10))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(0.48, 1.03), ylim=(least - 0.03, 1.04))
