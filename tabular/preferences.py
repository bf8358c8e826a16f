"""Preference matrices: what every solver takes, and the ways to make one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, to_device
from numpy.typing import ArrayLike

from slhf.errors import InvalidPreferences, MissingPair
from tabular.arrays import AnyArray, Array, first, kind, like, of_numpy, owned
from tabular.files import COMPARISON_COLUMNS, PREFLIB, first_row, read_comparisons, read_matrix, read_preflib

Unranked = Literal["ignore", "bottom"]
Missing = Literal["raise", "half"]

TOLERANCE = 1e-9
"""How far P[i, j] + P[j, i] may be from 1: room for rounding, not for mistakes."""
ROUNDED = 1e-6
"""Sums this close to 1 are called rounded, no mistake, by the error."""
TILE = 256
"""numpy compares a matrix with its transpose in squares of this size, of which two fit the cache."""


@dataclass(frozen=True, eq=False)
class PreferenceMatrix:
    """p[..., i, j] = p(i > j), validated and read-only.

    Attributes:
        p: ``(..., n, n)`` probabilities with p + p.T = 1 and 1/2 on the diagonal, in float64; leading axes are a
            batch. An array of another library than numpy, such as a torch tensor, keeps its library and device, and
            :func:`tabular.solve_slhf` answers with such arrays; what cannot refuses it (see :meth:`numpy`).
        labels: the n names of the alternatives, distinct; "0", "1", ... by default.

    Raises:
        InvalidPreferences: says which entry (batch index first, then labels) breaks which rule.
    """

    p: AnyArray
    labels: tuple[str, ...] = ()

    def __init__(self, p: ArrayLike | AnyArray, labels: Sequence[str] | None = None) -> None:
        self._own(_square(p, "p"), labels)

    def _own(self, array: AnyArray, labels: Sequence[str] | None) -> None:
        """Check and keep a fresh array."""
        names = _check_labels(labels, array.shape[-1])
        _check_preferences(array, names)
        if is_numpy_array(array):
            array.setflags(write=False)
        object.__setattr__(self, "p", array)
        object.__setattr__(self, "labels", names)

    @classmethod
    def _of(cls, array: AnyArray, labels: Sequence[str] | None) -> PreferenceMatrix:
        """The preferences in a fresh array, which is not copied again."""
        self = object.__new__(cls)
        self._own(array, labels)
        return self

    @property
    def n(self) -> int:
        """The number of alternatives."""
        return self.p.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the batch of games; ``()`` for one game."""
        return tuple(self.p.shape[:-2])

    @property
    def margins(self) -> AnyArray:
        """``(..., n, n)``: A = P - 1/2, antisymmetric to the last bit."""
        margins = self.p - self.p.mT
        margins /= 2
        return margins

    def prefer(self, policy: ArrayLike | AnyArray) -> AnyArray:
        """``(..., n)``: P(y > policy) for every y, given probabilities of shape ``(..., n)``."""
        return array_namespace(self.p).matmul(self.p, like(policy, self.p)[..., None])[..., 0]

    def numpy(self) -> PreferenceMatrix:
        """The same preferences as a numpy array in main memory."""
        return self if is_numpy_array(self.p) else PreferenceMatrix(np.asarray(to_device(self.p, "cpu")), self.labels)

    def require_numpy(self, who: str) -> None:
        """Refuse, for ``who`` works with numpy only, preferences in an array of another library.

        Raises:
            InvalidPreferences: they are.
        """
        if not is_numpy_array(self.p):
            raise InvalidPreferences(f"{who} is for numpy arrays and these are {kind(self.p)}; pass P.numpy().")

    @classmethod
    def from_counts(
        cls, wins: ArrayLike | AnyArray, missing: Missing = "raise", labels: Sequence[str] | None = None
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
        xp = array_namespace(counts)
        _refuse(~(xp.isfinite(counts) & (counts >= 0)), counts, names, "a count must be finite and not negative")
        diagonal = xp.eye(len(names), dtype=xp.bool, device=device(counts))
        _refuse(diagonal & (counts != 0), counts, names, "an alternative cannot beat itself; set the diagonal to 0")
        totals = counts + xp.matrix_transpose(counts)
        never = (totals == 0) & ~diagonal
        if missing == "raise" and xp.any(never):
            pairs = [_entry(index, names) for index in zip(*xp.nonzero(never), strict=True) if index[-2] < index[-1]]
            shown = ", ".join(pairs[:5]) + (f" and {len(pairs) - 5} more" if len(pairs) > 5 else "")
            raise MissingPair(f'Never compared: {shown}. Collect them, or call them ties (missing="half").')
        return cls._of(xp.where(totals > 0, counts, 0.5) / xp.where(totals > 0, totals, 1.0), names)

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
    def from_margins(cls, m: ArrayLike | AnyArray, labels: Sequence[str] | None = None) -> PreferenceMatrix:
        """P = 1/2 + m for antisymmetric margins m of shape ``(..., n, n)`` in [-1/2, 1/2]."""
        margins = _square(m, "m")
        names = _check_labels(labels, margins.shape[-1])
        if not _asymmetry(margins, 0.0) <= TOLERANCE:
            xp = array_namespace(margins)
            with np.errstate(invalid="ignore"):
                wrong = ~(xp.abs(margins + xp.matrix_transpose(margins)) <= TOLERANCE)
            _refuse(wrong, margins, names, "margins must be antisymmetric, m[i, j] = -m[j, i]")
        margins += 0.5
        return cls._of(margins, names)

    @classmethod
    def bradley_terry(cls, r: ArrayLike | AnyArray, labels: Sequence[str] | None = None) -> PreferenceMatrix:
        """P[i, j] = sigmoid(r[i] - r[j]) for finite rewards r of shape ``(..., n)``."""
        try:
            reward = owned(r)
        except (TypeError, ValueError) as error:
            raise InvalidPreferences(f"r cannot be read as an array of numbers: {error}.") from error
        xp = array_namespace(reward)
        if reward.ndim == 0 or not xp.all(xp.isfinite(reward)):
            raise InvalidPreferences("r must hold finite rewards, one for each alternative along its last axis.")
        difference = reward[..., :, None] - reward[..., None, :]
        loser = xp.exp(-xp.abs(difference))  # in [0, 1], so that neither side overflows or loses digits
        p = xp.where(difference >= 0, 1.0, loser)
        loser += 1
        p /= loser
        return cls._of(p, labels)

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


def _square(values: ArrayLike | AnyArray, name: str) -> AnyArray:
    """A fresh float64 copy of ``values``, checked to be a (batch of) square matrices."""
    try:
        array = owned(values)
    except (TypeError, ValueError) as error:
        raise InvalidPreferences(f"{name} cannot be read as an array of numbers: {error}.") from error
    shape = tuple(array.shape)
    if len(shape) < 2 or shape[-1] != shape[-2] or 0 in shape:
        raise InvalidPreferences(f"{name} has shape {shape}; it must be (n, n), or (..., n, n) for a batch.")
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


def _check_preferences(p: AnyArray, names: tuple[str, ...]) -> None:
    """Four cheap tests; only where one fails, masks as large as p find the place."""
    xp = array_namespace(p)
    if not (xp.min(p) >= 0 and xp.max(p) <= 1):  # NaN is neither
        _refuse(~xp.isfinite(p), p, names, "a preference must be a finite number")
        rule = "a preference is a probability in [0, 1]; divide counts or percentages first"
        _refuse((p < 0) | (p > 1), p, names, rule)
    if not xp.max(xp.abs(xp.linalg.diagonal(p) - 0.5)) <= TOLERANCE:
        diagonal = xp.eye(len(names), dtype=xp.bool, device=device(p))
        wrong = diagonal & (xp.abs(p - 0.5) > TOLERANCE)
        _refuse(wrong, p, names, "the diagonal must be 1/2: nothing beats itself")
    if not _asymmetry(p, 1.0) <= TOLERANCE:
        transpose = xp.matrix_transpose(p)
        _refuse(
            xp.abs(p + transpose - 1) > TOLERANCE,
            p,
            names,
            lambda index: (
                f"P[j, i] = {float(transpose[index])} and the two must sum to 1; "
                + (
                    "they were rounded, perhaps in float32: make P[j, i] of 1 - P[i, j] in float64"
                    if abs(float(p[index] + transpose[index]) - 1) < ROUNDED
                    else "correct one of them, or use from_counts for counts of wins"
                )
            ),
        )


def _asymmetry(array: AnyArray, target: float) -> float:
    """The largest |a[i, j] + a[j, i] - target|, without a temporary as large as ``array``; NaN if that is one."""
    xp, n = array_namespace(array), array.shape[-1]
    games = xp.reshape(array, (-1, n, n))
    side = min(n, TILE) if is_numpy_array(array) else n
    many = max(1, TILE**2 // side**2) if is_numpy_array(array) else games.shape[0]
    worst = 0.0
    for game in range(0, games.shape[0], many):
        chosen = games[game : game + many, ...]
        for i in range(0, n, side):
            for j in range(i, n, side):
                above, below = chosen[:, i : i + side, j : j + side], chosen[:, j : j + side, i : i + side]
                with np.errstate(invalid="ignore"):
                    sums = above + xp.matrix_transpose(below)
                sums -= target
                tile = float(xp.max(xp.abs(sums)))
                if not tile <= worst:
                    worst = tile
                if worst != worst:
                    return worst
    return worst


def _refuse(
    wrong: AnyArray, values: AnyArray, names: tuple[str, ...], rule: str | Callable[[tuple[int, ...]], str]
) -> None:
    """Raise InvalidPreferences about the first entry where ``wrong`` holds, if there is one."""
    if array_namespace(wrong).any(wrong):
        index = first(wrong)
        reason = rule if isinstance(rule, str) else rule(index)
        raise InvalidPreferences(f"{_entry(index, names)} = {float(values[index])}: {reason}.")


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
