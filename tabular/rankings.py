"""Rankings: what they list, what they weigh, and how often they put one alternative above another."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from slhf.errors import InvalidPreferences
from tabular.arrays import Array, of_numpy

Unranked = Literal["ignore", "bottom"]


def tie_group(entry: Any) -> Collection[Hashable]:
    """What one place of a ranking holds: a group of ties as it is, anything else alone."""
    return entry if isinstance(entry, (tuple, list, set, frozenset)) else (entry,)


def alternatives(profile: list[list[Collection[Hashable]]], labels: Sequence[str] | None) -> list[Any]:
    """The labels, or whatever the rankings mention, sorted."""
    if not profile:
        raise InvalidPreferences("There are no rankings; give at least one.")
    if labels is not None:
        return list(labels)
    mentioned: set[Any] = {name for ranking in profile for group in ranking for name in group}
    try:
        return sorted(mentioned)
    except TypeError as error:
        raise InvalidPreferences(f"Alternatives of several kinds cannot be sorted ({error}); pass labels.") from error


def check_weights(weights: ArrayLike | None, count: int) -> Array:
    """``(..., count)``: one finite weight, not negative, for each ranking; ones by default."""
    try:
        shares = np.ones(count) if weights is None else of_numpy(weights)
    except (TypeError, ValueError) as error:
        raise InvalidPreferences(f"weights cannot be read as an array of numbers: {error}.") from error
    if shares.shape[-1:] != (count,):
        raise InvalidPreferences(f"weights has shape {shares.shape} for {count} rankings; give one weight each.")
    bad = np.argwhere(~(np.isfinite(shares) & (shares >= 0)))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        name = ", ".join(map(str, where))
        raise InvalidPreferences(f"weights[{name}] = {shares[where]}: a weight must be finite and not negative.")
    return shares


def ranking_wins(
    groups: list[Collection[Hashable]], index: dict[Hashable, int], unranked: str | None, number: int
) -> Array:
    """``(n, n)``: 1 where one voter with this ranking prefers i to j, 1/2 where i and j tie."""
    ranked = [name for group in groups for name in group]
    for name in ranked:
        if name not in index:
            raise InvalidPreferences(f"Ranking {number} names {name!r}, which is not among {list(index)}.")
        if ranked.count(name) > 1:
            raise InvalidPreferences(f"Ranking {number} lists {name!r} {ranked.count(name)} times; once is enough.")
    rest = [name for name in index if name not in ranked]
    if rest and unranked not in ("ignore", "bottom"):
        raise InvalidPreferences(
            f'Ranking {number} leaves out {rest}: say whether that means nothing (unranked="ignore") or that '
            f'they come last (unranked="bottom"); got unranked={unranked!r}.'
        )
    level = np.full(len(index), np.nan)  # NaN compares false with everything: no win, no tie
    for rank, group in enumerate(groups):
        level[[index[name] for name in group]] = rank
    if rest and unranked == "bottom":
        level[[index[name] for name in rest]] = len(groups)
    wins = (level[:, None] < level).astype(float) + 0.5 * (level[:, None] == level)
    np.fill_diagonal(wins, 0)
    return wins
