"""SLHF: the Leader commits to a policy, the Follower sees the realised action and replies.

max over pi, min over omega of
    E_{y ~ pi}[ E_{y' ~ omega(.|y)} p(y > y') + tau_F KL(omega(.|y) || omega_ref(.|y)) ] - tau_L KL(pi || pi_ref)
(arXiv 2512.16626, Eq. 5). The Follower's problem separates over y, so the solution is a soft-min
followed by a soft-max, at every temperature down to 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slhf.certificates import Certificate
from tabular.policies import (
    Array,
    best_response,
    best_response_value,
    check_temperature,
    kl,
    log_ratio,
    log_reference,
)
from tabular.preferences import PreferenceMatrix


@dataclass(frozen=True)
class StackelbergGame:
    """A (batch of) SLHF game(s), validated. Methods take log-probabilities and return ``(...)`` unless said.

    Attributes:
        p: ``(..., n, n)``, p[y, y'] = p(y > y').
        tau_leader: tau_L, in units of preference per nat.
        tau_follower: tau_F.
        log_leader_reference: ``(..., n)``, log pi_ref(y).
        log_follower_reference: ``(..., n, n)``, log omega_ref(y'|y).
    """

    p: Array
    tau_leader: float
    tau_follower: float
    log_leader_reference: Array
    log_follower_reference: Array

    @classmethod
    def create(
        cls,
        P: PreferenceMatrix,
        tau_leader: float,
        tau_follower: float,
        leader_reference: ArrayLike | None = None,
        follower_reference: ArrayLike | None = None,
    ) -> StackelbergGame:
        """Validate and broadcast the arguments of :func:`solve_slhf`, which documents them."""
        tau_leader = check_temperature(tau_leader, "tau_leader")
        tau_follower = check_temperature(tau_follower, "tau_follower")
        return cls(
            P.p,
            tau_leader,
            tau_follower,
            log_reference(leader_reference, P.p.shape[:-1], "leader_reference", full_support=tau_leader > 0),
            log_reference(follower_reference, P.p.shape, "follower_reference", full_support=tau_follower > 0),
        )

    def follower_response(self) -> Array:
        """``(..., n, n)``: log omega*(y'|y), proportional to omega_ref(y'|y) exp(-p(y > y') / tau_F)."""
        return best_response(-self.p, self.log_follower_reference, self.tau_follower)

    def follower_value(self) -> Array:
        """``(..., n)``: V(y), what the Leader earns by committing to y; min_y' p(y > y') at tau_F = 0."""
        return -best_response_value(-self.p, self.log_follower_reference, self.tau_follower)

    def leader_earnings(self, log_follower: Array) -> Array:
        """``(..., n)``: what the Leader earns by each y against this Follower; V(y) against the best one."""
        preference = np.sum(np.exp(log_follower) * self.p, axis=-1)
        return preference + self.tau_follower * kl(log_follower, self.log_follower_reference)

    def objective(self, log_policy: Array, log_follower: Array) -> Array:
        """The value of Eq. 5 at these policies."""
        earnings = np.sum(np.exp(log_policy) * self.leader_earnings(log_follower), axis=-1)
        return earnings - self.tau_leader * kl(log_policy, self.log_leader_reference)

    def leader_best_response_value(self, log_follower: Array) -> Array:
        """The most a Leader can earn against this Follower."""
        return best_response_value(self.leader_earnings(log_follower), self.log_leader_reference, self.tau_leader)

    def follower_best_response_value(self, log_policy: Array) -> Array:
        """The least that a Follower can leave this Leader."""
        earnings = np.sum(np.exp(log_policy) * self.follower_value(), axis=-1)
        return earnings - self.tau_leader * kl(log_policy, self.log_leader_reference)

    def duality_gap(self, log_policy: Array, log_follower: Array) -> Array:
        """Leader's best-response value minus Follower's: >= 0, and 0 exactly at a solution."""
        return self.leader_best_response_value(log_follower) - self.follower_best_response_value(log_policy)

    def residual(self, log_policy: Array, log_follower: Array) -> Array:
        """How far the first-order conditions are from holding, in units of preference.

        On its support each side must be indifferent between its actions, KL price included, and no
        other action may be better.
        """
        leader = self.leader_earnings(log_follower) - self.tau_leader * log_ratio(log_policy, self.log_leader_reference)
        follower = -self.p - self.tau_follower * log_ratio(log_follower, self.log_follower_reference)
        return np.maximum(_regret(leader, log_policy), _regret(follower, log_follower).max(-1))

    def certificate(self, log_policy: Array, log_follower: Array, iterations: int, method: str) -> Certificate:
        """What these policies are worth as a solution."""
        gap = self.duality_gap(log_policy, log_follower)
        return Certificate(gap, self.residual(log_policy, log_follower), iterations, method)


def _regret(score: Array, log_policy: Array) -> Array:
    """Best score minus the worst score on the policy's support, along the last axis."""
    return score.max(-1) - np.where(log_policy > -np.inf, score, np.inf).min(-1)


@dataclass(frozen=True)
class StackelbergSolution:
    """The equilibrium of a (batch of) SLHF game(s).

    Attributes:
        policy: ``(..., n)``, pi*(y).
        log_policy: its logs; -inf where it is 0.
        follower: ``(..., n, n)``, omega*(y'|y) at [y, y'].
        log_follower: its logs.
        follower_value: ``(..., n)``, V(y): what the Leader earns by committing to y.
        value: ``(...)``, the value of the game, KL prices included.
        follower_win_rate: ``(...)``, how often the Follower's reply is preferred, E p(y' > y).
        support: ``(..., n)``, True where the policy may be positive: the optimal set at tau_L = 0.
        certificate: gap = duality gap; residual = :meth:`StackelbergGame.residual`.
    """

    policy: Array
    log_policy: Array
    follower: Array
    log_follower: Array
    follower_value: Array
    value: Array
    follower_win_rate: Array
    support: NDArray[np.bool_]
    certificate: Certificate


def solve_slhf(
    P: PreferenceMatrix,
    tau_leader: float = 0.1,
    tau_follower: float = 0.1,
    leader_reference: ArrayLike | None = None,
    follower_reference: ArrayLike | None = None,
) -> StackelbergSolution:
    """The Stackelberg equilibrium, in closed form (arXiv 2512.16626, Eq. 5).

    omega*(y'|y) ~ omega_ref(y'|y) exp(-p(y > y') / tau_F),
    V(y) = -tau_F log sum_y' omega_ref(y'|y) exp(-p(y > y') / tau_F),
    pi*(y) ~ pi_ref(y) exp(V(y) / tau_L).

    At temperature 0 a side's optimum may be a set: its policy is its reference restricted to the set.

    Args:
        P: preferences of shape ``(..., n, n)``.
        tau_leader: tau_L >= 0, in units of preference per nat.
        tau_follower: tau_F >= 0.
        leader_reference: pi_ref, broadcastable to ``(..., n)``; None is uniform.
        follower_reference: omega_ref(y'|y) at [y, y'], broadcastable to ``(..., n, n)``, so that shape
            ``(n,)`` is one policy for every y; None is uniform.

    Raises:
        InvalidParameter: a temperature is negative or not finite.
        InvalidReference: a reference has the wrong shape, is not a distribution, or lacks support.
    """
    game = StackelbergGame.create(P, tau_leader, tau_follower, leader_reference, follower_reference)
    log_follower, follower_value = game.follower_response(), game.follower_value()
    log_policy = best_response(follower_value, game.log_leader_reference, game.tau_leader)
    policy, follower = np.exp(log_policy), np.exp(log_follower)
    return StackelbergSolution(
        policy=policy,
        log_policy=log_policy,
        follower=follower,
        log_follower=log_follower,
        follower_value=follower_value,
        value=best_response_value(follower_value, game.log_leader_reference, game.tau_leader),
        follower_win_rate=np.sum(policy[..., None] * follower * (1 - game.p), axis=(-2, -1)),
        support=log_policy > -np.inf,
        certificate=game.certificate(log_policy, log_follower, 0, "closed form"),
    )


def duality_gap(
    P: PreferenceMatrix,
    policy: ArrayLike,
    follower: ArrayLike,
    tau_leader: float = 0.1,
    tau_follower: float = 0.1,
    leader_reference: ArrayLike | None = None,
    follower_reference: ArrayLike | None = None,
) -> Array:
    """``(...)``: how far any pair of policies (as probabilities) is from equilibrium, in units of preference.

    The other arguments and errors are those of :func:`solve_slhf`.
    """
    game = StackelbergGame.create(P, tau_leader, tau_follower, leader_reference, follower_reference)
    log_policy = log_reference(policy, game.log_leader_reference.shape, "policy", full_support=False)
    log_follower = log_reference(follower, game.p.shape, "follower", full_support=False)
    return game.duality_gap(log_policy, log_follower)
