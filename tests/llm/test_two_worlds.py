"""The project's strongest check: the real language-model code path reaches tabular's closed forms."""

import json

import numpy as np
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
    """Every exact policy is farther from where training started than the tolerance."""
    for algorithm in ("stackelberg_gda", "nash_md", "rloo"):
        result = results[game, algorithm]
        assert np.abs(np.subtract(result["exact"], result["reference"])).sum() / 2 > 0.05
    result = results[game, "stackelberg_gda"]
    moved = np.abs(np.subtract(result["exact_follower"], result["follower_reference"])).sum(-1) / 2
    assert result["exact"] @ moved > 0.05
