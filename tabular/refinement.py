"""Refinement as a Markov chain: y_1 ~ pi, then y_N ~ omega(.|y_{N-1}) (arXiv 2512.16626, Section 4), exactly.

An answer is a state, the Follower is the kernel. Everything is computed in log space and without a
subtraction, by removing one state at a time (Grassmann, Taksar and Heyman 1985), so that every digit is right
even where a Follower at a small temperature leaves an answer once in 10^200 rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import breadth_first_order, connected_components

from slhf.errors import InvalidParameter, InvalidReference
from slhf.refinement import refine
from tabular.arrays import of_numpy
from tabular.policies import Array, log_reference
from tabular.preferences import PreferenceMatrix
from tabular.social_choice import reaches
from tabular.stackelberg import StackelbergSolution


@dataclass(frozen=True)
class CommunicatingClass:
    """Answers that lead to each other, in one chain.

    Attributes:
        states: their indices.
        closed: whether no answer outside can follow.
        period: refinement returns to an answer only in multiples of this many rounds; 0 if it never returns.
        stationary: ``(n,)``, the distribution that one round leaves as it is, if the class is closed, else None.
    """

    states: tuple[int, ...]
    closed: bool
    period: int
    stationary: Array | None


@dataclass(frozen=True, eq=False)
class Refinement:
    """A (batch of) chain(s); rounds are counted from 1, the first answer being the Leader's.

    Attributes:
        log_start: ``(..., n)``, log pi(y).
        log_kernel: ``(..., n, n)``, log omega(y'|y) at [y, y']; -inf where y' never follows y.
    """

    log_start: Array
    log_kernel: Array

    @classmethod
    def create(cls, start: ArrayLike, kernel: ArrayLike) -> Refinement:
        """The chain of any Leader and any Follower, given as probabilities ``(..., n)`` and ``(..., n, n)``.

        Leading axes broadcast; a kernel of shape ``(n,)`` is one policy whatever the last answer was.

        Raises:
            InvalidReference: names what is not a distribution, or has the wrong shape.
        """
        try:
            pi, omega = np.atleast_1d(of_numpy(start)), np.atleast_2d(of_numpy(kernel))
        except (TypeError, ValueError) as error:
            raise InvalidReference(f"start or kernel cannot be read as probabilities: {error}.") from error
        n = pi.shape[-1]
        shape = np.broadcast_shapes(pi.shape[:-1], omega.shape[:-2])
        return cls(
            log_reference(pi, (*shape, n), "start", full_support=False),
            log_reference(omega, (*shape, n, n), "kernel", full_support=False),
        )

    @classmethod
    def from_solution(cls, solution: StackelbergSolution) -> Refinement:
        """The equilibrium's Leader and Follower."""
        return cls(solution.log_policy, solution.log_follower)

    @classmethod
    def resampling(cls, policy: ArrayLike) -> Refinement:
        """Independent answers from a policy ``(..., n)``: what refinement has to beat."""
        probabilities = log_reference(policy, np.shape(policy), "policy", full_support=False)
        return cls(
            probabilities, np.broadcast_to(probabilities[..., None, :], (*probabilities.shape, probabilities.shape[-1]))
        )

    @property
    def n(self) -> int:
        """The number of answers there are."""
        return self.log_start.shape[-1]

    @property
    def start(self) -> Array:
        """``(..., n)``: pi(y)."""
        return np.exp(self.log_start)

    @property
    def kernel(self) -> Array:
        """``(..., n, n)``: omega(y'|y) at [y, y']."""
        return np.exp(self.log_kernel)

    def distributions(self, rounds: int) -> Array:
        """``(rounds, ..., n)``: how likely each answer is as the 1st, 2nd, ..., last.

        Raises:
            InvalidParameter: ``rounds`` is less than 1.
        """
        kernel = self.kernel
        chain = refine(lambda: self.start, lambda d: np.matmul(d[..., None, :], kernel)[..., 0, :], _rounds(rounds))
        return np.stack(list(chain))

    def transitions(self, rounds: int) -> Array:
        """``(rounds, ..., n, n)``: how likely answer number N is y' (last axis) when the first was y."""
        kernel = self.kernel
        identity = np.broadcast_to(np.eye(self.n), kernel.shape)
        return np.stack(list(refine(lambda: identity, lambda m: m @ kernel, _rounds(rounds))))

    def met(self, targets: ArrayLike, rounds: int) -> Array:
        """``(rounds, ...)``: how likely a target is among the first 1, 2, ... answers.

        Args:
            targets: an index, several, or a boolean mask ``(..., n)`` whose leading axes broadcast with the
                chain's, so that ``np.eye(n, dtype=bool)`` asks about every answer in turn.
            rounds: how many answers, at least 1.
        """
        mask, kernel = self.mask(targets), self.kernel

        def step(distribution: Array) -> Array:
            return np.matmul(np.where(mask, 0, distribution)[..., None, :], kernel)[..., 0, :]

        arriving = list(refine(lambda: self.start, step, _rounds(rounds)))
        return np.cumsum([np.where(mask, d, 0).sum(-1) for d in arriving], axis=0)

    def expected_answers(self, targets: ArrayLike) -> Array:
        """``(...)``: how many answers it takes to meet a target, in expectation; 1 if the first always is one.

        Infinite where with some probability no target ever comes, or where float64 has no number so large.
        ``targets`` as in :meth:`met`. A start of ``np.eye(n)`` gives the expectation from every first answer.
        """
        mask = self.mask(targets)
        shape = np.broadcast_shapes(mask.shape, self.log_start.shape)
        mask = np.broadcast_to(mask, shape)
        kernel = np.broadcast_to(self.log_kernel, (*shape, self.n))
        path = reaches((kernel > -np.inf) & ~mask[..., :, None])
        can = np.any(path & mask[..., None, :], axis=-1)
        certain = ~np.any(path & ~can[..., None, :], axis=-1)
        exits = np.logaddexp.reduce(np.where(mask[..., None, :], kernel, -np.inf), axis=-1)
        exits = np.where(can & ~mask, exits, 0)  # elsewhere anything positive: those rows play no part
        inside = np.where(mask[..., :, None] | mask[..., None, :], -np.inf, kernel)
        chain = _with_start(np.where(mask, -np.inf, np.broadcast_to(self.log_start, shape)), inside)
        exits = np.concatenate([np.full((*shape[:-1], 1), -np.inf), exits], axis=-1)
        time = np.zeros_like(exits)
        for s in range(self.n, 0, -1):
            visits = _remove(chain, s, exits[..., s])
            exits[..., :s] = np.logaddexp(exits[..., :s], visits + exits[..., s, None])
            time[..., :s] = np.logaddexp(time[..., :s], visits + time[..., s, None])
        with np.errstate(over="ignore"):
            expected = np.exp(time[..., 0])
        return np.where(np.all(certain | (self.log_start == -np.inf), axis=-1), expected, np.inf)[()]

    def classes(self) -> list[CommunicatingClass]:
        """The communicating classes of one chain, each with its period and, if closed, stationary distribution.

        Raises:
            InvalidParameter: this is a batch.
        """
        if self.log_kernel.ndim > 2:
            raise InvalidParameter(
                f"The kernel has shape {self.log_kernel.shape}: classes are those of one chain; ask one at a time."
            )
        return _classes(self.log_kernel)

    def long_run(self) -> Array:
        """``(..., n)``: the share of each answer among all answers, in the long run and from this start.

        The Cesaro limit of :meth:`distributions`, and their limit itself where all closed classes have period 1.
        """
        shape = np.broadcast_shapes(self.log_start.shape, self.log_kernel.shape[:-1])
        starts = np.broadcast_to(self.log_start, shape)
        result = np.empty(shape)
        for index in np.ndindex(shape[:-1]):
            result[index] = _long_run(starts[index], np.broadcast_to(self.log_kernel, (*shape, self.n))[index])
        return result

    def mask(self, targets: ArrayLike) -> NDArray[np.bool_]:
        """``(..., n)``: True for the ``targets``, see :meth:`met`."""
        asked = np.asarray(targets)
        if asked.dtype == bool and asked.shape[-1:] == (self.n,):
            return asked
        if asked.dtype.kind != "i" or asked.size == 0 or asked.min() < 0 or asked.max() >= self.n:
            raise InvalidParameter(
                f"targets = {targets!r}: give indices between 0 and {self.n - 1}, or a boolean mask (..., {self.n})."
            )
        return np.isin(np.arange(self.n), asked)


def refinement_curve(
    P: PreferenceMatrix, chain: Refinement, targets: ArrayLike, rounds: int, policy: ArrayLike | None = None
) -> pd.DataFrame:
    """What a user's preference P says of the N-th answer: one row per N = 1, ..., ``rounds``.

    Args:
        P: one game.
        chain: one chain on its alternatives.
        targets: the answers that satisfy the user, as in :meth:`Refinement.met`.
        rounds: how many answers.
        policy: ``(n,)``, whose answers the N-th is compared with; None is the chain's start.

    Returns:
        Columns: ``answers`` (N); ``met``, P(a target is among y_1, ..., y_N); ``returned``, P(y_N is a target);
        ``beats_first``, P(y_N > y_1); ``beats_previous``, P(y_N > y_{N-1}), missing for N = 1; ``beats_policy``,
        P(y_N > y) for an independent y ~ policy; ``exploitability``, max_y P(y > y_N) - 1/2.

    Raises:
        InvalidParameter: P or the chain is a batch, or they differ in size.
    """
    if P.p.ndim > 2 or chain.log_start.ndim > 1 or chain.log_kernel.shape != P.p.shape:
        raise InvalidParameter(
            f"A curve is about one game and one chain, got P of shape {P.p.shape} and a kernel of shape "
            f"{chain.log_kernel.shape}; take one of each."
        )
    opponent = chain.start if policy is None else np.exp(log_reference(policy, (P.n,), "policy", full_support=False))
    d = chain.distributions(rounds)
    better = P.p.T  # [y, y'] = p(y' > y)
    return pd.DataFrame(
        {
            "answers": np.arange(1, rounds + 1),
            "met": chain.met(targets, rounds),
            "returned": np.where(chain.mask(targets), d, 0).sum(-1),
            "beats_first": np.einsum("i,kij,ij->k", chain.start, chain.transitions(rounds), better),
            "beats_previous": np.r_[np.nan, np.einsum("ki,ij,ij->k", d[:-1], chain.kernel, better)],
            "beats_policy": d @ P.prefer(opponent),
            "exploitability": exploitability(P, d),
        }
    )


def exploitability(P: PreferenceMatrix, policy: ArrayLike) -> Array:
    """``(...)``: max_y P(y > policy) - 1/2, how much the best reply to a policy ``(..., n)`` wins by."""
    return np.maximum(P.prefer(policy).max(-1) - 0.5, 0)  # the policy itself wins by 0; below that is rounding


def _rounds(rounds: int) -> int:
    if rounds < 1:
        raise InvalidParameter(f"rounds = {rounds}: at least the Leader's answer must be given.")
    return rounds


def _with_start(log_start: Array, log_kernel: Array) -> Array:
    """``(..., n + 1, n + 1)``: the chain with a state 0 that moves as the start does and is never entered."""
    n = log_start.shape[-1]
    chain = np.full((*log_start.shape[:-1], n + 1, n + 1), -np.inf)
    chain[..., 0, 1:] = log_start
    chain[..., 1:, 1:] = log_kernel
    return chain


def _remove(chain: Array, s: int, log_exit: ArrayLike = -np.inf) -> Array:
    """Watch the chain only while it is in the states before ``s``, whose rows and columns are changed in place.

    ``log_exit`` is the (log) probability to leave the chain from s. Returns ``(..., s)``, the log of the
    expected visits to s between two states before it.
    """
    leaves = np.logaddexp(np.logaddexp.reduce(chain[..., s, :s], axis=-1), log_exit)
    visits = chain[..., :s, s] - leaves[..., None]
    chain[..., :s, :s] = np.logaddexp(chain[..., :s, :s], visits[..., :, None] + chain[..., s, None, :s])
    return visits


def _classes(log_kernel: Array) -> list[CommunicatingClass]:
    edges = log_kernel > -np.inf
    count, component = connected_components(edges, connection="strong")
    found = []
    for k in sorted(range(count), key=lambda k: int(np.argmax(component == k))):
        inside = component == k
        closed = not edges[np.ix_(inside, ~inside)].any()
        stationary = np.zeros(len(edges))
        if closed:
            stationary[inside] = _stationary(log_kernel[np.ix_(inside, inside)])
        states = tuple(int(i) for i in np.flatnonzero(inside))
        period = _period(edges[np.ix_(inside, inside)])
        found.append(CommunicatingClass(states, closed, period, stationary if closed else None))
    return found


def _period(edges: NDArray[np.bool_]) -> int:
    """The greatest common divisor of the cycles' lengths, from the depths of a search tree (Denardo 1977)."""
    order, parent = breadth_first_order(edges, 0)
    depth = np.zeros(len(edges), dtype=int)
    for state in order[1:]:
        depth[state] = depth[parent[state]] + 1
    here, there = np.nonzero(edges)
    return math.gcd(*(depth[here] + 1 - depth[there]).tolist())


def _stationary(log_kernel: Array) -> Array:
    """``(m,)``: the stationary distribution of an irreducible chain."""
    chain, m = log_kernel.copy(), len(log_kernel)
    visits = [_remove(chain, s) for s in range(m - 1, 0, -1)][::-1]
    log_mass = np.zeros(m)
    for s in range(1, m):
        log_mass[s] = np.logaddexp.reduce(log_mass[:s] + visits[s - 1])
    return np.exp(log_mass - np.logaddexp.reduce(log_mass))


def _long_run(log_start: Array, log_kernel: Array) -> Array:
    classes = [c for c in _classes(log_kernel) if c.closed]
    closed = [s for c in classes for s in c.states]
    transient = [s for s in range(len(log_start)) if s not in closed]
    order = [0, *(s + 1 for s in closed + transient)]
    chain = _with_start(log_start, log_kernel)[np.ix_(order, order)]
    for s in range(len(log_start), len(closed), -1):
        _remove(chain, s)
    arrives = dict(zip(closed, np.exp(chain[0, 1 : len(closed) + 1]), strict=True))
    result = np.zeros(len(log_start))
    for c in classes:
        assert c.stationary is not None
        result += sum(arrives[s] for s in c.states) * c.stationary
    return result
