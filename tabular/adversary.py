"""The worst that can be done to a solution by moving no preference by more than a budget.

At positive temperatures the largest change of the policy is searched for by projected gradient ascent, which
gives a lower bound of the worst case. At temperature 0 the smallest budget that changes the answer is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from slhf.errors import InvalidParameter
from tabular import social_choice
from tabular.concepts import Concept
from tabular.policies import Array, total_variation
from tabular.preferences import PreferenceMatrix
from tabular.rlhf import pair_weights_of
from tabular.robustness import compare
from tabular.sensitivity import LARGEST_CONDITION, condition

STEPS = (2.0, 0.5, 0.1, 0.02)
"""The step sizes that are tried each time, in budgets; the first one crosses the whole range."""
MAX_ITERATIONS = 100


@dataclass(frozen=True)
class Attack:
    """What an adversary found.

    Attributes:
        preferences: the perturbed game.
        total_variation: how far its policy is from the unperturbed one's: a lower bound of the worst case.
    """

    preferences: PreferenceMatrix
    total_variation: float


def worst_case(P: PreferenceMatrix, concept: Concept, budget: float, starts: int = 16, seed: int = 0) -> Attack:
    """Find preferences within ``budget`` of P (each entry) that move the policy far, in total variation.

    Steepest ascent in the sup norm, P + clip(D + step sign(gradient)), from the directions that raise or lower
    one action's probability most, the one that :func:`condition` gives (for small n), and random ones; all at once.

    Args:
        P: one game; the perturbed one is a preference matrix too.
        concept: at positive temperatures.
        budget: the largest |change| of a preference, in (0, 1].
        starts: how many random directions to start from.
        seed: of those.

    Raises:
        InvalidParameter: a batch, a bad budget, or temperature 0, where :func:`flip_budgets` answers.
        DisconnectedComparisons: RLHF without ``l2``, and a budget that lets somebody always win.
    """
    if P.batch_shape or not 0 < budget <= 1:
        raise InvalidParameter(f"One game, got shape {P.p.shape}, and a budget in (0, 1], got {budget}.")
    clean, low, high = concept.solve(P).policy, np.maximum(-budget, -P.p), np.minimum(budget, 1 - P.p)

    def moved(change: Array) -> PreferenceMatrix:
        return P.moved(np.clip(P.p + change, 0, 1))

    change = np.clip(budget * _directions(P, concept, starts, seed), low, high)
    distance = total_variation(concept.solve(moved(change)).policy, clean)
    for _ in range(MAX_ITERATIONS):
        game = moved(change)
        away = np.sign(concept.solve(game).policy - clean)
        slope = np.sign(concept.derivative(game).gradient(away))
        trials = np.stack([np.clip(change + step * budget * slope, low, high) for step in STEPS])
        distances = total_variation(concept.solve(moved(trials)).policy, clean)
        best = distances.argmax(0)
        new = np.take_along_axis(distances, best[None], axis=0)[0]
        better = new > distance + 1e-12
        if not better.any():
            break
        change[better] = trials[best, np.arange(len(best))][better]
        distance = np.maximum(distance, new)
    found = int(distance.argmax())
    return Attack(moved(change[found]), float(distance[found]))


def attacks(
    P: PreferenceMatrix, concepts: Mapping[str, Concept], budgets: Sequence[float], starts: int = 16, seed: int = 0
) -> pd.DataFrame:
    """:func:`worst_case` for several concepts and budgets, beside what the condition number predicts.

    Returns:
        The columns of :mod:`tabular.robustness`; ``budget``; and ``first_order``, budget times condition number,
        which is no bound, missing for more than ``LARGEST_CONDITION`` alternatives. ``total_variation`` is a
        lower bound of the worst case.
    """
    rows = []
    jobs = [(name, concept, budget) for name, concept in concepts.items() for budget in budgets]
    for name, concept, budget in tqdm(jobs, desc="attacks", leave=False, disable=None):
        found = worst_case(P, concept, budget, starts, seed)
        predicted = budget * condition(concept.derivative(P)).number if P.n <= LARGEST_CONDITION else np.nan
        row = {"concept": name, "budget": budget, "first_order": predicted}
        rows.append(row | compare(concept, P, found.preferences))
    return pd.DataFrame(rows)


def flip_budgets(P: PreferenceMatrix) -> pd.DataFrame:
    """The smallest budget that takes the lead from each concept's answer at temperature 0, exactly.

    At the budget another answer ties with it; any larger one replaces it.

    - "slhf": the Leader's Simpson scores, best and second best, can approach each other by twice the budget.
    - "rlhf": with all pairs asked equally often its order is Borda's: the answer loses, and a rival gains, up to
      the budget in every duel, as far as 0 and 1 allow. Where P knows that pairs met unequally often its order is no
      score's: answer and rival are "", the budget is missing.
    - "nlhf": a Condorcet winner is the whole lottery until somebody else ties with it. Where there is none the
      lottery mixes and moves with every change of P: the budget is 0, and answer and rival are "".

    Returns:
        Columns ``concept``, ``answer``, ``rival`` (labels) and ``budget``; one row each.

    Raises:
        InvalidParameter: P is a batch, or has a single alternative.
    """
    if P.batch_shape or P.n < 2:
        raise InvalidParameter(f"P has shape {P.p.shape}: take one game, of at least two alternatives.")
    off_diagonal = np.where(np.eye(P.n, dtype=bool), np.inf, P.p)

    def row(concept: str, score: Array, budgets: Array) -> dict[str, object]:
        answer = int(score.argmax())
        rival = int(np.where(np.arange(P.n) == answer, np.inf, budgets).argmin())
        return {"concept": concept, "answer": P.labels[answer], "rival": P.labels[rival], "budget": budgets[rival]}

    simpson, borda = social_choice.simpson_score(P), P.p.sum(-1)
    leader = int(borda.argmax())
    rlhf = np.array([_borda_budget(off_diagonal, leader, rival, borda[leader] - borda[rival]) for rival in range(P.n)])
    winner = social_choice.condorcet_winner(P)
    weights = pair_weights_of(None, P)[~np.eye(P.n, dtype=bool)]
    even = np.ptp(weights) <= 1e-9 * weights.max()
    unknown = {"concept": "rlhf", "answer": "", "rival": "", "budget": np.nan}
    rows = [row("rlhf", borda, rlhf) if even else unknown, row("slhf", simpson, (simpson.max() - simpson) / 2)]
    if winner.any():
        rows.append(row("nlhf", winner.astype(np.float64), P.margins[int(winner.argmax())]))
    else:
        rows.append({"concept": "nlhf", "answer": "", "rival": "", "budget": 0.0})
    return pd.DataFrame(rows)


def _borda_budget(off_diagonal: Array, leader: int, rival: int, lead: float) -> float:
    """The budget at which the rival's Borda score can meet the leader's; what it can close is concave, by pieces."""
    room = np.concatenate([np.delete(off_diagonal[leader], leader), 1 - np.delete(off_diagonal[rival], rival)])
    corners = np.sort(np.r_[0, room])
    closed = np.minimum(corners[:, None], room).sum(-1)
    return float(np.interp(lead, closed, corners))


def _directions(P: PreferenceMatrix, concept: Concept, starts: int, seed: int) -> Array:
    """``(k, n, n)``: antisymmetric signs to start from."""
    derivative = concept.derivative(P)
    one_action = np.sign(derivative.gradient(np.eye(P.n)))
    above = np.triu(np.random.default_rng(seed).choice([-1.0, 1.0], size=(starts, P.n, P.n)), 1)
    known = [one_action, -one_action, above - np.swapaxes(above, -1, -2)]
    if P.n <= LARGEST_CONDITION:
        worst = condition(derivative).direction
        known.append(np.stack([worst, -worst]))
    return np.concatenate(known)
