"""What judges count and time: every judge of this package has a ``Meter``, drained through ``MeteredJudge``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

COUNTS = (
    "comparisons",
    "failures",
    "requests",
    "retries",
    "cache_hits",
    "prompt_tokens",
    "completion_tokens",
    "cost",
)
"""Metrics that are totals; several processes' add up. All others are means."""


class Meter:
    """Totals and means since the last :meth:`drain`."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self._means: dict[str, tuple[float, float]] = {}

    @contextmanager
    def comparing(self, comparisons: int) -> Iterator[None]:
        """Around a judge's answer to so many comparisons: counts them and measures the time."""
        start = time.perf_counter()
        yield
        self.count("comparisons", comparisons)
        if comparisons:
            seconds = (time.perf_counter() - start) / comparisons
            self.average("seconds_per_comparison", np.full(comparisons, seconds))

    def count(self, name: str, amount: float = 1) -> None:
        """Add to the total of a name in ``COUNTS``."""
        assert name in COUNTS, name
        self._counts[name] = self._counts.get(name, 0) + amount

    def average(self, name: str, values: np.ndarray | Sequence[float]) -> None:
        """Let each of ``values`` (n,) count once in the mean of that name."""
        values = np.asarray(values, dtype=np.float64)
        total, n = self._means.get(name, (0.0, 0.0))
        self._means[name] = total + float(values.sum()), n + values.size

    def votes(self, names: Sequence[str], votes: np.ndarray) -> None:
        """How often each attribute agrees with the verdict of all, as ``agreement_NAME``; half where it has no say.

        Args:
            names: one per attribute.
            votes: (n, number of attributes), each attribute's preference in [0, 1]. The verdict is the side of 1/2
                on which their mean lies; comparisons without one do not count.
        """
        verdict = np.sign(votes.mean(1) - 0.5)
        agreement = (1 + np.sign(votes - 0.5) * verdict[:, None]) / 2
        for name, column in zip(names, agreement[verdict != 0].T, strict=True):
            self.average(f"agreement_{name}", column)

    def drain(self) -> dict[str, float]:
        """Everything by name, and start again."""
        found = dict(self._counts) | {name: total / n for name, (total, n) in self._means.items() if n}
        self._counts, self._means = {}, {}
        return found
