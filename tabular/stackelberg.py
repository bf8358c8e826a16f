"""SLHF: the Leader commits to a policy, the Follower sees the realised action and replies.

max over pi, min over omega of::

    E_{y ~ pi}[ E_{y' ~ omega(.|y)} p(y > y') + tau_F KL(omega(.|y) || omega_ref(.|y)) ] - tau_L KL(pi || pi_ref)

(arXiv 2512.16626, Eq. 5). The Follower's problem separates over y, so the solution is a soft-min
followed by a soft-max, at every temperature down to 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_numpy_array
from numpy.typing import ArrayLike

from slhf.certificates import Certificate
from slhf.errors import InvalidReference
from tabular import compiled
from tabular.arrays import AnyArray, Array, array_namespace
from tabular.policies import best_response_value, check_temperature, kl, log_ratio, log_reference, respond, total
from tabular.preferences import PreferenceMatrix

BLOCK = 65_536
"""How many entries of P numpy works on at a time: that and a few temporaries of its size fit the cache."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Those that this process may use, where the system says."""
THREADS = min(8, CORES)
"""How many blocks are worked on at once; numpy lets threads run side by side inside its functions."""


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
        follower = array_namespace(log_follower).exp(log_follower)
        if self.tau_follower == 0:  # free, even where the reference is 0 and the divergence infinite
            return total(follower * self.p)
        price = self.tau_follower * log_ratio(log_follower, self.log_follower_reference)
        return total(follower * (self.p + price))

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
        """How good the Leader's policy and the Follower's side are, as a solution in closed form.

        The gap is :meth:`duality_gap`. The residual says how far the first-order conditions are from
        holding, in units of preference: each side's actions, KL price included, must be worth its
        best-response value where it plays them, and not more where it does not.
        """
        xp = array_namespace(log_policy)
        most = best_response_value(side.earnings, self.log_leader_reference, self.tau_leader)
        cost = _cost(-side.earnings, log_policy, self.log_leader_reference, self.tau_leader)
        residual = xp.maximum(_residual(cost, -most, log_policy, self.tau_leader, -1), side.residual)
        return Certificate(most - self._leader_payoff(log_policy, side.value), residual, 0, "closed form")

    def _leader_payoff(self, log_policy: AnyArray, earnings: AnyArray) -> AnyArray:
        """Expected earnings, less the Leader's KL price."""
        xp = array_namespace(log_policy)
        expected = xp.sum(xp.exp(log_policy) * earnings, axis=-1)
        if self.tau_leader == 0:
            return expected
        return expected - self.tau_leader * kl(log_policy, self.log_leader_reference)


def _cost(loss: AnyArray, log_policy: AnyArray, log_ref: AnyArray, tau: float) -> AnyArray:
    """``(..., n)``: loss + tau log(policy / ref), what each action costs who wants E[loss] + tau KL small."""
    if tau == 0:
        return loss
    cost = log_policy - log_ref
    cost *= tau
    cost += loss
    return cost


def _residual(
    cost: AnyArray, least: AnyArray, log_policy: AnyArray, tau: float, axis: int | tuple[int, int]
) -> AnyArray:
    """How far :func:`_cost` is from what makes a policy optimal, where ``least`` is the optimum of its aim.

    At a positive temperature every action must cost just that. At temperature 0 those that the policy
    plays must, and the others may cost more.
    """
    xp = array_namespace(cost)
    excess = cost - least[..., None]
    size = xp.abs(excess) if tau > 0 else xp.where(log_policy > -xp.inf, xp.abs(excess), -excess)
    return xp.max(size, axis=axis)


class FollowerSide(NamedTuple):
    """The Follower's half of a solution.

    Attributes:
        log_follower: ``(..., n, n)``, log omega(y'|y).
        follower: ``(..., n, n)``.
        value: ``(..., n)``, V(y), the least that a Follower can leave the Leader.
        earnings: ``(..., n)``, what the Leader earns by y against this one, as measured.
        preference: ``(..., n)``, E p(y > y').
        residual: ``(...)``, how far its first-order conditions are from holding, as measured.
    """

    log_follower: AnyArray
    follower: AnyArray
    value: AnyArray
    earnings: AnyArray
    preference: AnyArray
    residual: AnyArray


def _follower_side(p: AnyArray, log_ref: AnyArray, tau: float) -> FollowerSide:
    """The Follower's best replies, and what they are found to be worth."""
    xp = array_namespace(p)
    log_follower, follower, loss = respond(-p, log_ref, tau)
    cost = _cost(p, log_follower, log_ref, tau)
    earnings = xp.vecdot(follower, cost)
    preference = xp.vecdot(follower, p) if tau > 0 else earnings
    residual = _residual(cost, -loss, log_follower, tau, (-2, -1))
    return FollowerSide(log_follower, follower, -loss, earnings, preference, residual)


def _follower_side_in_blocks(p: AnyArray, log_ref: AnyArray, tau: float) -> FollowerSide:
    """:func:`_follower_side`, for numpy in blocks that stay in the cache: the problem separates over y and games."""
    if not is_numpy_array(p) or p.size <= BLOCK:
        return _follower_side(p, log_ref, tau)
    n = p.shape[-1]
    games, references = p.reshape(-1, n, n), log_ref.reshape(-1, n, n)
    log_follower, follower = np.empty(games.shape), np.empty(games.shape)
    value, earnings, preference = np.empty((3, *games.shape[:-1]))
    whole = FollowerSide(log_follower, follower, value, earnings, preference, np.zeros(len(games)))

    def solve(block: tuple[slice, slice]) -> AnyArray:
        part = _follower_side(games[block], references[block], tau)
        for target, values in zip(whole[:-1], part[:-1], strict=True):
            target[block] = values
        return part.residual

    blocks = list(_blocks(*games.shape[:-1]))
    try:
        for (chosen, _), residual in zip(blocks, _in_threads(solve, blocks), strict=True):
            np.maximum(whole.residual[chosen], residual, out=whole.residual[chosen])
    except InvalidReference:  # again, for a message that names its place in the whole batch
        return _follower_side(p, log_ref, tau)
    return FollowerSide(*(values.reshape(p.shape[: p.ndim - games.ndim + values.ndim]) for values in whole))


def _in_threads(work: Callable[[tuple[slice, slice]], Any], blocks: list[tuple[slice, slice]]) -> list[Any]:
    """The results of ``work`` on each of the blocks."""
    if len(blocks) == 1:
        return [work(blocks[0])]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, blocks))


def _blocks(games: int, n: int) -> Iterator[tuple[slice, slice]]:
    """Slices of games, or of rows of one game, that hold about ``BLOCK`` entries of P."""
    many, rows = max(1, BLOCK // n**2), min(n, max(1, BLOCK // n))
    for game in range(0, games, many):
        for row in range(0, n, rows):
            yield slice(game, game + many), slice(row, row + rows)


class StackelbergSolution(NamedTuple):
    """The equilibrium of a (batch of) SLHF game(s).

    Attributes:
        policy: ``(..., n)``, pi*(y).
        log_policy: its logs; -inf where it is 0.
        follower: ``(..., n, n)``, omega*(y'|y) at [y, y'].
        log_follower: its logs.
        follower_value: ``(..., n)``, V(y): what the Leader earns by committing to y.
        value: ``(...)``, the value of the game, KL prices included.
        follower_win_rate: ``(...)``, how often the Follower's reply is preferred, E p(y' > y).
        certificate: gap and residual as :meth:`StackelbergGame.certificate` says.
    """

    policy: AnyArray
    log_policy: AnyArray
    follower: AnyArray
    log_follower: AnyArray
    follower_value: AnyArray
    value: AnyArray
    follower_win_rate: AnyArray
    certificate: Certificate

    @property
    def support(self) -> AnyArray:
        """``(..., n)``, True where the policy may be positive: the optimal set at tau_L = 0."""
        return self.log_policy > -math.inf


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
    tau_leader = check_temperature(tau_leader, "tau_leader")
    tau_follower = check_temperature(tau_follower, "tau_follower")
    p = P.p
    loops = compiled.SLHF.for_games(p, 3e-4)
    if loops is not None and (p.ndim > 2 or p.size <= BLOCK):
        solve = _solve_one if p.ndim == 2 else _solve_many
        solution = solve(loops, p, tau_leader, tau_follower, leader_reference, follower_reference)
        if solution is not None:
            return solution
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
        certificate=game.certificate(log_policy, side),
    )


def _solve_one(
    loops: ModuleType,
    p: Array,
    tau_leader: float,
    tau_follower: float,
    leader_reference: ArrayLike | None,
    follower_reference: ArrayLike | None,
) -> StackelbergSolution | None:
    """:func:`solve_slhf` for one game, compiled; None where a reference lacks support that temperature 0 needs."""
    n = len(p)
    log_leader = log_follower = _uniform(n)
    if leader_reference is not None:
        logs = log_reference(leader_reference, (n,), "leader_reference", full_support=tau_leader > 0)
        log_leader = np.array(logs[None])
    if follower_reference is not None:
        logs = log_reference(follower_reference, (n, n), "follower_reference", full_support=tau_follower > 0)
        log_follower = np.array(logs)
    rows = np.empty((2 * n + 7, n))
    numbers = loops.solve(p, log_leader, log_follower, tau_leader, tau_follower, rows)
    value, win_rate, gap, residual = map(np.float64, numbers)
    if value != value:
        return None
    certificate = Certificate(gap, residual, 0, "closed form")
    return StackelbergSolution(
        rows[2 * n + 1], rows[2 * n], rows[n : 2 * n], rows[:n], rows[2 * n + 2], value, win_rate, certificate
    )


def _solve_many(
    loops: ModuleType,
    p: Array,
    tau_leader: float,
    tau_follower: float,
    leader_reference: ArrayLike | None,
    follower_reference: ArrayLike | None,
) -> StackelbergSolution | None:
    """:func:`_solve_one` for a batch, in threads."""
    *batch, n, _ = p.shape
    log_leader = log_follower = _uniform(n)[None]
    if leader_reference is not None:
        logs = log_reference(leader_reference, (*batch, n), "leader_reference", full_support=tau_leader > 0)
        log_leader = np.array(logs).reshape(-1, 1, n)
    if follower_reference is not None:
        logs = log_reference(follower_reference, p.shape, "follower_reference", full_support=tau_follower > 0)
        log_follower = np.array(logs).reshape(-1, n, n)
    replies, policies, numbers = np.empty((2, *p.shape)), np.empty((3, *batch, n)), np.empty((4, *batch))
    games, found = (
        p.reshape(-1, n, n),
        (replies.reshape(2, -1, n, n), policies.reshape(3, -1, n), numbers.reshape(4, -1)),
    )

    def solve(block: tuple[slice, slice]) -> None:
        chosen = block[0]
        references = [logs if len(logs) == 1 else logs[chosen] for logs in (log_leader, log_follower)]
        loops.solve_all(games[chosen], *references, tau_leader, tau_follower, *(part[:, chosen] for part in found))

    _in_threads(solve, [block for block in _blocks(*games.shape[:-1]) if block[1].start == 0])
    value, win_rate, gap, residual = numbers
    if np.isnan(value).any():
        return None
    return StackelbergSolution(
        policies[1],
        policies[0],
        replies[1],
        replies[0],
        policies[2],
        value,
        win_rate,
        Certificate(gap, residual, 0, "closed form"),
    )


@lru_cache
def _uniform(n: int) -> Array:
    """``(1, n)``: the log of the uniform policy."""
    return np.full((1, n), -math.log(n))


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
