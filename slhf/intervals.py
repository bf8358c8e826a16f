"""Intervals over prompts: how they are made, when there is none, and how they are written down.

The one place that knows how many prompts an interval needs. Everything that shows or judges one asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from slhf.errors import InvalidData
from slhf.runs import derive_seed

LEVEL = 0.95
"""Coverage of the intervals."""
LEAST = 20
"""Fewest prompts (or other independent units) that get an interval. A bootstrap knows no values but those it was given:
from one prompt its interval is a point, and from a handful it is far too narrow."""
MANY = 10
"""Lists of so many intervals carry a remark on chance, see :func:`by_chance`."""

Bounds = tuple[float, float] | tuple[None, None]
"""Lower and upper end; both None where there are fewer than ``LEAST`` units."""

Side = Literal["above", "around", "below", "unknown"]
"""Where an interval lies with respect to 1/2; "unknown" without one."""


def percentile(draws: np.ndarray) -> tuple[float, float]:
    """The interval at ``LEVEL`` of bootstrap draws (R,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(values: np.ndarray, resamples: int, seed: int) -> Bounds:
    """Percentile interval of the mean of ``values`` (n,), one a prompt; none for n < ``LEAST``."""
    if len(values) < LEAST:
        return None, None
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    return percentile(values[rng.integers(len(values), size=(resamples, len(values)))].mean(-1))


def estimate(values: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """The mean of ``values`` (n,), one a prompt, with its :func:`bootstrap` interval: mean, low, high, n.

    Raises:
        InvalidData: there are no values.
    """
    if not len(values):
        raise InvalidData("There is no prompt to take a mean over.")
    low, high = bootstrap(values, resamples, seed)
    return {"mean": float(values.mean()), "low": low, "high": high, "n": len(values)}


def opposite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate of the other side's preference, 1 minus this one."""
    low, high = row["low"], row["high"]
    ends = (None, None) if low is None else (1 - high, 1 - low)
    return {**row, "mean": 1 - row["mean"], "low": ends[0], "high": ends[1]}


def bounds(row: Mapping[str, Any]) -> Bounds:
    """The interval of an estimate; none where ``n`` is too small, whatever an older result says."""
    if row["low"] is None or row.get("n", LEAST) < LEAST:
        return None, None
    return row["low"], row["high"]


def side(row: Mapping[str, Any]) -> Side:
    """Where the interval of an estimate lies."""
    low, high = bounds(row)
    if low is None or high is None:
        return "unknown"
    return "above" if low > 0.5 else "below" if high < 0.5 else "around"


def with_interval(row: Mapping[str, Any], form: str = ".3f", ends: str = ".2f") -> str:
    """``mean [low, high]``; without an interval ``mean (n = ...)``."""
    low, high = bounds(row)
    if low is None:
        return f"{row['mean']:{form}} (n = {row['n']})" if "n" in row else f"{row['mean']:{form}} (no interval)"
    return f"{row['mean']:{form}} [{low:{ends}}, {high:{ends}}]"


def too_few(n: int, units: str = "prompts") -> str:
    """A sentence that says why there is no interval; empty where there is one."""
    return "" if n >= LEAST else f"Below {LEAST} {units} there is no interval and no verdict; here are {n}."


def by_chance(count: int, where: str = ".5") -> str:
    """A remark on ``count`` intervals shown together, on how many of them chance alone would move away from ``where``.

    Empty for fewer than ``MANY``. The expected number needs no independence; how much it varies would.
    """
    if count < MANY:
        return ""
    return (
        f"Of {count} intervals at {100 * LEVEL:.0f} %, about {count * (1 - LEVEL):.1f} would leave out {where} by "
        "chance if nothing differed; those that share prompts or answers err together."
    )
