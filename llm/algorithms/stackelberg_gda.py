"""StackelbergGDA on a language model (arXiv 2512.16626, Algorithm 1).

Both roles share one adapter: the timescale kappa weighs the Follower's loss.
"""

from __future__ import annotations

from torch import Tensor

from llm.experience import Collector, Experience, baseline, policy_gradient, to_go
from llm.policy import Segment
from slhf.algorithms import StackelbergGDA
from slhf.signals import follower_reward, leader_reward


def collect(spec: StackelbergGDA, at: Collector, prompts: list[str], step: int) -> Experience:
    """y ~ pi(.|x), y' ~ omega(.|x, y), p = judge(x, y, y'); k Leader samples a prompt, m replies to each."""
    chat, k, m = at.policy.chat, spec.leader_samples, spec.follower_samples
    opening = [chat.prompt(x) for x in prompts]

    with at.phase("generate"):
        session = at.generator.open(opening)
        session.repeat(k)
        answers = session.sample(at.max_new_tokens, at.seed(step, "leader"))
        session.extend([chat.turn(y.ids) for y in answers])  # reads on from the Leader's key-value cache
        session.repeat(m)
        replies = session.sample(at.max_new_tokens, at.seed(step, "follower"))

    answers = [y for y in answers for _ in range(m)]
    opening = [ids for ids in opening for _ in range(k * m)]
    texts = {
        "prompt": [x for x in prompts for _ in range(k * m)],
        "leader": [chat.text(y.ids) for y in answers],
        "follower": [chat.text(reply.ids) for reply in replies],
    }
    conversations: list[list[Segment]] = [
        [(x, None), (y.ids, "leader"), (chat.turn(y.ids), None), (reply.ids, "follower")]
        for x, y, reply in zip(opening, answers, replies, strict=True)
    ]
    samples = {"leader": answers, "follower": replies}
    return at.experience(conversations, texts, lambda texts: at.preferences(texts, "leader", "follower"), samples, m)


def loss(spec: StackelbergGDA, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """The Leader's and the Follower's policy gradients, each with its own reward.

    Args:
        spec: temperatures, timescale and the number of samples.
        logp: (B, T), the policy's log-probabilities of the conversations, with gradient.
        experience: what was sampled.
    """
    k, m, p = spec.leader_samples, spec.follower_samples, experience.signal
    owners, tau_f = experience.batch.owners, spec.tau_follower
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

    leader_loss = policy_gradient(logp, owners["leader"], leader_advantage)
    follower_loss = policy_gradient(logp, owners["follower"], follower_advantage)
    return leader_loss + spec.timescale * follower_loss, {
        "follower_preferred": float(1 - p.mean()),
        "leader_reward": float(whole_leader.mean()),
        "follower_reward": float(whole_follower.mean()),
        "leader_kl": float(leader_ratio.sum(1).mean()),
        "follower_kl": float(paid.mean()),
    }
