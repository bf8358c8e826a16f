"""The two-world check: language models whose answers are single tokens, against the exact solution."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from experiments import process
from experiments.cluster import Task
from experiments.config import FiniteAnswersSweep, build_algorithm
from llm import finite
from llm.algorithms import check
from llm.config import ModelConfig
from llm.config import identity as train_identity
from llm.distributed import gathered, join
from llm.judges.matrix import MatrixJudge
from llm.lora import LoRA
from llm.policy import Policy
from llm.reward import LinearReward, fit_reward
from llm.train import train
from slhf.algorithms import EGPO, RLOO, SPO, SPPO, Algorithm, NashMD, OnlineDPO, OnlineIPO, StackelbergGDA
from slhf.certificates import Certificate
from slhf.errors import ConfigError, NotConverged
from slhf.runs import Run
from tabular import PreferenceMatrix, dynamics, solve_nlhf, solve_rlhf, solve_slhf

L2 = 1e-6
"""Of the fitted reward: small enough that it is the maximum-likelihood one to four digits."""


def run_sweep(sweeps: list[FiniteAnswersSweep], out: Path) -> dict[str, Any]:
    """Train every algorithm on every game; one result per pair, finished ones read back.

    Pairs for which there is nothing to compare with are not trained but listed under "skipped", with the reason.

    Raises:
        ConfigError: a file holds more than one game, or all pairs would be skipped.
    """
    jobs, skipped = jobs_of(sweeps)
    results = [run_game(spec, game, sweep, out / sweep.name) for spec, game, sweep in jobs]
    return {"results": results, "skipped": skipped}


def tasks(sweeps: list[FiniteAnswersSweep], out: Path) -> list[Task]:
    """One task for each run that is not finished; raises what :func:`run_sweep` does."""
    return [
        (run.path.name, partial(run_game, spec, game, sweep, out / sweep.name))
        for spec, game, sweep in jobs_of(sweeps)[0]
        if not (run := open_run(spec, game, sweep, out / sweep.name)).finished
    ]


Job = tuple[Algorithm, PreferenceMatrix, FiniteAnswersSweep]


def jobs_of(sweeps: list[FiniteAnswersSweep]) -> tuple[list[Job], list[dict[str, Any]]]:
    """The pairs to train, and those to skip with the reason."""
    jobs, skipped = [], []
    for sweep in sweeps:
        game = PreferenceMatrix.load(sweep.judge.matrix)
        for note in game.notes:
            print(f"note: {sweep.judge.matrix}: {note}.", file=sys.stderr)
        if game.batch_shape:
            raise ConfigError(f"{sweep.judge.matrix} holds a batch of matrices; give one game per file.")
        for spec in map(build_algorithm, sweep.algorithms):
            uniform = np.full(game.n, 1 / game.n)
            try:
                check(spec, "two" if sweep.model.trained == "two" else "one", sweep.train.steps)
                exact_solution(spec, game, uniform, uniform)
                jobs.append((spec, game, sweep))
            except ConfigError as error:
                skipped.append({**describe_job(spec, sweep), "reason": str(error)})
    if not jobs:
        raise ConfigError(f"Nothing in this sweep has an exact solution: {skipped[0]['reason']}")
    return jobs, skipped


def open_run(spec: Algorithm, game: PreferenceMatrix, sweep: FiniteAnswersSweep, root: Path) -> Run:
    """The run directory of ``spec`` on the game."""
    config = {
        "algorithm": {"name": spec.name, **asdict(spec)},
        "seed": sweep.seed,
        "game": game.p.tolist(),
        "model": asdict(sweep.model),
        "train": train_identity(sweep.train),
    }
    return Run.open(root, spec.name, config)


@process.threads(1)
def run_game(spec: Algorithm, game: PreferenceMatrix, sweep: FiniteAnswersSweep, root: Path) -> dict[str, Any]:
    """Train ``spec`` with the game as judge and compare what was learned with what is optimal."""
    processes = join(sweep.train.timeout_minutes)
    run = processes.in_turn(lambda: open_run(spec, game, sweep, root))
    if not processes.agree(run.finished):
        tokens = [f"answer_{i}" for i in range(game.n)]
        model = ModelConfig(
            name=str(run.path / "model"),
            dtype="float32",
            temperature=1.0,
            max_new_tokens=1,
            lora=None if sweep.model.trained == "all" else LoRA(rank=sweep.model.rank, modules=finite.MODULES),
            sharing="two" if sweep.model.trained == "two" else "one",
        )
        if processes.first:
            finite.build_model(run.path / "model", tokens, sweep.model.seed)
        processes.wait()
        judge = MatrixJudge(game.p, tokens)
        reward = fit_all_pairs(judge, tokens) if isinstance(spec, RLOO) else None
        policy = train(spec, judge, [finite.PROMPT], run, model, sweep.train, sweep.seed, reward)
        with gathered(policy):
            result = compare(spec, game, policy, tokens)
        if processes.first:
            run.finish(result)
        processes.wait()
    return {**describe_job(spec, sweep), "labels": list(game.labels), **run.result()}


def describe_job(spec: Algorithm, sweep: FiniteAnswersSweep) -> dict[str, Any]:
    """Game, algorithm, what is trained, and the seed."""
    return {
        "game": sweep.judge.matrix,
        "algorithm": spec.name,
        "settings": asdict(spec),
        "trained": sweep.model.trained,
        "seed": sweep.seed,
    }


def fit_all_pairs(judge: MatrixJudge, tokens: list[str]) -> LinearReward:
    """The Bradley-Terry reward when every pair is asked equally often."""
    n = len(tokens)
    i, j = np.triu_indices(n, 1)
    return fit_reward(judge, [finite.PROMPT] * len(i), [tokens[k] for k in i], [tokens[k] for k in j], L2)


def compare(spec: Algorithm, game: PreferenceMatrix, policy: Policy, tokens: list[str]) -> dict[str, Any]:
    """Learned and exact policies, and their total variation; the Follower's is averaged under the exact Leader.

    Online DPO, whose own fixed point is not the KL-Nash equilibrium, is held against both.
    """
    learned, learned_follower = (x.exp().numpy() for x in finite.distributions(policy, tokens))
    with policy.reference():
        reference, follower_reference = (x.exp().numpy() for x in finite.distributions(policy, tokens))
    exact, exact_follower = exact_solution(spec, game, reference, follower_reference)
    result: dict[str, Any] = {
        "reference": reference.tolist(),
        "follower_reference": follower_reference.tolist(),
        "learned": learned.tolist(),
        "exact": exact.tolist(),
        "leader_tv": float(np.abs(learned - exact).sum() / 2),
        "follower_tv": None,
    }
    if isinstance(spec, OnlineDPO):
        nash = solve_nlhf(game, spec.tau, reference).policy
        result |= {"nash": nash.tolist(), "nash_tv": float(np.abs(learned - nash).sum() / 2)}
    if exact_follower is not None:
        distance = np.abs(learned_follower - exact_follower).sum(-1) / 2
        result |= {
            "learned_follower": learned_follower.tolist(),
            "exact_follower": exact_follower.tolist(),
            "follower_tv": float(exact @ distance),
        }
    return result


def exact_solution(
    spec: Algorithm, game: PreferenceMatrix, reference: np.ndarray, follower_reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Where the sampled gradient of each algorithm is stationary; the Follower only for SLHF.

    For an algorithm from outside it is the solution of its tabular game.

    Raises:
        ConfigError: it is not known to come to rest anywhere.
    """
    match spec:
        case StackelbergGDA(tau_leader=tau_leader, tau_follower=tau_follower):
            slhf = solve_slhf(game, tau_leader, tau_follower, reference, follower_reference)
            return slhf.policy, slhf.follower
        case RLOO(tau=tau):
            equal = solve_rlhf(game, tau, reference, pair_weights="equal")  # as fit_all_pairs asks
            return equal.policy, None
        case NashMD(tau=tau, mixture=mixture):
            if tau == 0 or mixture == 1:
                raise ConfigError(f"nash_md with tau = {tau} and mixture = {mixture} has no unique stationary point.")
            mixed = solve_nlhf(game, tau / (1 - mixture), reference).policy
            weights = reference * np.exp((game.prefer(mixed) - 0.5) / tau)
            return weights / weights.sum(), None
        case SPO(tau=tau) | EGPO(tau=tau) | OnlineIPO(tau=tau) if tau > 0:
            return solve_nlhf(game, tau, reference).policy, None
        case SPO() | SPPO() | EGPO():
            return condorcet_winner(game), None
        case OnlineDPO():
            return dpo_fixed_point(spec, game, reference), None
    if type(spec) in dynamics.DYNAMICS:
        own = dynamics.DYNAMICS[type(spec)].game
        return own.solution(own.create_game(spec, game, reference, None)), None
    raise ConfigError(f"{type(spec).__name__} has no exact solution to compare with.")


def condorcet_winner(game: PreferenceMatrix) -> np.ndarray:
    """Where self-play without a price comes to rest: on the answer that beats all others, if there is one.

    Otherwise only the average of its policies approaches the Nash equilibrium, and the last one circles.
    """
    winners = (game.p > 0.5).sum(-1) == game.n - 1
    if not winners.any():
        raise ConfigError("Without a KL price self-play does not come to rest on a game without a Condorcet winner.")
    return winners.astype(float)


def dpo_fixed_point(spec: OnlineDPO, game: PreferenceMatrix, reference: np.ndarray) -> np.ndarray:
    """Where the tabular dynamics of online DPO come to rest when they start at the reference.

    There sum_y' pi(y') (sigmoid(tau h(y, y')) - p(y > y')) = 0 for every y. The slope of the loss is at most
    tau^2/4, so that a learning rate of 4/tau^2 is a stable one.

    Raises:
        NotConverged: the sum is more than 1e-6 for some y after 5,000 steps.
    """
    exact = replace(spec, learning_rate=4 / spec.tau**2)
    policy = dynamics.run(exact, game, 5_000, record_every=5_000, leader_reference=reference).policies[-1]
    ratio = np.log(policy / reference)
    residual = float(np.abs((expit(spec.tau * (ratio[:, None] - ratio)) - game.p) @ policy).max())
    if residual > 1e-6:
        certificate = Certificate(residual, residual, 5_000, "gradient descent")
        raise NotConverged(f"Online DPO's fixed point: residual {residual:.1e} > 1e-6.", policy, certificate)
    return policy
