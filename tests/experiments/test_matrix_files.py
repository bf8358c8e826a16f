"""Sweeps over finite answers whose game is a file of comparisons, with few comparisons of some pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.testing import assert_array_equal

from experiments.config import load_sweep
from experiments.finite_answers import exact_solution, jobs_of
from slhf.algorithms import RLOO
from tabular import PreferenceMatrix, solve_rlhf

COMPARISONS = "winner;loser;count\nA;B;40,0\nB;A;20\nA;C;2\nC;A;3\nB;C;30\nC;B;30\n"


def test_the_reward_that_is_trained_and_the_exact_one_weight_all_pairs_equally(tmp_path, capsys):
    (tmp_path / "game.csv").write_text(COMPARISONS)
    (tmp_path / "sweep.yaml").write_text(
        "kind: finite_answers\nname: jobs\njudge: {matrix: game.csv}\nalgorithms: [{name: rloo, tau: 0.3}]\n"
    )
    (sweep,) = load_sweep(Path(tmp_path / "sweep.yaml"))
    ((_, game, _),), _ = jobs_of([sweep])
    assert "game.csv: cells are separated by semicolons." in capsys.readouterr().err
    uniform = np.full(3, 1 / 3)
    policy, _ = exact_solution(RLOO(tau=0.3), game, uniform, uniform)
    assert_array_equal(policy, solve_rlhf(PreferenceMatrix(game.p), 0.3).policy)
    assert policy.argmax() != solve_rlhf(game, 0.3).policy.argmax()
