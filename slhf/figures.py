"""The figures everyone draws, on given axes, in colours that the colour-blind tell apart (Okabe & Ito 2008)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    """Write a figure as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


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
def heat_map(
    axes: Axes, values: Any, rows: Sequence[str], columns: Sequence[str], title: str = "", notes: Any = None
) -> None:
    """Preferences in [0, 1] as colours around 1/2 with the numbers written in; NaN cells stay empty.

    Args:
        axes: where to draw.
        values: (rows, columns), p(row is preferred to column).
        rows: row labels.
        columns: column labels.
        title: of the panel.
        notes: (rows, columns) of strings for a second, smaller line in each cell.
    """
    values = np.asarray(values, dtype=float)
    axes.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
        colour = "white" if abs(values[i, j] - 0.5) > 0.35 else "black"
        axes.text(j, i - (0.12 if notes else 0), f"{values[i, j]:.2f}", ha="center", va="center", color=colour)
        if notes:
            axes.text(j, i + 0.22, notes[i][j], ha="center", va="center", fontsize=5.5, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=30 if max(map(len, columns)) > 3 else 0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    axes.grid(False)
