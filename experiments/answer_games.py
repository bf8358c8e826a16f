"""Sampled answers as games: one preference matrix per prompt, handed to ``tabular``.

Every sample is an action of its own. Where a text was sampled twice, its copies are clones that tie with each other:
they are kept, so that the uniform reference over samples gives a text the probability with which it was sampled
(KL-regularised NLHF and SLHF give a text what they would give it merged, with that reference, and the Bradley-Terry
reward does not see the tie). Neither whether there is a cycle nor the length of the shortest depends on clones; the
Condorcet winner is asked to beat every *other* text.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.evaluate import all_pairs
from llm.judges import Judge
from slhf.intervals import estimate
from tabular import PreferenceMatrix, solve_nlhf, solve_slhf
from tabular.social_choice import borda_winners, cycle_edges, majority, reaches, shortest_cycle, three_cycles

EDGE = "p(answer > other) > 1/2"
"""When an answer beats another. With the attribute judges: it wins more attributes than it loses."""

Array = NDArray[np.float64]


def judged(judge: Judge, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> PreferenceMatrix:
    """The games (n, N, N) among N answers to each of n prompts; see :func:`llm.evaluate.all_pairs`."""
    return PreferenceMatrix(all_pairs(judge, prompts, answers))


def clones(answers: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """(n, N, N): True where two of the N answers to a prompt are the same text; ``answers`` are N lists of n."""
    texts = np.array(answers, dtype=object).T
    return texts[:, :, None] == texts[:, None, :]


def cycle_statistics(P: PreferenceMatrix, same: NDArray[np.bool_], resamples: int, seed: int) -> dict[str, Any]:
    """How often the majority graphs of a batch of games (n, N, N) cycle, and at what lengths.

    Args:
        P: the games.
        same: :func:`clones`.
        resamples: of the bootstrap over games.
        seed: of the bootstrap.

    Returns:
        ``answers`` (N); ``distinct``, the mean number of different texts; ``share`` of games with a cycle, with its
        interval ``low``, ``high``; ``lengths``, how many games have a shortest cycle of each length (without ties it
        is always 3); ``longest``, in games with a cycle, the mean size of the largest set of answers that reach each
        other by wins: no cycle is longer, and without ties one is as long (Camion 1959); None without cycles;
        ``cyclic_triples``, the share of triples that beat each other in a circle; ``ties``, the share of pairs of
        different texts without an edge; ``condorcet_winner``, the share of games in which an answer beats every other
        text, with ``condorcet_low``, ``condorcet_high``.
    """
    lengths = shortest_cycle(P)
    cyclic = estimate((lengths > 0).astype(float), resamples, seed)
    edges = majority(P)
    winner = estimate(np.all(edges | same, axis=-1).any(-1).astype(float), resamples, seed)
    paths = reaches(cycle_edges(P))
    knots = (paths & np.swapaxes(paths, -1, -2)).sum(-1).max(-1)[lengths > 0]
    different = np.triu(~same, 1)
    tied = different & ~edges & ~np.swapaxes(edges, -1, -2)
    return {
        "answers": P.n,
        "distinct": float((1 / same.sum(-1)).sum(-1).mean()),
        "edge": EDGE,
        "share": cyclic["mean"],
        "low": cyclic["low"],
        "high": cyclic["high"],
        "lengths": {str(k): int((lengths == k).sum()) for k in range(3, P.n + 1) if (lengths == k).any()},
        "longest": float(knots.mean()) if len(knots) else None,
        "cyclic_triples": float(three_cycles(P).mean() / comb(P.n, 3)) if P.n > 2 else 0.0,
        "ties": float(tied.sum() / max(1, different.sum())),
        "condorcet_winner": winner["mean"],
        "condorcet_low": winner["low"],
        "condorcet_high": winner["high"],
    }


def choices(P: PreferenceMatrix, tau: float) -> dict[str, Array]:
    """What each concept plays in each of n games (n, N, N): probabilities (n, N).

    - "one at random": what sampling once would give;
    - "RLHF (best of N)": the answer with the greatest mean preference over the others. That is best of N by the
      judge, and it is RLHF at temperature 0: with every pair compared once, the Bradley-Terry rewards have this order
      (for any l2), whether or not they are finite. Samples that tie share the choice;
    - "NLHF": the KL-regularised Nash equilibrium at ``tau``;
    - "SLHF Leader": at tau_leader = tau_follower = ``tau``;
    - "SLHF Follower": the Follower's reply, among the same N, to the Leader's choice.
    """
    slhf = solve_slhf(P, tau, tau)
    return {
        "one at random": np.full(slhf.policy.shape, 1 / P.n),
        "RLHF (best of N)": best_of(P),
        "NLHF": solve_nlhf(P, tau).policy,
        "SLHF Leader": slhf.policy,
        "SLHF Follower": np.einsum("ki,kij->kj", slhf.policy, slhf.follower),
    }


def agreements(chosen: dict[str, Array], same: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How far the concepts choose the same texts: the mean over games of 1 - total variation, 1 with oneself.

    It is the share of games with the same choice where both are sure of it.

    Args:
        chosen: of :func:`choices`.
        same: :func:`clones`; probabilities of one text are added up.
    """
    by_text = {name: np.einsum("kij,kj->ki", same, policy) for name, policy in chosen.items()}
    copies = same.sum(-1)  # every copy of a text carries its whole probability: each counts for one part

    def overlap(a: Array, b: Array) -> float:
        return float((np.minimum(a, b) / copies).sum(-1).mean())

    return [
        {"concept": name, "agrees_with": {other: overlap(mine, theirs) for other, theirs in by_text.items()}}
        for name, mine in by_text.items()
    ]


def best_of(P: PreferenceMatrix) -> Array:
    """(n, N): best of N in each of n games, by the mean preference over the others; ties share the choice."""
    best = borda_winners(P)
    return best / best.sum(-1, keepdims=True)


def among(P: PreferenceMatrix, answers: Sequence[int]) -> PreferenceMatrix:
    """The games among some of the answers only."""
    index = np.array(answers)
    return PreferenceMatrix(P.p[..., index[:, None], index])
