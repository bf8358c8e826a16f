"""Preference matrices: what every solver takes, and the ways to make one."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from array_api_compat import device, is_numpy_array, to_device
from numpy.typing import ArrayLike

from slhf.errors import InvalidParameter, InvalidPreferences, MissingPair
from tabular import files
from tabular.arrays import AnyArray, array_namespace, first, kind, like, owned
from tabular.files import Ties
from tabular.rankings import Unranked, alternatives, check_weights, ranking_wins, tie_group

Missing = Literal["raise", "half"]

TOLERANCE = 1e-9
"""How far P[i, j] + P[j, i] may be from 1: room for rounding, not for mistakes."""
TILE = 256
"""numpy compares a matrix with its transpose in squares of this size, of which two fit the cache."""


@dataclass(frozen=True, eq=False, init=False, repr=False)
class PreferenceMatrix:
    """p[..., i, j] = p(i > j), validated and read-only; and how often each pair met, where that is known.

    Args:
        p: ``(..., n, n)`` probabilities with p + p.T = 1 and 1/2 on the diagonal; leading axes are a batch. An
            array of another library than numpy, such as a torch tensor, keeps its library and device, and
            :func:`tabular.solve_slhf`, :func:`tabular.solve_nlhf` and :func:`tabular.solve_rlhf` answer with such
            arrays; what cannot refuses it (see :meth:`numpy`).
        labels: the n names of the alternatives, distinct; "0", "1", ... by default.
        pair_weights: W, symmetric, broadcastable to ``(..., n, n)``: how often each pair was compared; None if
            nobody knows. RLHF weights by them, see :func:`tabular.solve_rlhf`.

    Attributes:
        labels: as above.
        counts: ``(..., n, n)``, how often i beat j, so that W = counts + counts.T; None if nobody knows.
        notes: what reading the file assumed, a sentence each; see :meth:`load`.

    Raises:
        InvalidPreferences: says which entry (batch index first, then labels) breaks which rule.
        InvalidParameter: pair weights that are negative, not finite or not symmetric.
    """

    labels: tuple[str, ...]
    counts: AnyArray | None
    notes: tuple[str, ...]
    _p: AnyArray
    _never_met: str

    def __init__(
        self,
        p: ArrayLike | AnyArray,
        labels: Sequence[str] | None = None,
        pair_weights: ArrayLike | AnyArray | None = None,
    ) -> None:
        array = _square(p, "p")
        self._own(array, labels, None if pair_weights is None else check_pair_weights(pair_weights, array) * array)

    def _own(
        self,
        array: AnyArray,
        labels: Sequence[str] | None,
        counts: AnyArray | None = None,
        missing: Missing = "half",
    ) -> None:
        """Check and keep fresh arrays; ``missing`` says whether p holds a pair that never met."""
        names = _check_labels(labels, array.shape[-1])
        _check_preferences(array, names)
        for fresh in (array, counts):
            if is_numpy_array(fresh):
                fresh.setflags(write=False)
        never_met = _never_met(counts, names) if missing == "raise" and counts is not None else ""
        values = {"labels": names, "counts": counts, "notes": (), "_p": array}
        for name, value in (values | {"_never_met": never_met}).items():
            object.__setattr__(self, name, value)

    @classmethod
    def _of(cls, array: AnyArray, labels: Sequence[str] | None, *rest: Any) -> PreferenceMatrix:
        """The preferences in fresh arrays, which are not copied again."""
        self = object.__new__(cls)
        self._own(array, labels, *rest)
        return self

    def __repr__(self) -> str:
        counts = "" if self.counts is None else f", counts={self.counts!r}"
        return f"PreferenceMatrix({self._p!r}, labels={self.labels}{counts})"

    @property
    def p(self) -> AnyArray:
        """``(..., n, n)``: p(i > j), in float64.

        Raises:
            MissingPair: a pair never met and no rule says what it becomes (see :meth:`from_counts`).
        """
        self.require_complete()
        return self._p

    def require_complete(self) -> None:
        """Refuse preferences in which a pair never met and no rule says what it becomes.

        Raises:
            MissingPair: names the pairs.
        """
        if self._never_met:
            raise MissingPair(self._never_met)

    @property
    def known(self) -> AnyArray:
        """``(..., n, n)``: False where a pair never met and no rule says what it becomes."""
        xp = array_namespace(self._p)
        if not self._never_met:
            return xp.ones(self.shape, dtype=xp.bool, device=device(self._p))
        return (_pair_weights(self.counts) > 0) | xp.eye(self.n, dtype=xp.bool, device=device(self._p))

    @property
    def win_rates(self) -> AnyArray:
        """``(..., n, n)``: :attr:`p` where it is :attr:`known`, 1/2 elsewhere, for what weights pairs (RLHF)."""
        return self._p

    @property
    def pair_weights(self) -> AnyArray | None:
        """``(..., n, n)``: W, how often each pair met; None where nobody knows."""
        return None if self.counts is None else _pair_weights(self.counts)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(..., n, n)``."""
        return tuple(self._p.shape)

    @property
    def n(self) -> int:
        """The number of alternatives."""
        return self._p.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the batch of games; ``()`` for one game."""
        return self.shape[:-2]

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
        """The same preferences as numpy arrays in main memory."""
        if is_numpy_array(self._p):
            return self
        return self._like(_to_numpy(self._p), self.labels, None if self.counts is None else _to_numpy(self.counts))

    def game(self, index: int | tuple[int, ...]) -> PreferenceMatrix:
        """One game (or a batch of fewer) of a batch, with its counts."""
        return self._like(
            owned(self._p[index]), self.labels, None if self.counts is None else owned(self.counts[index])
        )

    def among(self, answers: Sequence[int | str]) -> PreferenceMatrix:
        """The game among some alternatives, given by their places or labels, in this order, with their counts."""
        try:
            places = [self.labels.index(a) if isinstance(a, str) else range(self.n)[a] for a in answers]
        except (ValueError, IndexError):
            raise InvalidParameter(f"{list(answers)}: choose among the alternatives {self.labels}.") from None
        xp = array_namespace(self._p)
        index = xp.asarray(places, device=device(self._p))

        def chosen(array: AnyArray) -> AnyArray:
            return xp.take(xp.take(array, index, axis=-2), index, axis=-1)

        counts = None if self.counts is None else chosen(self.counts)
        return self._like(chosen(self._p), [self.labels[i] for i in places], counts)

    def moved(self, p: ArrayLike | AnyArray) -> PreferenceMatrix:
        """Other preferences ``(..., n, n)`` of the same alternatives, which met as often; a batch of them, perhaps."""
        return PreferenceMatrix(p, self.labels, self.pair_weights)

    def _like(self, array: AnyArray, labels: Sequence[str], counts: AnyArray | None) -> PreferenceMatrix:
        """A part of this, in fresh arrays: its pairs that never met still have no rule, if here they had none."""
        return self._of(array, labels, counts, "raise" if self._never_met else "half")

    def require_numpy(self, who: str) -> None:
        """Refuse, for ``who`` works with numpy only, preferences in an array of another library.

        Raises:
            InvalidPreferences: they are.
        """
        if not is_numpy_array(self._p):
            raise InvalidPreferences(f"{who} is for numpy arrays and these are {kind(self._p)}; pass P.numpy().")

    @classmethod
    def from_counts(
        cls, wins: ArrayLike | AnyArray, missing: Missing = "raise", labels: Sequence[str] | None = None
    ) -> PreferenceMatrix:
        """P[i, j] = wins[i, j] / (wins[i, j] + wins[j, i]); how often each pair met is kept.

        Args:
            wins: ``(..., n, n)``, how often i beat j (a tie is half a win for each); zero diagonal.
            missing: what a pair that never met becomes for what needs every entry of P: an error there, or 1/2.
                RLHF needs no such entry: it weighs 0.
            labels: names of the alternatives.

        Raises:
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
        totals = _pair_weights(counts)
        p = xp.where(totals > 0, counts, 0.5) / xp.where(totals > 0, totals, 1.0)
        return cls._of(p, names, counts, missing)

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
            missing: as in :meth:`from_counts`, for pairs that no ranking compares. How often each pair was ranked
                is kept, as there.

        Raises:
            InvalidPreferences: unknown or repeated alternatives, bad weights, or a partial ranking
                without a rule for it.
        """
        profile = [[tie_group(entry) for entry in ranking] for ranking in rankings]
        names = alternatives(profile, labels)
        index: dict[Hashable, int] = {name: i for i, name in enumerate(names)}
        shares = check_weights(weights, len(profile))
        wins = np.zeros((*shares.shape[:-1], len(names), len(names)))
        for number, groups in enumerate(profile):
            wins += shares[..., number, None, None] * ranking_wins(groups, index, unranked, number)
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
        """The pairwise shares of a PrefLib file (.soc, .soi, .toc, .toi); :meth:`load` documents the rest."""
        files.read_orders(path)
        return cls.load(path, unranked, missing)

    @classmethod
    def from_comparisons(
        cls, path: str | os.PathLike[str], missing: Missing = "raise", ties: Ties | None = None
    ) -> PreferenceMatrix:
        """The shares of wins in a file of comparisons or battles; :meth:`load` reads it too, and documents the rest.

        Raises:
            InvalidData: the file holds something else.
        """
        files.require_comparisons(path)
        return cls.load(path, missing=missing, ties=ties)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        unranked: Unranked | None = None,
        missing: Missing = "raise",
        *,
        ties: Ties | None = None,
        counts: bool = False,
        percent: bool = False,
        symmetrise: bool = False,
    ) -> PreferenceMatrix:
        """Read a file of any kind that :mod:`tabular.files` knows; it tells which.

        Files of comparisons, counts and orders keep how often each pair met. What reading assumed, such as
        decimal commas or columns left out, is in ``notes`` (the command line prints them).

        Args:
            path: the file.
            unranked: for PrefLib files with incomplete orders, as in :meth:`from_rankings`.
            missing: for pairs that never met, as in :meth:`from_counts`.
            ties: for battles that end in a tie: half a win for each ("half"), or left out ("drop").
            counts: a matrix holds how often each row beat each column.
            percent: a matrix holds percentages.
            symmetrise: the sums P[i, j] + P[j, i] miss 1 by rounding to two or more decimals: split what they miss.

        Raises:
            InvalidData: the file cannot be read as what it should be; names the file and the place.
            InvalidPreferences: it can, but it holds no preferences.
            InvalidParameter: an option has no meaning for this file.
        """
        found = files.read(path, files.Options(unranked, ties, counts, percent, symmetrise))
        with _naming(path):
            if isinstance(found, files.Orders):
                P = cls.from_rankings(found.orders, found.counts, unranked, found.names, missing)
            elif found.kind == "wins":
                P = cls.from_counts(found.values, missing, found.labels)
            else:
                P = cls(found.values, found.labels)
        object.__setattr__(P, "notes", found.notes)
        object.__setattr__(P, "_never_met", P._never_met and f"{os.fspath(path)}: {P._never_met}")
        return P


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors about preferences from a file begin with its name."""
    try:
        yield
    except InvalidPreferences as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def _to_numpy(array: AnyArray) -> AnyArray:
    return np.array(np.asarray(to_device(array, "cpu")))


def _pair_weights(counts: AnyArray) -> AnyArray:
    return counts + array_namespace(counts).matrix_transpose(counts)


def _never_met(counts: AnyArray, names: tuple[str, ...]) -> str:
    """What to say where p is asked for and some pairs never met; "" if all did."""
    xp = array_namespace(counts)
    never = (_pair_weights(counts) == 0) & ~xp.eye(len(names), dtype=xp.bool, device=device(counts))
    if not xp.any(never):
        return ""
    pairs = [_entry(index, names) for index in zip(*xp.nonzero(never), strict=True) if index[-2] < index[-1]]
    shown = ", ".join(pairs[:5]) + (f" and {len(pairs) - 5} more" if len(pairs) > 5 else "")
    return f'Never compared: {shown}. Collect them, or call them ties (missing="half"). Only RLHF does without them.'


def check_pair_weights(pair_weights: ArrayLike | AnyArray, p: AnyArray) -> AnyArray:
    """``(..., n, n)`` weights of the library and shape of ``p``, fresh, with a zero diagonal.

    Raises:
        InvalidParameter: they are negative, not finite, not symmetric, or do not broadcast.
    """
    xp = array_namespace(p)
    try:
        weights = xp.broadcast_to(like(pair_weights, p), tuple(p.shape))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidParameter(f"pair_weights must broadcast to {tuple(p.shape)}: {error}.") from error
    if not xp.all(xp.isfinite(weights) & (weights >= 0)):
        raise InvalidParameter("pair_weights must be finite and not negative.")
    if xp.any(xp.abs(weights - xp.matrix_transpose(weights)) > 1e-12 * weights):
        raise InvalidParameter("pair_weights must be symmetric: W[i, j] counts the comparisons of i with j.")
    return weights * (1 - xp.eye(p.shape[-1], dtype=xp.float64, device=device(p)))


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
        rule = (
            "a preference is a probability in [0, 1]; divide percentages by 100, and pass counts of wins to "
            "from_counts, or read their file with percent=True or counts=True"
        )
        _refuse((p < 0) | (p > 1), p, names, rule)
    if not xp.max(xp.abs(xp.linalg.diagonal(p) - 0.5)) <= TOLERANCE:
        diagonal = xp.eye(len(names), dtype=xp.bool, device=device(p))
        wrong = diagonal & (xp.abs(p - 0.5) > TOLERANCE)
        _refuse(wrong, p, names, "the diagonal must be 1/2: nothing beats itself (a file may leave it blank)")
    if not _asymmetry(p, 1.0) <= TOLERANCE:
        transpose = xp.matrix_transpose(p)
        _refuse(
            xp.abs(p + transpose - 1) > TOLERANCE,
            p,
            names,
            lambda index: (
                f"P[j, i] = {float(transpose[index])} and the two must sum to 1; "
                + (
                    "if that is rounding, perhaps in float32, make P[j, i] of 1 - P[i, j] in float64, or read the file "
                    "with symmetrise=True"
                    if abs(float(p[index] + transpose[index]) - 1) <= files.ROUNDED
                    else "correct one of them; counts of wins go to from_counts, files of them take counts=True"
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
