"""What judges share that are shown both answers at once: they see each pair in both orders, and the mean counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from llm.judges.meter import Meter

Shown = tuple[str, str, str]
"""Prompt, the answer shown first, the answer shown second."""


class TwoOrderJudge(ABC):
    """p(a > b) = (f(a, b) + 1 - f(b, a)) / 2, f(a, b) being the judge's probability for the answer shown first.

    So p(a > b) + p(b > a) = 1, and two equal texts tie. Metrics: see :func:`meter_orders`.
    """

    def __init__(self, remember: bool) -> None:
        """``remember`` keeps f of every pair, for evaluations that show the same texts again."""
        self.remember, self.meter = remember, Meter()
        self._known: dict[Shown, float] = {}

    @abstractmethod
    def first_wins(self, rows: Sequence[Shown]) -> np.ndarray:
        """f of each row as it is shown, float64, shape (len(rows),)."""

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """See :class:`llm.judges.Judge`. Each distinct (prompt, first, second) is read once."""
        with self.meter.comparing(len(prompts)):
            rows = list(zip(prompts, a, b, strict=True))
            swapped = [(x, second, first) for x, first, second in rows]
            known = self._known if self.remember else {}
            new = [row for row in dict.fromkeys([*rows, *swapped]) if row not in known]
            if new:
                known.update(zip(new, self.first_wins(new).tolist(), strict=True))
            forward, backward = (np.array([known[row] for row in shown], float) for shown in (rows, swapped))
            meter_orders(self.meter, forward, backward, np.array([x != y for x, y in zip(a, b, strict=True)], bool))
            return 0.5 + (forward - backward) / 2  # in this order equal texts give one half, whatever rounds

    def drain_metrics(self) -> dict[str, float]:
        """See :class:`llm.judges.MeteredJudge`."""
        return self.meter.drain()


def meter_orders(meter: Meter, forward: np.ndarray, backward: np.ndarray, differ: np.ndarray) -> None:
    """Record how much a judge's verdicts depend on the order in which answers are shown.

    - ``order_disagreement``: share of comparisons in which another answer wins when the order is turned;
    - ``first_preferred``: the mean probability of the answer shown first, 1/2 for a judge without this bias.

    Args:
        meter: where to.
        forward: (n,), the probability of a, shown first, against b.
        backward: (n,), the probability of b, shown first, against a.
        differ: (n,), whether a and b are different texts; equal ones say nothing.
    """
    forward, backward = forward[differ], backward[differ]
    meter.average("order_disagreement", (forward - 0.5) * (0.5 - backward) < 0)
    meter.average("first_preferred", (forward + backward) / 2)
