"""The two-world check: language models whose answers are single tokens, against the exact solution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.cluster import Task
from experiments.config import FiniteAnswersSweep, build_algorithm
from llm import finite
from llm.config import ModelConfig
from llm.judges.matrix import MatrixJudge
from llm.policy import LoRA, Policy
from llm.reward import LinearReward, fit_reward
from llm.train import train
from slhf.algorithms import RLOO, Algorithm, NashMD, StackelbergGDA
from slhf.errors import ConfigError
from slhf.runs import Run
from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf, solve_slhf

L2 = 1e-6
"""Of the fitted reward: small enough that it is the maximum-likelihood one to four digits."""


def run_sweep(sweeps: list[FiniteAnswersSweep], out: Path) -> dict[str, Any]:
    """Train every algorithm on every game; one result per pair, finished ones read back."""
    return {"results": [run_game(spec, game, sweep, out / sweep.name) for spec, game, sweep in games_of(sweeps)]}


def tasks(sweeps: list[FiniteAnswersSweep], out: Path) -> list[Task]:
    """One task for each run that is not finished."""
    return [
        (run.path.name, partial(run_game, spec, game, sweep, out / sweep.name))
        for spec, game, sweep in games_of(sweeps)
        if not (run := open_run(spec, game, sweep, out / sweep.name)).finished
    ]


def games_of(sweeps: list[FiniteAnswersSweep]) -> list[tuple[Algorithm, PreferenceMatrix, FiniteAnswersSweep]]:
    """Every algorithm with every game.

    Raises:
        ConfigError: a file holds several games.
        SLHFError: a game has no solution to compare with.
    """
    found = []
    for sweep in sweeps:
        game = PreferenceMatrix.load(sweep.judge.matrix)
        if game.batch_shape:
            raise ConfigError(f"{sweep.judge.matrix} holds a batch of matrices; give one game per file.")
        for spec in map(build_algorithm, sweep.algorithms):
            uniform = np.full(game.n, 1 / game.n)
            exact_solution(spec, game, uniform, uniform)  # what has no solution is refused before any training
            found.append((spec, game, sweep))
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads only wait for each other on matrices this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def open_run(spec: Algorithm, game: PreferenceMatrix, sweep: FiniteAnswersSweep, root: Path) -> Run:
    """The run directory of ``spec`` on the game."""
    config = {
        "algorithm": {"name": spec.name, **asdict(spec)},
        "seed": sweep.seed,
        "game": game.p.tolist(),
        "model": asdict(sweep.model),
        "train": asdict(sweep.train),
    }
    return Run.open(root, spec.name, config)


@one_thread()
def run_game(spec: Algorithm, game: PreferenceMatrix, sweep: FiniteAnswersSweep, root: Path) -> dict[str, Any]:
    """Train ``spec`` with the game as judge and compare what was learned with what is optimal."""
    run = open_run(spec, game, sweep, root)
    if not run.finished:
        tokens = [f"answer_{i}" for i in range(game.n)]
        model = ModelConfig(
            name=str(run.path / "model"),
            dtype="float32",
            temperature=1.0,
            max_new_tokens=1,
            lora=LoRA(rank=sweep.model.rank, modules=finite.MODULES),
        )
        finite.build_model(run.path / "model", tokens, sweep.model.seed)
        judge = MatrixJudge(game.p, tokens)
        reward = fit_all_pairs(judge, tokens) if isinstance(spec, RLOO) else None
        policy = train(spec, judge, [finite.PROMPT], run, model, sweep.train, sweep.seed, reward)
        run.finish(compare(spec, game, policy, tokens))
    return {"game": sweep.judge.matrix, "labels": list(game.labels), "algorithm": spec.name, **run.result()}


def fit_all_pairs(judge: MatrixJudge, tokens: list[str]) -> LinearReward:
    """The Bradley-Terry reward when every pair is asked equally often."""
    n = len(tokens)
    i, j = np.triu_indices(n, 1)
    return fit_reward(judge, [finite.PROMPT] * len(i), [tokens[k] for k in i], [tokens[k] for k in j], L2)


def compare(spec: Algorithm, game: PreferenceMatrix, policy: Policy, tokens: list[str]) -> dict[str, Any]:
    """Learned and exact policies, and their total variation; the Follower's is averaged under the exact Leader."""
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
    """Where the sampled gradient of each algorithm is stationary (MATH section 5); the Follower only for SLHF."""
    match spec:
        case StackelbergGDA(tau_leader=tau_leader, tau_follower=tau_follower):
            slhf = solve_slhf(game, tau_leader, tau_follower, reference, follower_reference)
            return slhf.policy, slhf.follower
        case RLOO(tau=tau):
            return solve_rlhf(game, tau, reference).policy, None
        case NashMD(tau=tau, mixture=mixture):
            if tau == 0 or mixture == 1:
                raise ConfigError(f"nash_md with tau = {tau} and mixture = {mixture} has no unique stationary point.")
            mixed = solve_nlhf(game, tau / (1 - mixture), reference).policy
            weights = reference * np.exp((game.prefer(mixed) - 0.5) / tau)
            return weights / weights.sum(), None
    raise ConfigError(f"{type(spec).__name__} has no exact solution to compare with.")
