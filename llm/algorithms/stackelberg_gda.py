"""StackelbergGDA on a language model (arXiv 2512.16626, Algorithm 1)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from llm.experience import Collector, Experience, Texts, baseline, policy_gradient, to_go, two_role_rows
from llm.policy import Policy
from slhf.algorithms import StackelbergGDA
from slhf.signals import follower_reward, leader_reward


def collect(spec: StackelbergGDA, at: Collector, prompts: list[str], step: int) -> Experience:
    """y ~ pi(.|x), y' ~ omega(.|x, y), p = judge(x, y, y'); k Leader samples a prompt, m replies to each."""
    chat, k, m = at.policy.chat, spec.leader_samples, spec.follower_samples

    with at.phase("generate"):
        session = at.generator.open([chat.prompt(x) for x in prompts])
        session.repeat(k)
        prompts = [x for x in prompts for _ in range(k)]
        answers = session.sample(at.max_new_tokens, at.seed(step, "leader"))
        if chat.continues:
            session.extend([chat.turn(y.ids) for y in answers])  # reads on from the Leader's key-value cache
        else:
            session = at.generator.open([chat.follower_prompt(x, y.ids) for x, y in zip(prompts, answers, strict=True)])
        session.repeat(m)
        replies = session.sample(at.max_new_tokens, at.seed(step, "follower"), role="follower")

    prompts = [x for x in prompts for _ in range(m)]
    answers = [y for y in answers for _ in range(m)]
    texts = {
        "prompt": prompts,
        "leader": [chat.text(y.ids) for y in answers],
        "follower": [chat.text(z.ids) for z in replies],
    }
    rows = two_role_rows(at.policy, prompts, [y.ids for y in answers], [z.ids for z in replies])

    def signal(texts: Texts) -> np.ndarray:
        return at.preferences(texts, "leader", "follower")

    return at.experience(rows, texts, signal, step, {"leader": answers, "follower": replies}, m, session)


def loss(spec: StackelbergGDA, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """The Leader's and the Follower's policy gradients, each with its own reward.

    With shared parameters kappa weighs the Follower's loss; with its own parameters it is their learning rate's
    factor instead. The Leader's loss enters only at every ``leader_interval``-th step.

    Args:
        spec: temperatures, timescale and the number of samples.
        logp: (R, T), the policy's log-probabilities of the rows, with gradient.
        experience: what was sampled.
    """
    k, m, p, tau_f = spec.leader_samples, spec.follower_samples, experience.signal, spec.tau_follower
    leader_ratio, follower_ratio = experience.log_ratio(logp, "leader"), experience.log_ratio(logp, "follower")
    paid = follower_ratio.sum(1)  # what the Follower paid for the whole reply enters the Leader's reward

    # R_L. The m replies to one answer share that answer's draw, so their mean is one sample of its reward.
    taus = {"tau_leader": spec.tau_leader, "tau_follower": tau_f}
    whole_leader = leader_reward(p, paid, leader_ratio.sum(1), **taus)
    others = baseline(whole_leader.view(-1, m).mean(1), k).repeat_interleave(m)
    leader_advantage = leader_reward(p[:, None], paid[:, None], to_go(leader_ratio), **taus) - others[:, None]

    # R_F
    whole_follower = follower_reward(p, paid, tau_follower=tau_f)
    others = baseline(whole_follower, m)
    follower_advantage = follower_reward(p[:, None], to_go(follower_ratio), tau_follower=tau_f) - others[:, None]

    leader_loss = policy_gradient(experience, logp, "leader", leader_advantage)
    follower_loss = policy_gradient(experience, logp, "follower", follower_advantage)
    kappa = spec.timescale if experience.sharing == "one" else 1.0
    return leader_loss * leader_moves(spec, experience.step) + kappa * follower_loss, {
        "follower_preferred": float(1 - p.mean()),
        "leader_reward": float(whole_leader.mean()),
        "follower_reward": float(whole_follower.mean()),
    }


def leader_moves(spec: StackelbergGDA, step: int) -> bool:
    """Whether the Leader moves at ``step``; the Follower always does."""
    return (step + 1) % spec.leader_interval == 0


def before_step(spec: StackelbergGDA, policy: Policy, step: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where the Leader has its own parameters and rests, keep Adam's momentum from moving them."""
    if policy.sharing == "two" and not leader_moves(spec, step):
        for _, p in policy.trainable("leader"):
            p.grad = None
    return state
