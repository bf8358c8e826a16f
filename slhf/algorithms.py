"""What an algorithm is, as a frozen spec. The same object runs in either world.

``tabular.dynamics.run(spec, P, ...)`` follows the exact (expected) dynamics on a preference matrix;
``llm.train(spec, ...)`` follows their sampled gradients on a language model. A spec holds only what
both worlds understand; how a world realises it (parameterisation, optimiser, batch size) is chosen
where it is run.

Every field is documented with its symbol and unit; temperatures are in units of preference per nat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from slhf.errors import InvalidParameter


@dataclass(frozen=True)
class Algorithm:
    """Base of the specs: checks the ranges that the fields declare in ``POSITIVE`` and so on."""

    name: ClassVar[str]
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate",)
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ()
    UNIT_INTERVAL: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[dict[str, int]] = {}

    learning_rate: float = 0.05
    """eta, the (Leader's) step size."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            problem = self._problem(field.name, value)
            if problem:
                raise InvalidParameter(f"{type(self).__name__}.{field.name} = {value!r}: {problem}.")

    def _problem(self, name: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return "must be a finite number"
        if name in self.POSITIVE and value <= 0:
            return "must be positive"
        if name in self.NON_NEGATIVE and value < 0:
            return "must not be negative"
        if name in self.UNIT_INTERVAL and not 0 <= value <= 1:
            return "must lie in [0, 1]"
        if name in self.COUNTS and (not isinstance(value, int) or value < self.COUNTS[name]):
            return f"must be a whole number of at least {self.COUNTS[name]}"
        return ""


@dataclass(frozen=True)
class StackelbergGDA(Algorithm):
    """Two-timescale gradient descent-ascent on the SLHF objective (arXiv 2512.16626, Alg. 1).

    The Leader ascends and the Follower descends
    E[p(y > y')] + tau_F KL(omega || omega_ref) - tau_L KL(pi || pi_ref).
    """

    name: ClassVar[str] = "stackelberg_gda"
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate", "timescale")
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau_leader", "tau_follower")
    COUNTS: ClassVar[dict[str, int]] = {"leader_samples": 1, "follower_samples": 1, "leader_interval": 1}

    timescale: float = 5.0
    """kappa = eta_F / eta_L: how much faster the Follower moves. With shared parameters it weighs
    the Follower's loss instead."""
    tau_leader: float = 0.1
    """tau_L, the price of the Leader's KL to its reference."""
    tau_follower: float = 0.1
    """tau_F, the price of the Follower's KL to its reference."""
    leader_samples: int = 1
    """Leader answers per prompt when sampling; 2 or more use leave-one-out baselines, 1 uses 1/2."""
    follower_samples: int = 1
    """Follower answers per Leader answer when sampling; baselines as for the Leader."""
    leader_interval: int = 1
    """The Leader moves only at every so many-th step, the Follower at each: another way to be faster than it."""


@dataclass(frozen=True)
class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline on a scalar reward (arXiv 2402.14740).

    The reward is the Bradley-Terry fit of the preferences, which is the compression RLHF makes;
    stationary at pi proportional to pi_ref exp(r / tau).
    """

    name: ClassVar[str] = "rloo"
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau",)
    COUNTS: ClassVar[dict[str, int]] = {"samples": 2}

    tau: float = 0.1
    """tau, the price of the KL to the reference, in units of reward per nat."""
    samples: int = 2
    """k, answers per prompt; each one's baseline is the mean reward of the others."""


@dataclass(frozen=True)
class NashMD(Algorithm):
    """Nash-MD (arXiv 2312.00886).

    As a policy gradient (Section 7), the opponent plays the geometric mixture pi^(1 - mixture)
    pi_ref^mixture, token by token. For answers of one token the mixture is, at the stationary point, the
    KL-Nash equilibrium at temperature
    tau / (1 - mixture), and pi is proportional to pi_ref exp(P(. > pi_mix) / tau).

    As mirror descent (Section 4; only in ``tabular``) the mixture's weight is eta tau, and ``mixture``
    plays no part.
    """

    name: ClassVar[str] = "nash_md"
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau",)
    UNIT_INTERVAL: ClassVar[tuple[str, ...]] = ("mixture",)
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    tau: float = 0.1
    """tau, the price of the KL to the reference."""
    mixture: float = 0.125
    """Weight of the *reference* in the geometric mixture the opponent samples from; 0 is self-play."""
    samples: int = 1
    """k, answers per prompt; 2 or more use leave-one-out baselines, 1 uses 1/2. As mirror descent: answers of the
    mixture to play against."""


@dataclass(frozen=True)
class SPO(Algorithm):
    """Self-Play Preference Optimization (arXiv 2401.04056): each answer's reward is how often it beats pi's own.

    The paper has no KL price; with one, the stationary point is the KL-Nash equilibrium.
    """

    name: ClassVar[str] = "spo"
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau",)
    COUNTS: ClassVar[dict[str, int]] = {"samples": 2}

    tau: float = 0.0
    """tau, the price of the KL to the reference."""
    samples: int = 2
    """k, answers per prompt when sampling; each one's reward is its mean preference over the others."""


@dataclass(frozen=True)
class SPPO(Algorithm):
    """Self-Play Preference Optimization by regression (arXiv 2405.00675): log pi/pi_t against eta (P(. > pi_t) - 1/2).

    With exact expectations these are the multiplicative weights of Freund and Schapire (1999): the
    average policy approaches the Nash equilibrium of the game without KL price, the last one need not.
    """

    name: ClassVar[str] = "sppo"
    COUNTS: ClassVar[dict[str, int]] = {"samples": 2}

    samples: int = 2
    """k, answers per prompt when sampling; each one's win rate is its mean preference over the others."""


@dataclass(frozen=True)
class OMWU(Algorithm):
    """Optimistic multiplicative weights (arXiv 1807.04252; on language models ONPO, arXiv 2502.16852).

    Multiplicative weights that expect the next opponent to be the last one; no KL price. ONPO is the same two
    steps, fitted by regression; the projected form is OGDA.
    """

    name: ClassVar[str] = "omwu"
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    samples: int = 1
    """k, answers to play against per step when sampling; win rates are their means."""


@dataclass(frozen=True)
class INPO(Algorithm):
    """Iterative Nash Policy Optimization (arXiv 2407.00617): mirror descent in the KL-regularised game.

    ``learning_rate`` is 1 / eta of the paper, so that more is faster here too.
    """

    name: ClassVar[str] = "inpo"
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau",)
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    tau: float = 0.1
    """tau, the price of the KL to the reference."""
    samples: int = 1
    """k, answers to play against per step when sampling; win rates are their means."""


@dataclass(frozen=True)
class EGPO(Algorithm):
    """Extragradient Preference Optimization (arXiv 2503.08942), in the KL-regularised game."""

    name: ClassVar[str] = "egpo"
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau",)
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    tau: float = 0.1
    """tau (the paper's beta), the price of the KL to the reference."""
    samples: int = 1
    """k, answers to play against per step when sampling; win rates are their means. On a language model, pairs of
    answers per prompt that play against each other."""


@dataclass(frozen=True)
class MMD(Algorithm):
    """Magnetic mirror descent (arXiv 2206.05825) with the reference as magnet, in the KL-regularised game."""

    name: ClassVar[str] = "mmd"
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate", "tau")
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    tau: float = 0.1
    """tau (the paper's alpha), the price of the KL to the magnet."""
    samples: int = 1
    """k, answers to play against per step when sampling; win rates are their means."""


@dataclass(frozen=True)
class MPO(Algorithm):
    """Magnetic Preference Optimization (arXiv 2410.16714): MMD whose magnet follows, to the game without KL price."""

    name: ClassVar[str] = "mpo"
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate", "tau")
    COUNTS: ClassVar[dict[str, int]] = {"period": 1, "samples": 1}

    tau: float = 0.1
    """tau (the paper's alpha), the price of the KL to the magnet."""
    period: int = 100
    """Steps between moves of the magnet to the present policy."""
    samples: int = 1
    """k, answers to play against per step when sampling; win rates are their means."""


@dataclass(frozen=True)
class OnlineIPO(Algorithm):
    """Identity Preference Optimization on the policy's own pairs (arXiv 2403.08635); stationary at the KL-Nash."""

    name: ClassVar[str] = "online_ipo"
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate", "tau")
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    tau: float = 0.1
    """tau, the price of the KL to the reference."""
    samples: int = 1
    """k, pairs of answers per prompt when sampling."""


@dataclass(frozen=True)
class OnlineDPO(Algorithm):
    """Direct Preference Optimization on the policy's own pairs (online iterative DPO, arXiv 2312.11456, 2402.04792).

    Stationary where sigmoid(tau (log pi/pi_ref(y) - log pi/pi_ref(y'))) equals p(y > y') on average over
    y' ~ pi, for every y: a Bradley-Terry fit, in general not the KL-Nash equilibrium.
    """

    name: ClassVar[str] = "online_dpo"
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate", "tau")
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    tau: float = 0.1
    """tau (the paper's beta), the price of the KL to the reference."""
    samples: int = 1
    """k, pairs of answers per prompt when sampling."""


ALGORITHMS: dict[str, type[Algorithm]] = {
    cls.name: cls for cls in (StackelbergGDA, RLOO, NashMD, SPO, SPPO, OMWU, INPO, EGPO, MMD, MPO, OnlineIPO, OnlineDPO)
}
"""The specs by the name used in sweep files. ``tabular.dynamics`` runs all of them, ``llm`` those in
``llm.algorithms.IMPLEMENTATIONS``."""
