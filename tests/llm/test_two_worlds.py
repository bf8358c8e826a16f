"""The project's strongest check: the real language-model code path reaches tabular's closed forms."""

import json

import pytest

from experiments.run import HERE, main

SWEEP = str(HERE / "sweeps" / "finite_answers.yaml")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The whole sweep, once: two games, three algorithms, as the command line runs it."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *args, **_: printed.append(args[0]))
        assert main([SWEEP, "--out", str(out)]) == 0
    return {(r["game"].rsplit("/", 1)[-1], r["algorithm"]): r for r in json.loads(printed[-1])["results"]}


@pytest.mark.parametrize("game", ["condorcet.csv", "random5.csv"])
@pytest.mark.parametrize("algorithm", ["stackelberg_gda", "nash_md", "rloo"])
def test_the_learned_policy_is_the_exact_one(results, game, algorithm):
    result = results[game, algorithm]
    assert result["leader_tv"] <= 0.05
    if algorithm == "stackelberg_gda":
        assert result["follower_tv"] <= 0.05


@pytest.mark.parametrize("game", ["condorcet.csv", "random5.csv"])
def test_there_was_something_to_learn(results, game):
    """The exact policies differ from the reference and from each other by more than the tolerance."""
    exact = {algorithm: results[game, algorithm]["exact"] for algorithm in ("stackelberg_gda", "nash_md", "rloo")}
    reference = results[game, "rloo"]["reference"]
    policies = [reference, *exact.values()]
    distances = [
        sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
        for i, p in enumerate(policies)
        for q in policies[i + 1 :]
    ]
    assert max(distances) > 0.1
    follower = results[game, "stackelberg_gda"]
    assert follower["learned_follower"] != follower["exact_follower"]
