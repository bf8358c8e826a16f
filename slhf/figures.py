"""The figures everyone draws, most on given axes, in colours that the colour-blind tell apart (Okabe & Ito 2008)."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import matplotlib.patches
import matplotlib.tri
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from slhf.errors import InvalidParameter

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""In the order in which series get their colour."""
CONCEPTS = {"RLHF": PALETTE[0], "NLHF": PALETTE[1], "SLHF": PALETTE[2], "SLHF Follower": PALETTE[3]}
"""A series whose name begins so has this colour in every figure; of two that fit, the longer one decides."""
ANSWERS = (PALETTE[4], PALETTE[5], "#555555")
"""Three alternatives, where colour stands for them and not for a concept."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
"""For series that share a colour."""
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


class Picture(Figure):
    """A figure that notebooks show when a cell ends with it, without pyplot."""

    @mpl.rc_context(STYLE)
    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=150, metadata={"Software": None})  # the same bytes from any version
        return png.getvalue()


@mpl.rc_context(STYLE)
def new_figure(columns: int = 1, rows: int = 1, width: float = 3.4, height: float = 2.5) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` x ``columns`` panels, each ``width`` x ``height`` inches, in the project's style."""
    figure = Picture(figsize=(columns * width, rows * height), layout="constrained")
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


def _looks(names: Iterable[str]) -> list[dict[str, Any]]:
    """Colour, line and marker for each series: its concept's colour, or the next one that no concept here has.

    Series of the same concept get paler from one to the next, and other lines.
    """
    names = list(names)
    concepts = [max((c for c in CONCEPTS if name.startswith(c)), key=len, default="") for name in names]
    free = cycle([colour for colour in PALETTE if colour not in {CONCEPTS.get(c) for c in concepts}])
    colours = [CONCEPTS[c] if c else next(free) for c in concepts]
    total, seen, looks = Counter(colours), Counter[str](), []
    for colour, concept in zip(colours, concepts, strict=True):
        k = seen[colour]
        white = 0.4 * k / max(total[colour] - 1, 1) if concept else 0
        red, green, blue = ((1 - white) * part + white for part in mpl.colors.to_rgb(colour))
        shade = mpl.colors.to_hex((red, green, blue))
        marker = MARKERS[(PALETTE.index(colour) + k) % len(MARKERS)]
        looks.append({"color": shade, "linestyle": LINES[k % len(LINES)], "marker": marker})
        seen[colour] += 1
    return looks


@mpl.rc_context(STYLE)
def png(figure: Figure) -> bytes:
    """A figure as the contents of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@mpl.rc_context(STYLE)
def curves(axes: Axes, series: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, title: str = "") -> None:
    """One line per series, name -> (x, y), each a sequence of numbers; legend and axis labels included."""
    for look, (name, (x, y)) in zip(_looks(series), series.items(), strict=True):
        if len(x) > 30:
            look["marker"] = ""
        axes.plot(x, y, label=name, linewidth=1.2, markersize=3, **look)
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
    for i, (look, (name, (x, mean, low, high))) in enumerate(zip(_looks(series), series.items(), strict=True)):
        bars = np.abs(np.array([low, high]) - np.asarray(mean))
        place = np.asarray(x, dtype=float) + 0.06 * (i - (len(series) - 1) / 2)  # side by side, not on top
        axes.errorbar(place, mean, yerr=bars, label=name, markersize=4, capsize=2, linewidth=1.2, **look)
    ticks = sorted({float(value) for x, *_ in series.values() for value in x})
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xticks=ticks)
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(series) > 3 else {}
    axes.legend(**beside)


@mpl.rc_context(STYLE)
def forest(axes: Axes, series: Mapping[str, tuple[Any, Any, Any]], labels: Sequence[str], xlabel: str) -> None:
    """Means with intervals, one line per label and on it one mark per series, name -> (mean, low, high); from above.

    A dotted line marks 1/2, indifference. NaN leaves a mark out.
    """
    for i, (name, (mean, low, high)) in enumerate(series.items()):
        place = np.arange(len(labels)) + 0.26 * (i - (len(series) - 1) / 2)
        bars = np.abs(np.array([low, high], dtype=float) - np.asarray(mean, dtype=float))
        mark: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
        axes.errorbar(mean, place, xerr=bars, label=name, linestyle="none", markersize=4, capsize=2, **mark)
    axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(labels)), [wrapped(label) for label in labels])
    axes.set(xlabel=xlabel, ylim=(len(labels) - 0.5, -0.5))
    axes.grid(False, axis="y")
    if len(series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series))


Panels = Mapping[str, Mapping[str, Mapping[str, tuple[Any, Any]]]]
"""Row -> column -> series -> (x, y)."""


@mpl.rc_context(STYLE)
def small_multiples(
    panels: Panels, xlabel: str, series: Sequence[str] = (), free: Collection[str] = (), width: float = 7
) -> Figure:
    """A grid of small panels: each row a name at the left, each column a quantity with its unit above.

    A series has the same colour in all panels and one legend for all. Curves of many points are drawn pale, with
    their running mean over a tenth of them on top.

    Args:
        panels: what to draw; a row may lack columns.
        xlabel: of all.
        series: names that get the first colours, in this order, so that they keep them from figure to figure.
        free: columns whose panels have a y-axis of their own; those of all others share one.
        width: of the figure, in inches.
    """
    columns = list(dict.fromkeys(column for row in panels.values() for column in row))
    names = list(dict.fromkeys([*series, *(name for row in panels.values() for cell in row.values() for name in cell)]))
    figure = Picture(figsize=(width, 0.8 + 0.9 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), len(columns), squeeze=False, sharex=True)
    lines = {}
    for axes, (title, row) in zip(grid, panels.items(), strict=True):
        for ax, column in zip(axes, columns, strict=True):
            ax.tick_params(labelsize=6.5)
            for name, (x, y) in row.get(column, {}).items():
                lines[name] = _noisy(ax, x, y, names.index(name))
        axes[0].set_ylabel(wrapped(title, 16), rotation=0, ha="right", va="center")
    for column, of_column in zip(columns, grid.T, strict=True):
        of_column[0].set_title(wrapped(column, 22), fontsize=7.5)
        if column not in free:
            limits = np.array([ax.get_ylim() for ax in of_column if ax.lines])
            for ax in of_column:
                ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    figure.supxlabel(xlabel, fontsize=8)
    if len(lines) > 1:
        shown = [name for name in names if name in lines]
        figure.legend([lines[name] for name in shown], shown, loc="outside upper right", ncols=len(lines))
    return figure


@mpl.rc_context(STYLE)
def interval_panels(
    panels: Mapping[str, Mapping[str, tuple[Any, Any, Any, Any]]], xlabel: str, ylabel: str, across: int = 3
) -> Figure:
    """:func:`intervals` for each name side by side, on the same axes and with one legend; 1/2 is dotted."""
    across = min(across, len(panels))
    figure, grid = new_figure(across, -(-len(panels) // across), width=max(2.3, 4.6 / across), height=2.2)
    used, unused = grid.flat[: len(panels)], grid.flat[len(panels) :]
    for ax, (title, series) in zip(used, panels.items(), strict=True):
        intervals(ax, series, xlabel, ylabel, wrapped(title))
        ax.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        ax.get_legend().remove()
        ax.sharey(used[0])
    for ax in unused:
        ax.set_visible(False)
    marks, names = used[0].get_legend_handles_labels()
    figure.legend(marks, names, loc="outside upper center", ncols=len(names))
    return figure


def _noisy(axes: Axes, x: Any, y: Any, number: int) -> Any:
    """One curve in the ``number``-th colour; returns the line for the legend."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    style: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "linewidth": 1.2}
    window = len(x) // 10
    if window < 2:
        few: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "markersize": 2.5}
        return axes.plot(x, y, **style, **few)[0]
    axes.plot(x, y, alpha=0.3, **style | {"linewidth": 0.8})
    smooth = np.convolve(y, np.full(window, 1 / window), mode="valid")
    return axes.plot(x[window - 1 :], smooth, linestyle=("-", "--")[number % 2], **style)[0]


def wrapped(label: str, width: int = 24) -> str:
    """A long name on several lines."""
    return textwrap.fill(label, width)


@mpl.rc_context(STYLE)
def bands(
    axes: Axes,
    series: Mapping[str, tuple[Any, Any, Any, Any]],
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> None:
    """One line per series in a shaded band, name -> (x, middle, low, high): quantiles, say."""
    curves(axes, {name: (x, middle) for name, (x, middle, _, _) in series.items()}, xlabel, ylabel, title)
    for look, (x, _, low, high) in zip(_looks(series), series.values(), strict=True):
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


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


@mpl.rc_context(STYLE)
def binned(axes: Axes, x: Any, p: Any, fitted: Any, xlabel: str, ylabel: str, title: str = "", bins: int = 8) -> None:
    """Probabilities against what may explain them: means of bins with as many points each, and a fitted line.

    Bars reach two standard errors. Points with equal x share a bin. The line is thin at 1/2 and at x = 0.

    Args:
        axes: where to draw.
        x: (n,).
        p: (n,), in [0, 1].
        fitted: maps x, any shape, to the fitted p.
        xlabel: of x.
        ylabel: of p.
        title: of the panel.
        bins: how many at most.
    """
    x, p = np.asarray(x, dtype=float), np.asarray(p, dtype=float)
    edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))[1:-1]
    members = [own for own in (np.digitize(x, edges) == i for i in range(len(edges) + 1)) if own.any()]
    bars = [2 * p[own].std(ddof=1) / np.sqrt(own.sum()) if own.sum() > 1 else 0.0 for own in members]
    line = np.linspace(x.min(), x.max(), 200)
    axes.axhline(0.5, color="0.6", linewidth=0.8)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.plot(line, fitted(line), color=PALETTE[1], linewidth=1.2, label="fitted")
    places, means = [x[own].mean() for own in members], [p[own].mean() for own in members]
    axes.errorbar(
        places,
        means,
        yerr=bars,
        color=PALETTE[0],
        marker="o",
        markersize=4,
        capsize=2,
        linestyle="none",
        label="mean of bin",
    )
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, ylim=(-0.02, 1.02))
    axes.legend()


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
    for look, (name, path) in zip(_looks(paths), paths.items(), strict=True):
        colour, (x, y) = look["color"], (np.asarray(path) @ SIMPLEX).T
        axes.plot(x, y, color=colour, linestyle=look["linestyle"], linewidth=1, label=name)
        axes.plot(x[:1], y[:1], marker="o", markerfacecolor="white", color=colour, markersize=4)
        axes.plot(x[-1:], y[-1:], marker="o", color=colour, markersize=4)
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
def simplex_map(
    axes: Axes, mixes: Any, policies: Any, corners: Sequence[str], answers: Sequence[str], title: str = ""
) -> None:
    """What is answered at each point of a triangle: the answers' colours, mixed as the policy mixes them.

    Args:
        axes: where to draw.
        mixes: ``(K, 3)``, points that cover the triangle, such as shares of three kinds of annotators.
        policies: ``(K, 3)``, the policy at each of them.
        corners: what the corners of the triangle stand for, from the left one on to the right and the top one.
        answers: the three alternatives.
        title: of the panel.
    """
    places = np.asarray(mixes) @ SIMPLEX
    triangles = matplotlib.tri.Triangulation(*places.T).triangles
    colours = np.asarray(policies)[triangles].mean(1) @ np.array([mpl.colors.to_rgb(c) for c in ANSWERS])
    axes.add_collection(PolyCollection(places[triangles], facecolors=colours, edgecolors="face", linewidth=0.3))
    for (x, y), name in zip(SIMPLEX, corners, strict=True):
        axes.text(x, y + (0.03 if y else -0.03), name, ha="center", va="bottom" if y else "top")
    axes.set(aspect="equal", title=title, xlim=(-0.1, 1.1), ylim=(-0.14, 1))
    axes.axis("off")
    keys = [mpl.patches.Patch(color=colour, label=name) for colour, name in zip(ANSWERS, answers, strict=True)]
    axes.legend(handles=keys, loc="upper right", bbox_to_anchor=(1.12, 1))


@mpl.rc_context(STYLE)
def bars(axes: Axes, series: Mapping[str, Any], labels: Sequence[str], ylabel: str, title: str = "") -> None:
    """Bars side by side: name -> a number for each of ``labels``."""
    width = 0.8 / len(series)
    for i, (look, (name, values)) in enumerate(zip(_looks(series), series.items(), strict=True)):
        place = np.arange(len(labels)) + width * (i - (len(series) - 1) / 2)
        axes.bar(place, values, 0.92 * width, label=name, color=look["color"])
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
        axes.text(j, i, textwrap.fill(texts[i][j], 22), ha="center", va="center", fontsize=6, weight=weight)
    axes.set_xticks(range(len(columns)), [textwrap.fill(name, 17) for name in columns])
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


MOST_NUMBERS = 14
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
    diverging: bool = True,
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
        diverging: False for probabilities, whose colours go from pale at 0 to dark at 1.
    """
    values = np.asarray(values, dtype=float)
    image = axes.imshow(values, cmap="PuOr_r" if diverging else "Greys", vmin=0, vmax=1, aspect="auto")
    if max(values.shape) > MOST_NUMBERS:
        axes.figure.colorbar(image, ax=axes)
    else:
        for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
            dark = abs(values[i, j] - 0.5) > 0.3 if diverging else values[i, j] > 0.6
            colour = "white" if dark else "black"
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
    if turned and any("\n" in label for label in labels):
        turned = 90  # slanted lines of several names would cross
    # names end at their tick
    ends: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"} if 0 < turned < 90 else {}
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
