"""A sweep on disk as the programs write it, with made-up numbers: what reports are tested with."""

import itertools
import json

import numpy as np

from experiments.reporting.record import write_plan
from slhf.runs import Run, write_json

SETTINGS = {"prompts": 4, "rounds": 3}
ENGLISH = "The answer to prompt {i} by {name}."


def config(name="stackelberg_gda", steps=20, seed=0, **fields):
    own = {"timescale": 2.0, "learning_rate": 0.002} if name == "stackelberg_gda" else {"learning_rate": 0.002}
    sharing = fields.pop("sharing", "one")
    return {
        "algorithm": {"name": name, **own, **fields},
        "seed": seed,
        "model": {"name": "embedded", "lora": {"rank": 16, "modules": ["o_proj"]}, "sharing": sharing},
        "judge": {"kind": "attributes"},
        "prompts": {"source": "embedded"},
        "train": {"steps": steps, "batch_size": 4, "max_grad_norm": None},
    }


def train(root, steps=20, finish=True, planned=20, **settings):
    """A run directory with metrics of ``steps`` steps; returns its name."""
    chosen = config(steps=planned, **settings)
    run = Run.open(root, chosen["algorithm"]["name"], chosen)
    rng = np.random.default_rng(steps)
    roles = ("leader", "follower") if chosen["algorithm"]["name"] == "stackelberg_gda" else ("leader",)
    metrics, samples = [], []
    for step in range(steps):
        row = {"step": step, "seconds_generate": 2.0, "seconds_update": 1.0, "peak_memory_gib": 1.5}
        row |= {"judge_seconds_per_comparison": 0.01, "judge_order_disagreement": 0.2}
        for role in roles:
            drift = step / 20 + rng.normal(0, 0.05)
            row |= {f"{role}_kl": drift, f"{role}_base_loglik": -1 - drift, f"{role}_token_entropy": 1 - drift / 4}
            row |= {f"{role}_tokens": 25 + drift, f"{role}_ended": 0.5 + drift / 4}
        metrics.append({**row, f"{roles[-1]}_preferred": 0.5 + rng.normal(0, 0.05)})
        answers = dict(zip(roles, ("Because.", "Because of it."), strict=False))
        samples.append({"step": step, "prompt": "Why?", **answers, "signal": 0.25})
    # not by Run.log, which waits for the disk after every line
    for name, lines in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
        (run.path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finish:
        run.finish({"steps": steps})
    return run.path.name


def interval(mean, n=40, width=0.06):
    return {"mean": mean, "low": max(0.0, mean - width), "high": min(1.0, mean + width), "n": n}


def players_of(runs):
    """Names of the players, from title -> whether it has a Follower."""
    names = ["Base", "Base as Follower"]
    for title, follows in runs.items():
        names += [f"{title} Leader", f"{title} Follower"] if follows else [title]
    return names


def result(runs, answer=ENGLISH, everything=True):
    """The result of an evaluation, title -> whether it has a Follower; ``everything`` that a sweep can ask for."""
    players = players_of(runs)
    strength = dict(zip(players, np.linspace(0.0, 0.3, len(players)), strict=True))
    pairs = list(itertools.permutations(players, 2))
    rates = [{"row": a, "column": b, **interval(0.5 + strength[a] - strength[b])} for a, b in pairs]
    refining = ["Base", *(title for title, follows in runs.items() if follows)]
    found = {
        "prompts": [f"Prompt {i}?" for i in range(4)],
        "answers": {name: [answer.format(i=i, name=name) for i in range(4)] for name in players},
        "win_rates": rates,
        "verdicts": {name: [0.1, 0.4, 0.6, 0.9] for name in players[1:]},
        "refinement": [
            {"policy": policy, "round": number, **interval(0.5 + 0.04 * number)}
            for policy in refining
            for number in (1, 2, 3)
            if (policy, number) != ("Base", 1)
        ],
        "attributes": {name: {"fluency": -4.5 + strength[name], "concision": -strength[name]} for name in players},
    }
    return found | (asked_for(runs, players, pairs, strength, refining) if everything else {})


def asked_for(runs, players, pairs, strength, refining):
    """The parts of an evaluation that a sweep has to ask for."""
    firsts = ["Base", *(f"{title} Leader" if follows else title for title, follows in runs.items())]
    methods = ("one at random", "RLHF (best of N)", "NLHF", "SLHF Leader", "SLHF Follower")
    return {
        "leader_follower": [
            {"leader": leader, "follower": follower, **interval(0.5 + 0.02 * i - 0.01 * j)}
            for i, leader in enumerate(firsts)
            for j, follower in enumerate(["Base as Follower", *(f"{title} as Follower" for title in runs)])
        ],
        "parity": [
            {"policy": policy, "method": method, "generations": n, **interval(0.5 + 0.03 * n + 0.02 * m)}
            for policy in refining
            for m, method in enumerate(("refinement", "best of n", "resampling"))
            for n in (1, 2, 3)
        ],
        "cycles": {
            "prompts": 40,
            "players": firsts,
            "answers": 5 * len(firsts),
            "distinct": 17.25,
            "edge": "p(answer > other) > 1/2",
            "share": 0.75,
            "low": 0.5,
            "high": 1.0,
            "lengths": {"3": 2, "4": 1},
            "longest": 6.5,
            "cyclic_triples": 0.05,
            "ties": 0.1,
            "condorcet_winner": 0.25,
            "condorcet_low": 0.0,
            "condorcet_high": 0.5,
            "tau": 0.01,
        },
        "concepts": [{"concept": a, "agrees_with": {b: 1.0 if a == b else 0.4 for b in methods}} for a in methods],
        "selection": [
            {"candidates": pool, "method": method, **interval(0.5 + 0.05 * k)}
            for pool in ("all", *firsts)
            for k, method in enumerate(methods)
        ],
        "length_control": [
            {"row": a, "column": b, **interval(0.5 + (strength[a] - strength[b]) / 4)} for a, b in pairs
        ],
        "length_bias": [{"row": a, "column": b, "slope": -0.01, "low": -0.02, "high": 0.001} for a, b in pairs],
        "judge": {"comparisons": 120, "seconds_per_comparison": 0.0125},
    }


def evaluate(root, runs, found, settings=None):
    """The evaluation of runs, title -> directory, with what it found; returns its directory."""
    settings = settings or SETTINGS
    run = Run.open(root, "evaluation", {"runs": runs, "evaluation": settings})
    run.finish(found)
    return run.path


def sweep(root, **kept):
    """A finished sweep of three algorithms, planned, run and evaluated; returns title -> directory."""
    runs = {"SLHF κ=2": train(root), "RLOO": train(root, name="rloo"), "Nash-MD-PG": train(root, name="nash_md")}
    write_json(root / runs["RLOO"] / "reward.json", {"weights": {"fluency": 0.5, "concision": -0.25}})
    write_plan(root, runs, SETTINGS)
    evaluate(root, runs, result({title: title == "SLHF κ=2" for title in runs}, **kept))
    return runs


def ablation(root):
    """Seven runs, twelve players with long names: as many as a report must still show legibly."""
    titles = {
        "SLHF κ=2": {},
        "RLOO": {"name": "rloo"},
        "Nash-MD-PG": {"name": "nash_md"},
        "SPO": {"name": "spo"},
        "SLHF with a slow Follower, κ=1": {"timescale": 1.0},
        "SLHF with a fast Follower, κ=5": {"timescale": 5.0},
        "SLHF κ=2 with two adapters": {"sharing": "two"},
    }
    runs = {title: train(root, steps=40, planned=40, **settings) for title, settings in titles.items()}
    write_plan(root, runs, SETTINGS)
    evaluate(root, runs, result({title: title.startswith("SLHF") for title in runs}))
    return runs


def edit(path, **changes):
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
