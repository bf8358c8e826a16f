"""Who prefers what: rankings kept apart from how many hold them, so that annotators can be reweighted."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from slhf.errors import InvalidData, InvalidPreferences
from tabular.arrays import Array
from tabular.files import read_orders, write_orders
from tabular.preferences import Missing, PreferenceMatrix
from tabular.rankings import Unranked, alternatives, check_weights, tie_group


@dataclass(frozen=True, eq=False)
class Profile:
    """Rankings and their weights, validated by making preferences of them.

    Attributes:
        rankings: each lists groups of tied alternatives, best first.
        weights: ``(rankings,)``, how many hold each; read-only.
        labels: the n alternatives, in matrix order.
        unranked: what a ranking says about alternatives it leaves out, see
            :meth:`PreferenceMatrix.from_rankings`, which also documents the errors.
    """

    rankings: tuple[tuple[Collection[Any], ...], ...]
    weights: Array
    labels: tuple[Any, ...]
    unranked: Unranked | None = None

    def __init__(
        self,
        rankings: Sequence[Sequence[Any]],
        weights: ArrayLike | None = None,
        labels: Sequence[str] | None = None,
        unranked: Unranked | None = None,
    ) -> None:
        groups = [[tie_group(entry) for entry in ranking] for ranking in rankings]
        shares = np.array(check_weights(weights, len(groups)))
        if shares.ndim != 1:
            raise InvalidPreferences(f"weights has shape {shares.shape}; a profile has one weight per ranking.")
        shares.setflags(write=False)
        object.__setattr__(self, "rankings", tuple(tuple(ranking) for ranking in groups))
        object.__setattr__(self, "weights", shares)
        object.__setattr__(self, "labels", tuple(alternatives(groups, labels)))
        object.__setattr__(self, "unranked", unranked)
        self.preferences(np.ones(len(groups)), missing="half")

    def preferences(self, weights: ArrayLike | None = None, missing: Missing = "raise") -> PreferenceMatrix:
        """The pairwise shares of these rankings.

        Args:
            weights: ``(..., rankings)``, other weights than the profile's own; leading axes make a batch of games.
            missing: as in :meth:`PreferenceMatrix.from_counts`.
        """
        shares = self.weights if weights is None else weights
        return PreferenceMatrix.from_rankings(self.rankings, shares, self.unranked, self.labels, missing)

    @classmethod
    def from_preflib(cls, path: str | os.PathLike[str], unranked: Unranked | None = None) -> Profile:
        """Read a PrefLib file (.soc, .soi, .toc, .toi); :mod:`tabular.files.preflib` says what it holds.

        Raises:
            InvalidData: names the file, line and field.
            InvalidPreferences: some order is incomplete and ``unranked`` is not given.
        """
        found = read_orders(path)
        try:
            return cls(found.orders, found.counts, found.names, unranked)
        except InvalidPreferences as error:
            raise InvalidPreferences(f"{os.fspath(path)}: {error}") from error

    def to_preflib(self, path: str | os.PathLike[str]) -> None:
        """Write a PrefLib file, which :meth:`from_preflib` reads back; labels become text.

        Raises:
            InvalidData: the weights are no whole numbers, or the orders are not what the file's suffix promises.
        """
        if not np.all(self.weights == np.round(self.weights)):
            raise InvalidData(f"{os.fspath(path)}: PrefLib counts voters; weights {self.weights} are no whole numbers.")
        orders = [[[str(name) for name in group] for group in ranking] for ranking in self.rankings]
        write_orders(path, [str(label) for label in self.labels], orders, [int(w) for w in self.weights])

    def __str__(self) -> str:
        return "\n".join(
            f"{weight:g}: " + " > ".join(" = ".join(map(str, group)) for group in ranking)
            for weight, ranking in zip(self.weights, self.rankings, strict=True)
        )
