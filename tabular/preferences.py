"""Preference matrices: what every solver takes, and the ways to make one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from slhf.errors import InvalidPreferences, MissingPair
from tabular.files import COMPARISON_COLUMNS, PREFLIB, first_row, read_comparisons, read_matrix, read_preflib

Array = NDArray[np.float64]

Unranked = Literal["ignore", "bottom"]
Missing = Literal["raise", "half"]

TOLERANCE = 1e-9
"""How far P[i, j] + P[j, i] may be from 1: room for rounding, not for mistakes."""


@dataclass(frozen=True, eq=False)
class PreferenceMatrix:
    """p[..., i, j] = p(i > j), validated and read-only.

    Attributes:
        p: ``(..., n, n)`` probabilities with p + p.T = 1 and 1/2 on the diagonal; leading axes are a batch.
        labels: the n names of the alternatives, distinct; "0", "1", ... by default.

    Raises:
        InvalidPreferences: says which entry (batch index first, then labels) breaks which rule.
    """

    p: Array
    labels: tuple[str, ...] = ()

    def __init__(self, p: ArrayLike, labels: Sequence[str] | None = None) -> None:
        array = _square(p, "p")
        names = _check_labels(labels, array.shape[-1])
        _check_preferences(array, names)
        array.setflags(write=False)
        object.__setattr__(self, "p", array)
        object.__setattr__(self, "labels", names)

    @property
    def n(self) -> int:
        """The number of alternatives."""
        return self.p.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the batch of games; ``()`` for one game."""
        return self.p.shape[:-2]

    @property
    def margins(self) -> Array:
        """``(..., n, n)``: A = P - 1/2, antisymmetric to the last bit."""
        return (self.p - np.swapaxes(self.p, -1, -2)) / 2

    def prefer(self, policy: ArrayLike) -> Array:
        """``(..., n)``: P(y > policy) for every y, given probabilities of shape ``(..., n)``."""
        return np.matmul(self.p, np.asarray(policy, dtype=np.float64)[..., None])[..., 0]

    @classmethod
    def from_counts(
        cls, wins: ArrayLike, missing: Missing = "raise", labels: Sequence[str] | None = None
    ) -> PreferenceMatrix:
        """P[i, j] = wins[i, j] / (wins[i, j] + wins[j, i]).

        Args:
            wins: ``(..., n, n)``, how often i beat j (a tie is half a win for each); zero diagonal.
            missing: what a pair that never met becomes: an error, or 1/2.
            labels: names of the alternatives.

        Raises:
            MissingPair: a pair never met and ``missing`` is "raise".
            InvalidPreferences: negative or non-finite counts, or a win over oneself.
        """
        if missing not in ("raise", "half"):
            raise InvalidPreferences(f'missing = {missing!r}: choose "raise" or "half".')
        counts = _square(wins, "wins")
        names = _check_labels(labels, counts.shape[-1])
        _refuse(~np.isfinite(counts) | (counts < 0), counts, names, "a count must be finite and not negative")
        diagonal = np.eye(len(names), dtype=bool)
        _refuse(diagonal & (counts != 0), counts, names, "an alternative cannot beat itself; set the diagonal to 0")
        totals = counts + np.swapaxes(counts, -1, -2)
        never = (totals == 0) & ~diagonal
        if missing == "raise" and never.any():
            pairs = [_entry(index, names) for index in np.argwhere(never) if index[-2] < index[-1]]
            shown = ", ".join(pairs[:5]) + (f" and {len(pairs) - 5} more" if len(pairs) > 5 else "")
            raise MissingPair(f'Never compared: {shown}. Collect them, or pass missing="half" to call them ties.')
        return cls(np.where(totals > 0, counts, 0.5) / np.where(totals > 0, totals, 1), names)

    @classmethod
    def from_rankings(
        cls,
        rankings: Sequence[Sequence[Any]],
        weights: ArrayLike | None = None,
        unranked: Unranked | None = None,
        labels: Sequence[str] | None = None,
        missing: Missing = "raise",
    ) -> PreferenceMatrix:
        """Pairwise shares of a profile of rankings, such as ``from_rankings(["ABC", "BCA"], [2, 1])``.

        Args:
            rankings: each one lists alternatives, best first; a tuple, list or set inside a ranking
                is a group of ties (half a win each).
            weights: ``(..., rankings)``, how many voters hold each ranking; None is one each, and leading
                axes make a batch of games.
            unranked: what a ranking says about alternatives it leaves out: nothing ("ignore"), or that
                they tie below all others ("bottom"). Needed only if some ranking is partial.
            labels: the alternatives in matrix order; None takes those mentioned, sorted.
            missing: as in :meth:`from_counts`, for pairs that no ranking compares.

        Raises:
            InvalidPreferences: unknown or repeated alternatives, bad weights, or a partial ranking
                without a rule for it.
            MissingPair: see :meth:`from_counts`.
        """
        profile = [[tie_group(entry) for entry in ranking] for ranking in rankings]
        names = alternatives(profile, labels)
        index: dict[Hashable, int] = {name: i for i, name in enumerate(names)}
        shares = check_weights(weights, len(profile))
        wins = np.zeros((*shares.shape[:-1], len(names), len(names)))
        for number, groups in enumerate(profile):
            wins += shares[..., number, None, None] * _ranking_wins(groups, index, unranked, number)
        return cls.from_counts(wins, missing, [str(name) for name in names])

    @classmethod
    def from_margins(cls, m: ArrayLike, labels: Sequence[str] | None = None) -> PreferenceMatrix:
        """P = 1/2 + m for antisymmetric margins m of shape ``(..., n, n)`` in [-1/2, 1/2]."""
        margins = _square(m, "m")
        names = _check_labels(labels, margins.shape[-1])
        wrong = ~(np.abs(margins + np.swapaxes(margins, -1, -2)) <= TOLERANCE)
        _refuse(wrong, margins, names, "margins must be antisymmetric, m[i, j] = -m[j, i]")
        return cls(margins + 0.5, names)

    @classmethod
    def bradley_terry(cls, r: ArrayLike, labels: Sequence[str] | None = None) -> PreferenceMatrix:
        """P[i, j] = sigmoid(r[i] - r[j]) for rewards r of shape ``(..., n)``."""
        reward = np.asarray(r, dtype=np.float64)
        return cls(expit(reward[..., :, None] - reward[..., None, :]), labels)

    @classmethod
    def from_preflib(
        cls, path: str | os.PathLike[str], unranked: Unranked | None = None, missing: Missing = "raise"
    ) -> PreferenceMatrix:
        """The pairwise shares of a PrefLib file (.soc, .soi, .toc, .toi).

        Args:
            path: the file; :func:`tabular.files.read_preflib` says what it holds.
            unranked: as in :meth:`from_rankings`; needed for incomplete orders.
            missing: as in :meth:`from_counts`.

        Raises:
            InvalidData: names the file, line and field.
            InvalidPreferences: see :meth:`from_rankings`.
        """
        names, orders, counts = read_preflib(path)
        with _naming(path):
            return cls.from_rankings(orders, counts, unranked, names, missing)

    @classmethod
    def from_comparisons(cls, path: str | os.PathLike[str], missing: Missing = "raise") -> PreferenceMatrix:
        """The shares of wins in a CSV of pairwise comparisons with the columns winner, loser and (optional) count.

        Raises:
            InvalidData: names the file, row and column.
            MissingPair: see :meth:`from_counts`.
        """
        wins, names = read_comparisons(path)
        with _naming(path):
            return cls.from_counts(wins, missing, names)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], unranked: Unranked | None = None, missing: Missing = "raise"
    ) -> PreferenceMatrix:
        """Read a file of any kind that :mod:`tabular.files` knows.

        A CSV whose first row begins with "winner, loser" holds comparisons, any other CSV a matrix.
        ``unranked`` is for PrefLib files, ``missing`` for them and comparisons.

        Raises:
            InvalidData: the file cannot be read as what it should be.
            InvalidPreferences: it can, but it holds no preferences.
        """
        suffix = os.path.splitext(path)[1].lower()
        if suffix in PREFLIB:
            return cls.from_preflib(path, unranked, missing)
        if suffix == ".csv" and first_row(path)[:2] == list(COMPARISON_COLUMNS[:2]):
            return cls.from_comparisons(path, missing)
        array, labels = read_matrix(path)
        with _naming(path):
            return cls(array, labels)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors about preferences from a file begin with its name."""
    try:
        yield
    except InvalidPreferences as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def _square(values: ArrayLike, name: str) -> Array:
    """A fresh float64 copy of ``values``, checked to be a (batch of) square matrices."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidPreferences(f"{name} cannot be read as an array of numbers: {error}.") from error
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or array.shape[-1] == 0:
        raise InvalidPreferences(f"{name} has shape {array.shape}; it must be (n, n), or (..., n, n) for a batch.")
    return array


def _check_labels(labels: Sequence[str] | None, n: int) -> tuple[str, ...]:
    names = tuple(str(i) for i in range(n)) if labels is None else tuple(labels)
    if len(names) != n:
        raise InvalidPreferences(f"{len(names)} labels {names} for {n} alternatives; give one each.")
    if not all(isinstance(name, str) and name for name in names):
        raise InvalidPreferences(f"labels {names} must be non-empty strings.")
    if len(set(names)) != n:
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidPreferences(f"label {twice!r} is used {names.count(twice)} times; labels must be distinct.")
    return names


def _check_preferences(p: Array, names: tuple[str, ...]) -> None:
    _refuse(~np.isfinite(p), p, names, "a preference must be a finite number")
    _refuse((p < 0) | (p > 1), p, names, "a preference is a probability in [0, 1]; divide counts or percentages first")
    diagonal = np.eye(len(names), dtype=bool)
    _refuse(diagonal & (np.abs(p - 0.5) > TOLERANCE), p, names, "the diagonal must be 1/2: nothing beats itself")
    transpose = np.swapaxes(p, -1, -2)
    _refuse(
        np.abs(p + transpose - 1) > TOLERANCE,
        p,
        names,
        lambda index: (
            f"P[j, i] = {transpose[index]} and the two must sum to 1; correct one of them, "
            f"or use from_counts for counts of wins"
        ),
    )


def _refuse(
    wrong: NDArray[np.bool_], values: Array, names: tuple[str, ...], rule: str | Callable[[tuple[int, ...]], str]
) -> None:
    """Raise InvalidPreferences about the first entry where ``wrong`` holds, if there is one."""
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        reason = rule if isinstance(rule, str) else rule(index)
        raise InvalidPreferences(f"{_entry(index, names)} = {values[index]}: {reason}.")


def _entry(index: Iterable[int], names: tuple[str, ...]) -> str:
    """How errors name an entry: the two labels, after the batch index if there is one."""
    *batch, i, j = (int(k) for k in index)
    return (f"Game {tuple(batch)}, entry" if batch else "Entry") + f" ({names[i]}, {names[j]})"


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
    shares = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape[-1:] != (count,):
        raise InvalidPreferences(f"weights has shape {shares.shape} for {count} rankings; give one weight each.")
    bad = np.argwhere(~(np.isfinite(shares) & (shares >= 0)))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        name = ", ".join(map(str, where))
        raise InvalidPreferences(f"weights[{name}] = {shares[where]}: a weight must be finite and not negative.")
    return shares


def _ranking_wins(
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
