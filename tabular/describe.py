"""The structure of preference matrices, in one table or one JSON object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from tabular import social_choice as sc
from tabular.preferences import PreferenceMatrix


def describe(P: PreferenceMatrix) -> list[dict[str, Any]]:
    """For each game of a batch, plain values: winners and sets by name, scores by name, cycles, transitivity.

    ``cycles`` holds the number of simple majority cycles by length, or only those of length 3 where there are more
    than ``social_choice.LARGEST_CYCLE_COUNT`` alternatives. ``reward`` says how far from Bradley-Terry
    the game is; infinite residuals and the share that goes with them are None.
    """
    return [_describe(P.game(index)) for index in np.ndindex(P.batch_shape)]


def _describe(P: PreferenceMatrix) -> dict[str, Any]:
    def named(mask: NDArray[np.bool_]) -> list[str]:
        return [label for label, inside in zip(P.labels, mask, strict=True) if inside]

    def scores(values: NDArray[Any]) -> dict[str, Any]:
        return dict(zip(P.labels, values.tolist(), strict=True))

    cycles = {"3": int(sc.three_cycles(P))}
    if P.n <= sc.LARGEST_CYCLE_COUNT:
        cycles = {str(k): int(count) for k, count in enumerate(sc.cycle_counts(P)) if count}
    transitivity, fit = sc.transitivity(P), sc.fit_log_odds(P)
    finite = bool(np.isfinite(fit.residual))
    return {
        "labels": list(P.labels),
        "condorcet_winner": named(sc.condorcet_winner(P)),
        "weak_condorcet_winners": named(sc.weak_condorcet_winner(P)),
        "condorcet_loser": named(sc.condorcet_loser(P)),
        "smith_set": named(sc.smith_set(P)),
        "schwartz_set": named(sc.schwartz_set(P)),
        "copeland_winners": named(sc.copeland_winners(P)),
        "borda_winners": named(sc.borda_winners(P)),
        "simpson_set": named(sc.simpson_set(P)),
        "scores": {
            "copeland": scores(sc.copeland_score(P)),
            "borda": scores(sc.borda_score(P)),
            "simpson": scores(sc.simpson_score(P)),
        },
        "shortest_cycle": int(sc.shortest_cycle(P)) or None,
        "cycles": cycles,
        "transitivity": {name: float(getattr(transitivity, name)) for name in ("weak", "moderate", "strong")},
        "reward": {
            "residual": float(fit.residual) if finite else None,
            "cyclic_share": float(fit.cyclic_share) if finite else None,
        },
    }


def as_table(game: dict[str, Any]) -> str:
    """One description, for reading."""
    scores = {"": game["labels"]} | {name: list(column.values()) for name, column in game["scores"].items()}
    sets = {
        _title(name): ", ".join(value) or "none"
        for name, value in game.items()
        if name.endswith(("winner", "winners", "loser", "set"))
    }
    cycles = ", ".join(f"{count} of length {length}" for length, count in game["cycles"].items() if count) or "none"
    shares = ", ".join(f"{name} {share:.4g}" for name, share in game["transitivity"].items())
    reward = game["reward"]
    residual = "some preference is 0 or 1: no finite reward fits"
    if reward["residual"] is not None:
        residual = f"{reward['residual']:.4g} nats; cyclic share of the log-odds {reward['cyclic_share']:.4g}"
    rows = sets | {"majority cycles": cycles, "transitive triples": shares, "largest misfit of a reward": residual}
    return "\n\n".join([tabulate(scores, headers="keys", floatfmt=".6g", disable_numparse=[0]), tabulate(rows.items())])


def _title(name: str) -> str:
    """A key in words, with the capitals of names."""
    first, *rest = name.split("_")
    return " ".join([first if first == "weak" else first.title(), *rest]).replace("condorcet", "Condorcet")
