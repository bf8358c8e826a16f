"""Who beats whom: preferences among sets of answers, with bootstrap intervals over prompts.

A text is not asked about against itself: that preference is 1/2. A pair of players is judged in one order; what
the other would have been told is 1 minus it (a judge that minds the order asks both and averages).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llm.judges import Judge, ask
from slhf.errors import InvalidData
from slhf.intervals import estimate, opposite

COMPARISONS_AT_ONCE = 128
"""Most comparisons in one call of a judge, so that a local one reads batches that fit its memory."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WinRate:
    """How often ``row`` is preferred to ``column``, over n prompts, with a bootstrap interval (None: too few)."""

    row: str
    column: str
    mean: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


def compare(judge: Judge, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Array:
    """p(a > b | prompt) for each row, (n,): identical texts are 1/2, and no comparison is asked twice.

    Raises:
        InvalidData: not as many answers as prompts.
        JudgeError: the judge failed.
    """
    for texts in (a, b):
        if len(texts) != len(prompts):
            raise InvalidData(f"{len(texts)} answers for {len(prompts)} prompts.")
    rows = list(zip(prompts, a, b, strict=True))
    asked = list(dict.fromkeys(row for row in rows if row[1] != row[2]))
    known: dict[tuple[str, str, str], float] = {}
    starts = range(0, len(asked), COMPARISONS_AT_ONCE)
    for start in tqdm(starts, desc="judging", unit="batch", leave=False, disable=len(starts) < 2):
        batch = asked[start : start + COMPARISONS_AT_ONCE]
        x, ours, theirs = zip(*batch, strict=True)
        known.update(zip(batch, ask(judge, x, ours, theirs).tolist(), strict=True))
    return np.array([known.get(row, 0.5) for row in rows])


def all_pairs(judge: Judge, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> Array:
    """(n, N, N): for each of n prompts the preferences among its N answers, [i, j] = p(i > j), 1/2 on the diagonal.

    Args:
        judge: gives p(a > b).
        prompts: n prompts.
        answers: N lists of n texts.

    Raises:
        InvalidData, JudgeError: as in :func:`compare`.
    """
    pairs = list(combinations(range(len(answers)), 2))
    # Prompt by prompt: a judge that reads every text once reads those of a prompt together.
    asked = [x for x in prompts for _ in pairs]
    a = [answers[i][k] for k in range(len(prompts)) for i, _ in pairs]
    b = [answers[j][k] for k in range(len(prompts)) for _, j in pairs]
    p = np.full((len(prompts), len(answers), len(answers)), 0.5)
    if pairs:
        rows, columns = np.array(pairs).T
        judged = compare(judge, asked, a, b).reshape(len(prompts), -1)
        p[:, rows, columns], p[:, columns, rows] = judged, 1 - judged
    return p


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
        found = estimate(compare(judge, prompts, answers[row], answers[column]), resamples, seed)
        rates += [WinRate(row, column, **found), WinRate(column, row, **opposite(found))]
    return rates
