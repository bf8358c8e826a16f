"""SLHF: the Leader commits to a policy, the Follower sees the realised action and replies.

max over pi, min over omega of
    E_{y ~ pi}[ E_{y' ~ omega(.|y)} p(y > y') + tau_F KL(omega(.|y) || omega_ref(.|y)) ] - tau_L KL(pi || pi_ref)
(arXiv 2512.16626, Eq. 5). The Follower's problem separates over y, so the solution is a soft-min
followed by a soft-max, at every temperature down to 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import ArrayLike

from slhf.certificates import Certificate
from slhf.errors import InvalidReference
from tabular.arrays import AnyArray
from tabular.policies import best_response_value, check_temperature, kl, log_ratio, log_reference, respond
from tabular.preferences import PreferenceMatrix

BLOCK = 16_384
"""How many entries of P numpy works on at a time: that and a few temporaries of its size fit the cache of a core."""
NARROW = 48
"""Up to this n a block is laid out with the reply y' as its slowest axis, so that numpy's sums over it run along y."""


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

    p: AnyArray
    tau_leader: float
    tau_follower: float
    log_leader_reference: AnyArray
    log_follower_reference: AnyArray

    @classmethod
    def create(
        cls,
        P: PreferenceMatrix,
        tau_leader: float,
        tau_follower: float,
        leader_reference: ArrayLike | AnyArray | None = None,
        follower_reference: ArrayLike | AnyArray | None = None,
    ) -> StackelbergGame:
        """Validate and broadcast the arguments of :func:`solve_slhf`, which documents them."""
        tau_leader = check_temperature(tau_leader, "tau_leader")
        tau_follower = check_temperature(tau_follower, "tau_follower")
        full_leader, full_follower = tau_leader > 0, tau_follower > 0
        shape = tuple(P.p.shape)
        return cls(
            P.p,
            tau_leader,
            tau_follower,
            log_reference(leader_reference, shape[:-1], "leader_reference", full_support=full_leader, pattern=P.p),
            log_reference(follower_reference, shape, "follower_reference", full_support=full_follower, pattern=P.p),
        )

    def follower_value(self) -> AnyArray:
        """``(..., n)``: V(y), what the Leader earns by committing to y; min_y' p(y > y') at tau_F = 0."""
        return -best_response_value(-self.p, self.log_follower_reference, self.tau_follower)

    def leader_earnings(self, log_follower: AnyArray) -> AnyArray:
        """``(..., n)``: what the Leader earns by each y against this Follower; V(y) against the best one."""
        return _assess(self.p, self.log_follower_reference, self.tau_follower, log_follower).earnings

    def objective(self, log_policy: AnyArray, log_follower: AnyArray) -> AnyArray:
        """The value of Eq. 5 at these policies."""
        return self._leader_payoff(log_policy, self.leader_earnings(log_follower))

    def leader_best_response_value(self, log_follower: AnyArray) -> AnyArray:
        """The most a Leader can earn against this Follower."""
        return best_response_value(self.leader_earnings(log_follower), self.log_leader_reference, self.tau_leader)

    def follower_best_response_value(self, log_policy: AnyArray) -> AnyArray:
        """The least that a Follower can leave this Leader."""
        return self._leader_payoff(log_policy, self.follower_value())

    def duality_gap(self, log_policy: AnyArray, log_follower: AnyArray) -> AnyArray:
        """Leader's best-response value minus Follower's: >= 0, and 0 exactly at a solution."""
        return self.leader_best_response_value(log_follower) - self.follower_best_response_value(log_policy)

    def certificate(self, log_policy: AnyArray, side: FollowerSide) -> Certificate:
        """How good the Leader's policy and a Follower's policy are as a solution in closed form.

        The gap is :meth:`duality_gap`. The residual is how far the first-order conditions are from
        holding, in units of preference: on its support each side must be indifferent between its
        actions, KL price included, and no other action may be better.
        """
        xp = array_namespace(log_policy)
        most = best_response_value(side.earnings, self.log_leader_reference, self.tau_leader)
        scores = side.earnings - self.tau_leader * log_ratio(log_policy, self.log_leader_reference)
        residual = xp.maximum(_regret(scores, log_policy), xp.max(side.regret, axis=-1))
        return Certificate(most - self._leader_payoff(log_policy, side.value), residual, 0, "closed form")

    def _leader_payoff(self, log_policy: AnyArray, earnings: AnyArray) -> AnyArray:
        """Expected earnings, less the Leader's KL price."""
        xp = array_namespace(log_policy)
        expected = xp.sum(xp.exp(log_policy) * earnings, axis=-1)
        return expected - self.tau_leader * kl(log_policy, self.log_leader_reference)


class Assessment(NamedTuple):
    """A Follower's policy as measured, each ``(..., n)``, for every y.

    Attributes:
        earnings: what the Leader earns by y against it, KL price included.
        preference: E p(y > y').
        regret: how far its first-order conditions are from holding.
    """

    earnings: AnyArray
    preference: AnyArray
    regret: AnyArray


def _assess(
    p: AnyArray, log_ref: AnyArray, tau: float, log_follower: AnyArray, follower: AnyArray | None = None
) -> Assessment:
    """Measure a Follower's policy, whatever it is; ``follower`` is exp(log_follower) where that is at hand."""
    xp = array_namespace(p, log_follower)
    follower = xp.exp(log_follower) if follower is None else follower
    preference = xp.sum(follower * p, axis=-1)
    if tau == 0:
        return Assessment(preference, preference, _regret(-p, log_follower))
    cost = log_ratio(log_follower, log_ref)
    cost *= tau
    cost += p
    return Assessment(xp.sum(follower * cost, axis=-1), preference, _regret(-cost, log_follower))


def _regret(score: AnyArray, log_policy: AnyArray) -> AnyArray:
    """Best score minus the worst score on the policy's support, along the last axis."""
    xp = array_namespace(score)
    on_support = score if xp.min(log_policy) > -xp.inf else xp.where(log_policy > -xp.inf, score, xp.inf)
    return xp.max(score, axis=-1) - xp.min(on_support, axis=-1)


class FollowerSide(NamedTuple):
    """The Follower's half of the solution: ``(..., n, n)`` policies, and the rest ``(..., n)``."""

    log_follower: AnyArray
    follower: AnyArray
    value: AnyArray
    earnings: AnyArray
    preference: AnyArray
    regret: AnyArray


def _follower_side(p: AnyArray, log_ref: AnyArray, tau: float) -> FollowerSide:
    """The Follower's best replies, and what they are found to be worth."""
    log_follower, follower, value = respond(-p, log_ref, tau)
    return FollowerSide(log_follower, follower, -value, *_assess(p, log_ref, tau, log_follower, follower))


def _follower_side_in_blocks(p: AnyArray, log_ref: AnyArray, tau: float) -> FollowerSide:
    """:func:`_follower_side`, for numpy in blocks that stay in the cache: the problem separates over y and games."""
    if not is_numpy_array(p) or p.size <= BLOCK:
        return _follower_side(p, log_ref, tau)
    n = p.shape[-1]
    games, references = p.reshape(-1, n, n), log_ref.reshape(-1, n, n)
    matrices, vectors = np.empty((2, *games.shape)), np.empty((4, *games.shape[:-1]))
    whole = FollowerSide(*matrices, *vectors)
    for block in _blocks(*games.shape[:-1]):
        chosen = _last_axis_slowest(games[block]) if n <= NARROW else games[block]
        try:
            part = _follower_side(chosen, references[block], tau)
        except InvalidReference:  # again, for a message that names its place in the whole batch
            return _follower_side(p, log_ref, tau)
        for target, values in zip(whole, part, strict=True):
            target[block] = values
    return FollowerSide(*(values.reshape(p.shape[: values.ndim - games.ndim + p.ndim]) for values in whole))


def _blocks(games: int, n: int) -> Iterator[tuple[slice, slice]]:
    """Slices of games, or of rows of one game, that hold about ``BLOCK`` entries of P."""
    many, rows = max(1, BLOCK // n**2), min(n, max(1, BLOCK // n))
    for game in range(0, games, many):
        for row in range(0, n, rows):
            yield slice(game, game + many), slice(row, row + rows)


def _last_axis_slowest(array: AnyArray) -> AnyArray:
    """A copy of the same shape, in another order in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1)


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

    policy: AnyArray
    log_policy: AnyArray
    follower: AnyArray
    log_follower: AnyArray
    follower_value: AnyArray
    value: AnyArray
    follower_win_rate: AnyArray
    support: AnyArray
    certificate: Certificate


def solve_slhf(
    P: PreferenceMatrix,
    tau_leader: float = 0.1,
    tau_follower: float = 0.1,
    leader_reference: ArrayLike | AnyArray | None = None,
    follower_reference: ArrayLike | AnyArray | None = None,
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
    side = _follower_side_in_blocks(game.p, game.log_follower_reference, game.tau_follower)
    log_policy, policy, value = respond(side.value, game.log_leader_reference, game.tau_leader)
    return StackelbergSolution(
        policy=policy,
        log_policy=log_policy,
        follower=side.follower,
        log_follower=side.log_follower,
        follower_value=side.value,
        value=value,
        follower_win_rate=array_namespace(policy).sum(policy * (1 - side.preference), axis=-1),
        support=log_policy > -np.inf,
        certificate=game.certificate(log_policy, side),
    )


def duality_gap(
    P: PreferenceMatrix,
    policy: ArrayLike | AnyArray,
    follower: ArrayLike | AnyArray,
    tau_leader: float = 0.1,
    tau_follower: float = 0.1,
    leader_reference: ArrayLike | AnyArray | None = None,
    follower_reference: ArrayLike | AnyArray | None = None,
) -> AnyArray:
    """``(...)``: how far any pair of policies (as probabilities) is from equilibrium, in units of preference.

    The other arguments and errors are those of :func:`solve_slhf`.
    """
    game = StackelbergGame.create(P, tau_leader, tau_follower, leader_reference, follower_reference)
    shape = tuple(game.p.shape)
    log_policy = log_reference(policy, shape[:-1], "policy", full_support=False, pattern=game.p)
    log_follower = log_reference(follower, shape, "follower", full_support=False, pattern=game.p)
    return game.duality_gap(log_policy, log_follower)
