"""Each estimator's expectation, by enumeration of every answer, is the exact gradient of its objective."""

import itertools

import pytest
import torch

from llm.algorithms import nash_md, rloo, stackelberg_gda
from llm.experience import Experience
from slhf.algorithms import RLOO, NashMD, StackelbergGDA
from tests.llm.tiny import answers, conversation, pack, tiny_policy

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

    def experience(self, conversations, signal):
        batch = pack(self.policy, conversations)
        with self.policy.reference(), torch.no_grad():
            reference = self.policy.logprobs(batch)
        return Experience(batch, reference, torch.as_tensor(signal, dtype=torch.float32), {})

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
    return gradient(world.policy, -leader_objective - spec.timescale * follower_objective)


def regularised_gradient(world, signal, tau):
    """d/dtheta of -(E[signal] - tau KL)."""
    leader, _ = world.pairs()
    leader_ref, _ = world.pairs(reference=True)
    return gradient(world.policy, -(leader.exp() * (signal - tau * (leader - leader_ref))).sum())


def products(world, k, m):
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
        conversations = [conversation(world.policy, world.answers[i], world.answers[j]) for i, j in pairs]
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
