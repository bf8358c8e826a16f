"""An algorithm from outside, on language models and in sweeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import yaml

from experiments.run import HERE, main
from llm import algorithms, failure
from llm.algorithms import spo
from slhf.algorithms import SPO, Algorithm
from slhf.errors import ConfigError, InvalidData
from tabular import dynamics


@dataclass(frozen=True)
class Mine(Algorithm):
    """SPO by another name."""

    name: ClassVar[str] = "mine"
    tau: float = 0.3
    samples: int = 2


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    monkeypatch.setattr(algorithms, "IMPLEMENTATIONS", dict(algorithms.IMPLEMENTATIONS))
    monkeypatch.setattr(dynamics, "DYNAMICS", dict(dynamics.DYNAMICS))


def test_a_registered_algorithm_is_known_by_its_name():
    with pytest.raises(ConfigError, match="no language-model implementation"):
        algorithms.implementation(Mine())
    algorithms.register(Mine, spo)
    assert algorithms.implementation(Mine()) is spo
    assert algorithms.by_name()["mine"] is Mine
    algorithms.register(Mine, spo)  # again, as when a notebook's cell is run twice


def test_half_an_algorithm_and_another_s_name_are_refused():
    with pytest.raises(ConfigError, match="has no collect and no loss"):
        algorithms.register(Mine, json)

    @dataclass(frozen=True)
    class Impostor(Algorithm):
        name: ClassVar[str] = "spo"

    with pytest.raises(ConfigError, match="name of SPO"):
        algorithms.register(Impostor, spo)
    assert algorithms.by_name()["spo"] is SPO


def test_a_sweep_trains_it_and_holds_it_against_its_own_tabular_solution(tmp_path, capsys):
    algorithms.register(Mine, spo)
    sweep = {
        "kind": "finite_answers",
        "name": "outside",
        "judge": {"matrix": str(HERE / "sweeps" / "games" / "condorcet.csv")},
        "train": {"steps": 2, "batch_size": 4},
        "algorithms": [{"name": "mine", "learning_rate": 0.005}],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    command = [str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "runs")]
    assert main(command) == 1  # no tabular game, so nothing to compare with
    assert "Mine has no exact solution" in capsys.readouterr().err
    dynamics.register(Mine, dynamics.DYNAMICS[SPO])
    assert main(command) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    sweep["algorithms"] = [{"name": "spo", "learning_rate": 0.005, "tau": 0.3}]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert main(command) == 0
    (theirs,) = json.loads(capsys.readouterr().out)["results"]
    assert found["algorithm"] == "mine"
    assert found["exact"] == theirs["exact"]
    assert found["learned"] == theirs["learned"]


def test_a_failed_step_of_an_unknown_algorithm_says_what_to_do(tmp_path):
    (tmp_path / "step.json").write_text(json.dumps({"algorithm": {"name": "mine", "tau": 0.1}}))
    with pytest.raises(InvalidData, match="'mine' is not an algorithm of this package; register it"):
        failure.replay(tmp_path)
