"""The learning signals, as pure functions of preferences and log-ratios (MATH notation).

They use nothing but arithmetic and broadcasting, so the same lines serve numpy arrays of exact
expectations in ``tabular`` and torch tensors of samples in ``llm``.

Notation: ``preference`` is p(y > y' | x); a log-ratio is log pi(y|x) - log pi_ref(y|x). In ``llm`` a
log-ratio may be the sum over a whole answer or, per token, the sum from that token on (its
reward-to-go): a token must answer for all the KL it causes, not only its own.
"""

from __future__ import annotations

from typing import Any

Array = Any
"""A numpy array, a torch tensor or a number; all arguments of one call share the kind."""


def leader_reward(
    preference: Array, follower_log_ratio: Array, leader_log_ratio: Array, *, tau_leader: float, tau_follower: float
) -> Array:
    """R_L = p(y > y') + tau_F log(omega/omega_ref)(y'|y) - tau_L log(pi/pi_ref)(y).

    The middle term is what the Follower paid for its reply. Without it the Leader maximises another
    objective (arXiv 2512.16626, Eq. 5, differentiated in pi). Shapes broadcast.
    """
    return preference + tau_follower * follower_log_ratio - tau_leader * leader_log_ratio


def follower_reward(preference: Array, follower_log_ratio: Array, *, tau_follower: float) -> Array:
    """R_F = p(y' > y) - tau_F log(omega/omega_ref)(y'|y), with p(y' > y) = 1 - p(y > y'). Shapes broadcast."""
    return 1 - preference - tau_follower * follower_log_ratio


def policy_reward(reward: Array, log_ratio: Array, *, tau: float) -> Array:
    """R = r - tau log(pi/pi_ref)(y), for any single-player signal r.

    r is a scalar reward in RLHF (RLOO), the preference p(y > y') against an opponent's sample in NLHF
    (Nash-MD, arXiv 2312.00886). Shapes broadcast.
    """
    return reward - tau * log_ratio


def leave_one_out(reward: Array) -> Array:
    """The baseline of each sample: the mean of the *other* rewards along the last axis (length k >= 2).

    It does not depend on the sample it is subtracted from, so the gradient stays unbiased
    (arXiv 2402.14740). Raises ``ValueError`` for k < 2.
    """
    k = reward.shape[-1]
    if k < 2:
        raise ValueError(
            f"leave_one_out needs at least 2 samples along the last axis, got shape {tuple(reward.shape)}."
        )
    return (reward.sum(-1)[..., None] - reward) / (k - 1)


def geometric_mixture(log_policy: Array, log_reference: Array, *, mixture: float) -> Array:
    """Unnormalised log of pi^(1 - mixture) pi_ref^mixture: ``mixture`` weighs the reference."""
    return (1 - mixture) * log_policy + mixture * log_reference
