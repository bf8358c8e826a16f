"""Each estimator's expectation, by enumeration of every answer, is the exact gradient of its objective."""

import itertools

import pytest
import torch

from llm import finite
from llm.algorithms import egpo, nash_md, online_dpo, online_ipo, rloo, spo, sppo, stackelberg_gda
from llm.experience import Experience, baseline, joint_rows, policy_gradient, separate_rows, to_go
from slhf.algorithms import EGPO, RLOO, SPO, SPPO, NashMD, OnlineDPO, OnlineIPO, StackelbergGDA
from slhf.signals import policy_reward
from tests.llm.tiny import answers, conversation, pack, tiny_policy

pytestmark = pytest.mark.numeric

TOLERANCE = 1e-4


def gradient(policy, loss):
    parameters = [p for _, p in policy.trainable()]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).view(-1) if g is None else g.view(-1) for g, p in zip(grads, parameters, strict=True)]
    )


def relative_error(ours, exact):
    return float((ours - exact).norm() / exact.norm())


class Enumerated:
    """Every (y, y') of a tiny policy, with log-probabilities under policy and reference."""

    def __init__(self, policy, length, labels):
        self.policy, self.answers = policy, answers(policy, labels, length)
        self.n = len(self.answers)
        torch.manual_seed(3)
        p = torch.rand(self.n, self.n)
        self.p = torch.where(torch.ones_like(p).triu(1) > 0, p, torch.where(torch.eye(self.n) > 0, 0.5, 1 - p.T))
        self.reward = 3 * torch.rand(self.n)

    def pairs(self, reference=False):
        """log pi(y), shape (n,), and log omega(y'|y), shape (n, n), with gradient."""
        batch = pack(self.policy, [conversation(self.policy, y, z) for y in self.answers for z in self.answers])
        if reference:
            with self.policy.reference(), torch.no_grad():
                logp = self.policy.logprobs(batch)
        else:
            logp = self.policy.logprobs(batch)
        leader, follower = ((logp * batch.owners[role]).sum(1).view(self.n, self.n) for role in ("leader", "follower"))
        return leader[:, 0], follower

    def experience(self, conversations, signal, step=0):
        batch = pack(self.policy, conversations)
        with self.policy.reference(), torch.no_grad():
            reference = self.policy.logprobs(batch)
        signal = torch.as_tensor(signal, dtype=torch.float32)
        return Experience(batch, reference, signal, {}, step, self.policy.sharing)

    def expectation(self, algorithm, spec, draws):
        """The mean gradient over ``draws`` of (probability, conversations, signal)."""
        total, mass = 0.0, 0.0
        for probability, conversations, signal in draws:
            experience = self.experience(conversations, signal)
            loss, _ = algorithm.loss(spec, self.policy.logprobs(experience.batch), experience)
            total = total + probability * gradient(self.policy, loss)
            mass += probability
        assert mass == pytest.approx(1, abs=1e-5)
        return total


def slhf_gradient(world, spec):
    """Leader and Follower each differentiate their own objective; the other's policy is held fixed."""
    leader, follower = world.pairs()
    leader_ref, follower_ref = world.pairs(reference=True)
    pi, omega = leader.exp(), follower.exp()
    paid = follower.detach() - follower_ref
    earned = (omega.detach() * (world.p + spec.tau_follower * paid)).sum(1)
    leader_objective = (pi * (earned - spec.tau_leader * (leader - leader_ref))).sum()
    reply = (omega * (1 - world.p - spec.tau_follower * (follower - follower_ref))).sum(1)
    follower_objective = (pi.detach() * reply).sum()
    weight = spec.timescale if world.policy.sharing == "one" else 1.0
    return gradient(world.policy, -leader_objective - weight * follower_objective)


def regularised_gradient(world, signal, tau):
    """d/dtheta of -(E[signal] - tau KL)."""
    leader, _ = world.pairs()
    leader_ref, _ = world.pairs(reference=True)
    return gradient(world.policy, -(leader.exp() * (signal - tau * (leader - leader_ref))).sum())


def products(world, k, m, layout=joint_rows):
    """Every group of k answers with m replies each: (probability, conversations, preferences)."""
    leader, follower = (x.detach().exp().tolist() for x in world.pairs())
    atoms = []
    for i in range(world.n):
        for replies in itertools.product(range(world.n), repeat=m):
            probability = leader[i]
            for j in replies:
                probability *= follower[i][j]
            atoms.append((probability, i, replies))
    for group in itertools.product(atoms, repeat=k):
        probability = 1.0
        for weight, _, _ in group:
            probability *= weight
        pairs = [(i, j) for _, i, replies in group for j in replies]
        y, replies = ([world.answers[pair[side]] for pair in pairs] for side in (0, 1))
        conversations = layout(world.policy.chat, [finite.PROMPT] * len(pairs), y, replies)
        yield probability, conversations, [float(world.p[i, j]) for i, j in pairs]


@pytest.mark.parametrize(
    ("k", "m", "length", "labels"),
    [(1, 1, 3, ("a",)), (1, 1, 2, ("a", "b")), (2, 1, 2, ("a",)), (1, 2, 2, ("a",)), (2, 2, 1, ("a",))],
)
def test_stackelberg_gda(tmp_path, k, m, length, labels):
    world = Enumerated(tiny_policy(tmp_path, labels), length, labels)
    spec = StackelbergGDA(timescale=1.7, tau_leader=0.4, tau_follower=0.6, leader_samples=k, follower_samples=m)
    ours = world.expectation(stackelberg_gda, spec, products(world, k, m))
    assert relative_error(ours, slhf_gradient(world, spec)) < TOLERANCE


@pytest.mark.parametrize(("k", "m", "length", "labels"), [(1, 1, 2, ("a", "b")), (1, 1, 3, ("a",)), (2, 1, 2, ("a",))])
@pytest.mark.parametrize("sharing", ["one", "two"])
def test_stackelberg_gda_with_a_row_for_each_role(tmp_path, sharing, k, m, length, labels):
    """As with an adapter for each role, and with chat templates that rewrite turns."""
    world = Enumerated(tiny_policy(tmp_path, labels, sharing=sharing), length, labels)
    spec = StackelbergGDA(timescale=1.7, tau_leader=0.4, tau_follower=0.6, leader_samples=k, follower_samples=m)
    ours = world.expectation(stackelberg_gda, spec, products(world, k, m, separate_rows))
    assert relative_error(ours, slhf_gradient(world, spec)) < TOLERANCE


def test_between_the_leaders_steps_only_the_follower_learns(tmp_path):
    world = Enumerated(tiny_policy(tmp_path, ("a",)), 2, ("a",))
    spec = StackelbergGDA(timescale=1.7, tau_leader=0.4, tau_follower=0.6, leader_interval=3)
    _, conversations, p = list(products(world, 1, 1))[4]
    losses = []
    for step in range(6):
        experience = world.experience(conversations, p, step)
        losses.append(gradient(world.policy, stackelberg_gda.loss(spec, logp_of(world, experience), experience)[0]))
    logp = logp_of(world, experience)
    assert relative_error(losses[2], losses[5]) == 0
    assert relative_error(losses[0], losses[4]) == 0
    assert relative_error(losses[0], losses[2]) > 0.1
    leader_tokens = experience.batch.owners["leader"]
    leaf = logp.detach().requires_grad_()
    for step, leads in ((0, False), (2, True)):
        at = world.experience(conversations, p, step)
        (slope,) = torch.autograd.grad(stackelberg_gda.loss(spec, leaf, at)[0], leaf)
        assert bool(slope[leader_tokens].any()) == leads
        assert slope[at.batch.owners["follower"]].any()


def logp_of(world, experience):
    return world.policy.logprobs(experience.batch)


@pytest.mark.parametrize("k", [2, 3])
def test_rloo(tmp_path, k):
    labels, length = (("a", "b"), 2) if k == 2 else (("a",), 2)
    world = Enumerated(tiny_policy(tmp_path, labels), length, labels)
    spec = RLOO(tau=0.5, samples=k)
    leader = world.pairs()[0].detach().exp().tolist()

    def draws():
        for group in itertools.product(range(world.n), repeat=k):
            probability = torch.tensor([leader[i] for i in group]).prod().item()
            conversations = [conversation(world.policy, world.answers[i]) for i in group]
            yield probability, conversations, [float(world.reward[i]) for i in group]

    ours = world.expectation(rloo, spec, draws())
    assert relative_error(ours, regularised_gradient(world, world.reward, spec.tau)) < TOLERANCE


@pytest.mark.parametrize("k", [1, 2])
def test_nash_md(tmp_path, k):
    labels, length = (("a", "b"), 3) if k == 1 else (("a",), 2)
    world = Enumerated(tiny_policy(tmp_path, labels), length, labels)
    spec = NashMD(tau=0.5, mixture=0.3, samples=k)
    leader = world.pairs()[0].detach().exp()
    # Any opponent will do for the expectation: what it is, is the sampler's business (see test_generation).
    opponent = torch.rand(world.n, generator=torch.Generator().manual_seed(0))
    opponent /= opponent.sum()
    joint = [(float(leader[i] * opponent[j]), i, j) for i, j in itertools.product(range(world.n), repeat=2)]

    def draws():
        for group in itertools.product(joint, repeat=k):
            probability = torch.tensor([weight for weight, _, _ in group]).prod().item()
            conversations = [conversation(world.policy, world.answers[i]) for _, i, _ in group]
            yield probability, conversations, [float(world.p[i, j]) for _, i, j in group]

    ours = world.expectation(nash_md, spec, draws())
    exact = regularised_gradient(world, world.p @ opponent, spec.tau)
    assert relative_error(ours, exact) < TOLERANCE


GROUPS = [(2, 2, ("a", "b")), (2, 3, ("a",)), (3, 2, ("a",))]
"""Answers per group, their greatest length, their letters."""


def groups(world, k):
    """Every group of k answers from the policy, with r_i = mean_{j != i} p(i > j)."""
    leader = world.pairs()[0].detach().exp()
    for group in itertools.product(range(world.n), repeat=k):
        probability = leader[list(group)].prod().item()
        wins = [sum(float(world.p[i, j]) for b, j in enumerate(group) if b != a) for a, i in enumerate(group)]
        yield probability, [conversation(world.policy, world.answers[i]) for i in group], [w / (k - 1) for w in wins]


def self_play_gradient(world, tau):
    """d/dtheta of -(E[p(y > y')] - tau KL), the opponent held fixed."""
    return regularised_gradient(world, world.p @ world.pairs()[0].detach().exp(), tau)


@pytest.mark.parametrize(("k", "length", "labels"), GROUPS)
def test_spo(tmp_path, k, length, labels):
    world = Enumerated(tiny_policy(tmp_path, labels), length, labels)
    spec = SPO(tau=0.5, samples=k)
    ours = world.expectation(spo, spec, groups(world, k))
    assert relative_error(ours, self_play_gradient(world, spec.tau)) < TOLERANCE


@pytest.mark.parametrize("k", [2, 3])
def test_the_whole_leave_one_out_mean_would_bias_spo(tmp_path, k):
    """It plays at temperature tau (k - 1) / k, k / (k - 1) times as fast: why ``spo.loss`` has its own baseline."""
    world = Enumerated(tiny_policy(tmp_path, ("a",)), 2, ("a",))
    tau = 0.5

    class Naive:
        @staticmethod
        def loss(spec, logp, experience):
            r, ratio = experience.signal, experience.log_ratio(logp, "leader")
            others = baseline(policy_reward(r, ratio.sum(1), tau=tau), k)
            advantage = policy_reward(r[:, None], to_go(ratio), tau=tau) - others[:, None]
            return policy_gradient(experience, logp, "leader", advantage), {}

    naive = world.expectation(Naive, None, groups(world, k))
    assert relative_error(naive, self_play_gradient(world, tau)) > 0.05
    assert relative_error(naive, k / (k - 1) * self_play_gradient(world, tau * (k - 1) / k)) < TOLERANCE


@pytest.mark.parametrize(("k", "length", "labels"), GROUPS)
def test_sppo(tmp_path, k, length, labels):
    """The regression's exact gradient at pi = pi_t, which is that of self-play without a price."""
    world = Enumerated(tiny_policy(tmp_path, labels), length, labels)
    spec = SPPO(learning_rate=0.3, samples=k)
    ours = world.expectation(sppo, spec, groups(world, k))
    leader, _ = world.pairs()
    sampled_from = leader.detach()
    target = spec.learning_rate * (world.p @ sampled_from.exp() - 0.5)
    regression = (sampled_from.exp() * (leader - sampled_from - target) ** 2).sum() / (2 * spec.learning_rate)
    assert relative_error(ours, gradient(world.policy, regression)) < TOLERANCE
    assert relative_error(ours, self_play_gradient(world, 0.0)) < TOLERANCE


def pairwise_gradient(world, loss):
    """d/dtheta of E[loss(h, p)] over y, y' ~ pi, the draw held fixed; h is the difference of the log-ratios."""
    leader, _ = world.pairs()
    pi = leader.detach().exp()
    ratio = leader - world.pairs(reference=True)[0]
    return gradient(world.policy, (torch.outer(pi, pi) * loss(ratio[:, None] - ratio[None, :], world.p)).sum())


@pytest.mark.parametrize(("length", "labels"), [(2, ("a", "b")), (3, ("a",))])
@pytest.mark.parametrize(("algorithm", "spec"), [(online_ipo, OnlineIPO(tau=0.5)), (egpo, EGPO(tau=0.5))])
def test_identity_preference_optimisation(tmp_path, algorithm, spec, length, labels):
    """The loss's exact gradient, which is a multiple of the self-play policy gradient."""
    world = Enumerated(tiny_policy(tmp_path, labels), length, labels)
    scale = 1.0 if algorithm is online_ipo else spec.tau / 4
    ours = world.expectation(algorithm, spec, groups(world, 2))
    exact = pairwise_gradient(world, lambda h, p: scale * (h - (p - 0.5) / spec.tau) ** 2)
    assert relative_error(ours, exact) < TOLERANCE
    assert relative_error(ours, scale * 4 / spec.tau * self_play_gradient(world, spec.tau)) < TOLERANCE


@pytest.mark.parametrize(("length", "labels"), [(2, ("a", "b")), (3, ("a",))])
def test_online_dpo(tmp_path, length, labels):
    world = Enumerated(tiny_policy(tmp_path, labels), length, labels)
    spec = OnlineDPO(tau=0.5)
    ours = world.expectation(online_dpo, spec, groups(world, 2))

    def cross_entropy(h, p):
        return -p * (spec.tau * h).sigmoid().log() - (1 - p) * (-spec.tau * h).sigmoid().log()

    assert relative_error(ours, pairwise_gradient(world, cross_entropy)) < TOLERANCE


def test_several_pairs_a_prompt_are_averaged(tmp_path):
    world = Enumerated(tiny_policy(tmp_path, ("a",)), 2, ("a",))
    draws = list(groups(world, 2))[1:4]
    for algorithm, spec in ((online_ipo, OnlineIPO(samples=3)), (online_dpo, OnlineDPO(samples=3)), (egpo, EGPO())):
        each = [world.experience(conversations, p) for _, conversations, p in draws]
        together = world.experience([row for _, rows, _ in draws for row in rows], [x for _, _, p in draws for x in p])
        losses = [float(algorithm.loss(spec, logp_of(world, e), e)[0]) for e in (*each, together)]
        assert sum(losses[:3]) / 3 == pytest.approx(losses[3], rel=1e-5)


@torch.no_grad()
def test_egpo_takes_its_full_step_from_the_old_point(tmp_path):
    """With the gradient g(theta) = theta and plain steps: theta <- theta - eta (theta - eta theta)."""
    policy = tiny_policy(tmp_path)
    parameters = [p for _, p in policy.trainable()]
    start, rate, state = [p.clone() for p in parameters], 0.1, {}
    optimizer = torch.optim.SGD(parameters, lr=rate)
    for step in range(2):
        for p in parameters:
            p.grad = p.clone()
        state = egpo.before_step(EGPO(), policy, step, state)
        optimizer.step()
        expected = [old * (1 - rate) if step == 0 else old - rate * (1 - rate) * old for old in start]
        for p, want in zip(parameters, expected, strict=True):
            torch.testing.assert_close(p, want)
        assert bool(state) == (step == 0)


def test_a_resting_leader_is_not_moved_by_adams_momentum(tmp_path):
    policy, spec = tiny_policy(tmp_path, sharing="two"), StackelbergGDA(leader_interval=2)
    optimizer = torch.optim.AdamW(policy.parameter_groups(1.0), lr=0.1)
    for step, leader_moves in ((1, True), (2, False), (3, True)):
        before = {name: p.detach().clone() for name, p in policy.trainable()}
        for _, p in policy.trainable():
            p.grad = torch.ones_like(p)
        assert stackelberg_gda.before_step(spec, policy, step, {}) == {}
        optimizer.step()
        moved = {role: any(not torch.equal(p, before[n]) for n, p in policy.trainable(role)) for role in ROLES}
        assert moved == {"leader": leader_moves, "follower": True}


ROLES = ("leader", "follower")
