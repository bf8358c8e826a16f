"""The three solution concepts as values: one interface to solve, judge, differentiate and clone them.

What :mod:`tabular.robustness` and :mod:`tabular.adversary` compare. Pass them by name, such as
``{"RLHF": RLHF(0.1), "NLHF": NLHF(0), "SLHF": SLHF(0.1, 0.1)}``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tabular.nash import NashSolution, Selection, solve_nlhf
from tabular.policies import Array, best_response_value, kl, log_reference
from tabular.preferences import PreferenceMatrix
from tabular.rlhf import PairWeights, RLHFSolution, solve_rlhf
from tabular.sensitivity import Derivative, nlhf_sensitivity, rlhf_sensitivity, slhf_sensitivity
from tabular.stackelberg import StackelbergGame, StackelbergSolution, solve_slhf


class Concept(Protocol):
    """A way to make a policy of preferences; errors are those of its solver."""

    def solve(self, P: PreferenceMatrix, pair_weights: PairWeights = None) -> Any:
        """Its solution, with ``policy`` ``(..., n)``. ``pair_weights`` are how often pairs were asked, if it cares.

        None is what P knows, see :func:`tabular.solve_rlhf`.
        """

    def loss(self, P: PreferenceMatrix, solution: Any) -> Array:
        """``(...)``: what a solution (perhaps of another game) falls short by in this one, >= 0."""

    def derivative(self, P: PreferenceMatrix) -> Derivative:
        """How its policy moves with P, at positive temperatures."""

    def copied(self, n: int, original: NDArray[np.int_], share: Array) -> Concept:
        """The same concept for a game in which action k is a copy of ``original[k]``, one of n.

        The copy gets a reference probability proportional to ``share[k]`` times its original's.
        """


@dataclass(frozen=True, eq=False)
class RLHF:
    """:func:`solve_rlhf`, which documents the fields. Its loss is what is left to earn, KL price included, in nats."""

    tau: float = 0.1
    reference: ArrayLike | None = None
    l2: float = 0.0

    def solve(self, P: PreferenceMatrix, pair_weights: PairWeights = None) -> RLHFSolution:
        """See :class:`Concept`."""
        return solve_rlhf(P, self.tau, self.reference, pair_weights, self.l2)

    def loss(self, P: PreferenceMatrix, solution: RLHFSolution) -> Array:
        """See :class:`Concept`; the reward is the fit to P, its pairs weighted as P knows."""
        best = self.solve(P)
        log_ref = log_reference(self.reference, P.p.shape[:-1], "reference", full_support=self.tau > 0)
        earned = np.sum(solution.policy * best.reward, axis=-1) - self.tau * kl(solution.log_policy, log_ref)
        return best.value - earned

    def derivative(self, P: PreferenceMatrix) -> Derivative:
        """See :class:`Concept`."""
        return rlhf_sensitivity(P, self.tau, self.reference, l2=self.l2).policy

    def copied(self, n: int, original: NDArray[np.int_], share: Array) -> RLHF:
        """See :class:`Concept`."""
        return replace(self, reference=_copied(self.reference, n, original, share))


@dataclass(frozen=True, eq=False)
class NLHF:
    """:func:`solve_nlhf`, which documents the fields. Its loss is the exploitability, in units of preference."""

    tau: float = 0.0
    reference: ArrayLike | None = None
    selection: Selection = "any"

    def solve(self, P: PreferenceMatrix, pair_weights: PairWeights = None) -> NashSolution:
        """See :class:`Concept`; it knows no pair weights."""
        return solve_nlhf(P, self.tau, self.reference, self.selection)

    def loss(self, P: PreferenceMatrix, solution: NashSolution) -> Array:
        """See :class:`Concept`: tau logsumexp(log pi_ref + A pi / tau) + tau KL(pi || pi_ref)."""
        advantage = np.matmul(P.margins, solution.policy[..., None])[..., 0]
        log_ref = log_reference(self.reference, P.p.shape[:-1], "reference", full_support=True)
        return best_response_value(advantage, log_ref, self.tau) + self.tau * kl(solution.log_policy, log_ref)

    def derivative(self, P: PreferenceMatrix) -> Derivative:
        """See :class:`Concept`."""
        return nlhf_sensitivity(P, self.tau, self.reference).policy

    def copied(self, n: int, original: NDArray[np.int_], share: Array) -> NLHF:
        """See :class:`Concept`."""
        if self.tau == 0 and self.selection != "max_entropy":
            return self  # no reference plays a part
        return replace(self, reference=_copied(self.reference, n, original, share))


@dataclass(frozen=True, eq=False)
class SLHF:
    """:func:`solve_slhf`, which documents the fields. Its loss is the duality gap, in units of preference."""

    tau_leader: float = 0.1
    tau_follower: float = 0.1
    leader_reference: ArrayLike | None = None
    follower_reference: ArrayLike | None = None

    def solve(self, P: PreferenceMatrix, pair_weights: PairWeights = None) -> StackelbergSolution:
        """See :class:`Concept`; it knows no pair weights."""
        return solve_slhf(P, self.tau_leader, self.tau_follower, self.leader_reference, self.follower_reference)

    def loss(self, P: PreferenceMatrix, solution: StackelbergSolution) -> Array:
        """See :class:`Concept`; both the Leader's and the Follower's shortfall count."""
        game = StackelbergGame.create(
            P, self.tau_leader, self.tau_follower, self.leader_reference, self.follower_reference
        )
        return game.duality_gap(solution.log_policy, solution.log_follower)

    def derivative(self, P: PreferenceMatrix) -> Derivative:
        """See :class:`Concept`."""
        return slhf_sensitivity(
            P, self.tau_leader, self.tau_follower, self.leader_reference, self.follower_reference
        ).policy

    def copied(self, n: int, original: NDArray[np.int_], share: Array) -> SLHF:
        """See :class:`Concept`; the Follower replies to a copy as to its original, and its reference is copied too."""
        follower = _copied(self.follower_reference, n, original, share)
        if follower.ndim > 1:
            follower = np.broadcast_to(follower, (*follower.shape[:-2], n, len(original)))[..., original, :]
        return replace(
            self, leader_reference=_copied(self.leader_reference, n, original, share), follower_reference=follower
        )


def _copied(reference: ArrayLike | None, n: int, original: NDArray[np.int_], share: Array) -> Array:
    """``(..., len(original))``: the reference over the copies."""
    whole = np.full(n, 1 / n) if reference is None else np.asarray(reference, dtype=np.float64)
    mass = whole[..., original] * share
    return mass / mass.sum(-1, keepdims=True)
