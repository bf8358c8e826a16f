"""Who beats whom: a round robin among sets of answers, with bootstrap intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from llm.judges import Judge, ask
from slhf.errors import InvalidData
from slhf.runs import derive_seed

LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True)
class WinRate:
    """How often ``row`` is preferred to ``column``, over n prompts, with a bootstrap interval."""

    row: str
    column: str
    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


def round_robin(
    judge: Judge, prompts: Sequence[str], answers: Mapping[str, Sequence[str]], resamples: int, seed: int
) -> list[WinRate]:
    """Every ordered pair of players, each pair judged once on every prompt.

    Args:
        judge: gives p(a > b).
        prompts: n prompts.
        answers: n texts per player.
        resamples: bootstrap resamples of the prompts.
        seed: of the bootstrap.

    Raises:
        InvalidData: a player does not have one answer per prompt.
    """
    for player, texts in answers.items():
        if len(texts) != len(prompts):
            raise InvalidData(f"{player} has {len(texts)} answers for {len(prompts)} prompts.")
    rates = []
    for row, column in combinations(answers, 2):
        p = ask(judge, prompts, answers[row], answers[column])
        low, high = bootstrap(p, resamples, seed)
        rates.append(WinRate(row, column, float(p.mean()), low, high, len(p)))
        rates.append(WinRate(column, row, float(1 - p.mean()), 1 - high, 1 - low, len(p)))
    return rates


def bootstrap(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (n,) at the level ``LEVEL``."""
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(-1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
