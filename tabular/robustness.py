"""What becomes of a solution when its preferences are noisy, unevenly asked, cloned, or somebody else's.

Every function takes one game (or profile) and concepts by name (:mod:`tabular.concepts`), and returns a tidy
frame: one row per concept and perturbation. All of them have, besides what was perturbed, the columns

- ``concept``: its name;
- ``total_variation`` between the policy and the one of the unperturbed game;
- ``top``: the label of the most probable answer, the first one if several tie;
- ``top_changed``: whether no answer that was most probable is so still;
- ``loss``: what the policy (for SLHF, both policies) falls short by in the unperturbed game, as
  :class:`tabular.concepts.Concept` says for each; RLHF's is in nats of reward, not to be compared with the others.

All perturbations of one kind and size are solved as one batch. Random ones come from ``seed`` and their place
in the list of sizes, and are the same for every concept. At temperature 0 where several answers are optimal
(several maximal lotteries, say) the total variation also measures which of them was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from slhf.errors import InvalidParameter
from tabular.concepts import Concept
from tabular.policies import Array, total_variation
from tabular.preferences import PreferenceMatrix
from tabular.profiles import Profile
from tabular.rankings import check_weights
from tabular.rlhf import PairWeights, pair_weights_of

TIES = 1e-9
"""Probabilities this close to the largest are called most probable too."""


def noise(
    P: PreferenceMatrix, concepts: Mapping[str, Concept], levels: Sequence[float], repeats: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Every p(i > j) moved by a number uniform in [-level, level], independently, and clipped to [0, 1].

    Returns:
        The common columns, ``level``, and ``repeat`` (0, 1, ...); len(levels) * repeats rows for each concept.
    """
    _one_game(P)
    tables = []
    for number, level in _progress(list(enumerate(levels)), "noise"):
        if not level >= 0:
            raise InvalidParameter(f"level = {level}: must not be negative.")
        change = np.random.default_rng([seed, number]).uniform(-level, level, size=(_least(repeats), P.n, P.n))
        above = np.triu(change, 1)
        noisy = P.moved(np.clip(P.p + above - np.swapaxes(above, -1, -2), 0, 1))
        for name, concept in concepts.items():
            columns = {"concept": name, "level": level, "repeat": np.arange(repeats)}
            tables.append(pd.DataFrame(columns | compare(concept, P, noisy)))
    return pd.concat(tables, ignore_index=True)


def sampling(
    P: PreferenceMatrix,
    concepts: Mapping[str, Concept],
    comparisons: Sequence[int],
    repeats: int = 200,
    seed: int = 0,
    pair_weights: PairWeights = None,
) -> pd.DataFrame:
    """P estimated from a finite number of comparisons: each draws a pair, then its winner.

    The estimate is the share of wins, 1/2 for a pair that was never drawn. RLHF also learns how often each pair
    was drawn, so with other ``pair_weights`` than P's own it goes to another limit than its unperturbed solution;
    NLHF and SLHF know no weights, but rarely drawn pairs stay noisy for longer.

    Args:
        P: the truth.
        concepts: by name; RLHF needs ``l2`` > 0, unless so many comparisons are drawn that nobody always wins.
        comparisons: how many are drawn in all, for each size of data set.
        repeats: how many data sets of each size.
        seed: of all draws.
        pair_weights: ``(n, n)``, symmetric: how likely each pair is to be drawn, up to a factor; None is as often as
            it met in P, where P knows, and else all alike, as "equal" is always.

    Returns:
        The common columns, ``comparisons``, ``repeat``, and ``never_asked``, the number of pairs not drawn.

    Raises:
        DisconnectedComparisons: a data set on which the Bradley-Terry rewards are infinite, without ``l2``.
    """
    _one_game(P)
    i, j = np.triu_indices(P.n, 1)
    weights = pair_weights_of(pair_weights, P)[i, j]
    if not weights.sum() > 0:
        raise InvalidParameter("pair_weights gives no pair a chance to be drawn.")
    tables = []
    for number, total in _progress(list(enumerate(comparisons)), "sampling"):
        rng = np.random.default_rng([seed, number])
        asked = rng.multinomial(_least(total), weights / weights.sum(), size=_least(repeats))
        won = rng.binomial(asked, P.p[i, j])
        wins = np.zeros((repeats, P.n, P.n))
        wins[:, i, j], wins[:, j, i] = won, asked - won
        estimate = PreferenceMatrix.from_counts(wins, "half", P.labels)
        for name, concept in concepts.items():
            columns = {"concept": name, "comparisons": total, "repeat": np.arange(repeats)}
            columns["never_asked"] = (asked == 0).sum(-1)
            tables.append(pd.DataFrame(columns | compare(concept, P, estimate)))
    return pd.concat(tables, ignore_index=True)


def pair_weighting(
    P: PreferenceMatrix,
    concepts: Mapping[str, Concept],
    concentrations: Sequence[float],
    repeats: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """The true P, with pairs asked otherwise: weights from a Dirichlet distribution around P's own (or equal ones).

    A large concentration leaves them there; where they are equal, 1 makes all weights equally likely.

    Returns:
        The common columns, ``concentration`` and ``repeat``.
    """
    _one_game(P)
    i, j = np.triu_indices(P.n, 1)
    own = pair_weights_of(None, P)[i, j]
    i, j, own = i[own > 0], j[own > 0], own[own > 0]
    tables = []
    for number, concentration in _progress(list(enumerate(concentrations)), "pair weights"):
        if not concentration > 0:
            raise InvalidParameter(f"concentration = {concentration}: must be positive.")
        rng = np.random.default_rng([seed, number])
        weights = np.zeros((_least(repeats), P.n, P.n))
        weights[:, i, j] = rng.dirichlet(concentration * own / own.mean(), size=repeats) * len(i)
        weights += np.swapaxes(weights, -1, -2)
        same = P.moved(np.broadcast_to(P.p, weights.shape))
        for name, concept in concepts.items():
            columns = {"concept": name, "concentration": concentration, "repeat": np.arange(repeats)}
            tables.append(pd.DataFrame(columns | compare(concept, P, same, weights)))
    return pd.concat(tables, ignore_index=True)


def dropped_pairs(P: PreferenceMatrix, concepts: Mapping[str, Concept]) -> pd.DataFrame:
    """Each pair in turn is hardly asked, or not known at all; the others weigh what they weigh in P.

    ``treatment`` says which. "weight 0": RLHF fits the other pairs, and the concepts that know no weights still
    see p(i > j), as they would from any number of comparisons of the pair. "set to 1/2": nothing is known about
    the pair, every concept is told that it ties.

    Returns:
        The common columns, ``first`` and ``second`` (labels of the pair) and ``treatment``.

    Raises:
        DisconnectedComparisons: without a pair, the Bradley-Terry rewards are infinite (see :func:`solve_rlhf`).
    """
    _one_game(P)
    i, j = np.triu_indices(P.n, 1)
    pair = np.zeros((len(i), P.n, P.n), dtype=bool)
    pair[np.arange(len(i)), i, j] = pair[np.arange(len(i)), j, i] = True
    every = np.broadcast_to(pair_weights_of(None, P), pair.shape)
    same = P.moved(np.broadcast_to(P.p, pair.shape))
    tied = P.moved(np.where(pair, 0.5, P.p))
    labels = np.array(P.labels, dtype=object)
    tables = []
    for treatment, game, weights in (("weight 0", same, np.where(pair, 0, every)), ("set to 1/2", tied, every)):
        for name, concept in concepts.items():
            columns = {"concept": name, "first": labels[i], "second": labels[j], "treatment": treatment}
            tables.append(pd.DataFrame(columns | compare(concept, P, game, weights)))
    return pd.concat(tables, ignore_index=True)


def clones(
    P: PreferenceMatrix,
    concepts: Mapping[str, Concept],
    copies: Sequence[int],
    mass: Literal["split", "whole"] = "split",
    cycle: float = 0.5,
) -> pd.DataFrame:
    """Each alternative in turn gets 1, 2, ... copies, which do against the others what it does.

    Policies are compared after adding up what copies and original got.

    Args:
        P: one game.
        concepts: by name; their references are copied too.
        copies: how many, for each size; 0 changes nothing.
        mass: whether the copies share the reference probability of the original, or each has it whole (before
            all are scaled to sum to 1).
        cycle: among m clones, the probability that one is preferred to the next (m - 1) // 2 around a circle,
            instead of a tie: in social choice, clones are whatever others do not tell apart.

    Returns:
        The common columns without ``loss``; ``cloned``, the label; ``copies``; ``share``, the probability of the
        clones together; ``share_before``.
    """
    _one_game(P)
    if mass not in ("split", "whole"):
        raise InvalidParameter(f'mass = {mass!r}: choose "split" or "whole".')
    rows = []
    for name, concept in _progress(list(concepts.items()), "clones"):
        before = concept.solve(P).policy
        for count in copies:
            for alternative, label in enumerate(P.labels):
                game, original = copy_alternative(P, label, count, cycle)
                share = np.where((original == alternative) & (mass == "split"), 1 / (count + 1), 1.0)
                policy = concept.copied(P.n, original, share).solve(game).policy
                merged = np.bincount(original, weights=policy, minlength=P.n).astype(np.float64)
                row = {"concept": name, "cloned": label, "copies": count}
                shares = {"share": merged[alternative], "share_before": before[alternative]}
                rows.append(row | _moved(P, before, merged) | shares)
    return pd.DataFrame(rows)


def copy_alternative(
    P: PreferenceMatrix, label: str, copies: int, cycle: float = 0.5
) -> tuple[PreferenceMatrix, NDArray[np.int_]]:
    """The game in which ``label`` has copies, named "label#1", ..., behind the n alternatives.

    Args:
        P: ``(..., n, n)``.
        label: what is copied.
        copies: how many, at least 0.
        cycle: see :func:`clones`.

    Returns:
        ``(..., n + copies, n + copies)`` preferences, and of which alternative each one is a copy. Where P knows how
        often pairs met, a copy meets the others as often as its original does, and a clone as often as it meets
        the average other.
    """
    if label not in P.labels:
        raise InvalidParameter(f"{label!r} is not among the alternatives {P.labels}.")
    if copies < 0 or not 0 <= cycle <= 1:
        raise InvalidParameter(f"copies = {copies} must be at least 0, and cycle = {cycle} a probability.")
    alternative, m = P.labels.index(label), copies + 1
    original = np.r_[np.arange(P.n), np.full(copies, alternative)]
    ahead = (np.arange(m) - np.arange(m)[:, None]) % m
    direction = np.where(ahead == 0, 0, np.sign(m - 2 * ahead))
    p = P.p[..., original[:, None], original]
    clones = np.flatnonzero(original == alternative)
    p[..., clones[:, None], clones] = 0.5 + direction * (cycle - 0.5)
    weights = P.pair_weights
    if weights is not None:
        average = weights[..., alternative, :].sum(-1)[..., None, None] / max(1, P.n - 1)
        weights = weights[..., original[:, None], original]
        weights[..., clones[:, None], clones] = average * (1 - np.eye(m))
    return PreferenceMatrix(p, [*P.labels, *(f"{label}#{k}" for k in range(1, m))], weights), original


def annotator_mix(
    profile: Profile,
    concepts: Mapping[str, Concept],
    end: ArrayLike,
    start: ArrayLike | None = None,
    points: int = 21,
) -> pd.DataFrame:
    """The path from one mix of annotators to another: shares (1 - t) start + t end, for t from 0 to 1.

    Args:
        profile: who prefers what.
        concepts: by name.
        end: ``(rankings,)`` weights, scaled to sum to 1.
        start: the same; None is the profile's own.
        points: how many t, at least 2.

    Returns:
        Columns ``concept``, ``t``, ``alternative``, ``probability``, and (repeated for each alternative)
        ``total_variation`` to the policy at t = 0.

    Raises:
        InvalidPreferences, MissingPair: weights with which the profile makes no preferences.
    """
    if points < 2:
        raise InvalidParameter(f"points = {points}: a path has at least its two ends.")
    ends = [check_weights(w, len(profile.rankings)) for w in (profile.weights if start is None else start, end)]
    for name, weights in zip(("start", "end"), ends, strict=True):
        if weights.ndim != 1 or not weights.sum() > 0:
            raise InvalidParameter(f"{name} = {weights}: give one weight per ranking, not all 0.")
    t = np.linspace(0, 1, points)
    first, last = (w / w.sum() for w in ends)
    P = profile.preferences((1 - t)[:, None] * first + t[:, None] * last)
    tables = []
    for name, concept in concepts.items():
        policy = concept.solve(P).policy
        columns = {
            "concept": name,
            "t": np.repeat(t, P.n),
            "alternative": np.tile(np.array(P.labels, dtype=object), points),
            "probability": policy.ravel(),
            "total_variation": np.repeat(total_variation(policy, policy[0]), P.n),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def compare(
    concept: Concept, P: PreferenceMatrix, perturbed: PreferenceMatrix, pair_weights: PairWeights = None
) -> dict[str, Any]:
    """The common columns for one concept: ``(...)`` arrays, given a batch of perturbed games and other pair weights."""
    solution = concept.solve(perturbed, pair_weights)
    loss = np.maximum(concept.loss(P, solution), 0)  # below 0 there is only rounding
    return _moved(P, concept.solve(P).policy, solution.policy) | {"loss": loss}


def _moved(P: PreferenceMatrix, before: Array, after: Array) -> dict[str, Any]:
    was, now = (policy >= policy.max(-1, keepdims=True) - TIES for policy in (before, after))
    return {
        "total_variation": total_variation(after, before),
        "top": np.array(P.labels, dtype=object)[now.argmax(-1)],
        "top_changed": ~np.any(was & now, axis=-1),
    }


def _progress(steps: list[Any], name: str) -> Any:
    return tqdm(steps, desc=name, leave=False, disable=None)


def _one_game(P: PreferenceMatrix) -> None:
    if P.batch_shape:
        raise InvalidParameter(f"P has shape {P.p.shape}; robustness is measured for one game, take one of them.")


def _least(count: int) -> int:
    if count < 1:
        raise InvalidParameter(f"{count} repeats or comparisons: there must be at least 1.")
    return count
