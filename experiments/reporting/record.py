"""What a sweep left on disk: its runs, finished or not, and their evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from slhf.errors import InvalidData
from slhf.runs import STOPPED, Run, write_json

PLAN = "sweep.json"
"""What the sweep that was last started in a directory consists of."""

MANIFEST = ("config", "environment", "started")
"""What every manifest holds."""

TITLES = {
    "stackelberg_gda": "SLHF",
    "rloo": "RLOO",
    "nash_md": "Nash-MD-PG",
    "spo": "SPO",
    "sppo": "SPPO",
    "egpo": "EGPO",
    "online_ipo": "Online IPO",
    "online_dpo": "Online DPO",
}
"""How an algorithm's policy is called in tables."""


ROLES = ("", " Leader", " Follower", " as Follower")
"""How the names of a policy's players end."""

PLAYERS = ("row", "column", "policy", "leader", "follower", "candidates")
"""What in a row of an evaluation names a player."""


@dataclass(frozen=True)
class RunRecord:
    """One training run."""

    title: str
    directory: str
    manifest: dict[str, Any] | None = None
    """Configuration, environment and start; None if the run was not started."""
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per step."""
    samples: Sequence[dict[str, Any]] = ()
    """Conversations of some steps, oldest first."""
    result: dict[str, Any] | None = None
    """What a finished run ended with."""
    error: str | None = None
    """What stopped it, the last time that an error did."""
    reward: dict[str, float] | None = None
    """Weights of the reward that was fitted for it."""

    @property
    def status(self) -> str:
        """In words."""
        if self.result is not None:
            return "finished"
        if self.manifest is None:
            return "not started"
        return "stopped by an error" if self.error else "not finished"

    @property
    def steps(self) -> int:
        """How many steps are logged."""
        return len(self.metrics)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was chosen: setting, by dotted name, -> value; empty if the run was not started."""
        return flat({} if self.manifest is None else self.manifest["config"])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and commit, by dotted name; empty if the run was not started."""
        return flat({} if self.manifest is None else self.manifest["environment"])


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as it stands."""

    name: str
    runs: list[RunRecord]
    evaluation: dict[str, Any] | None
    """What the finished evaluation of these runs says; None if there is none."""
    planned: bool = True
    """Whether it is known what belongs to it; otherwise runs that were never started are not missed."""
    others: Sequence[str] = ()
    """Directories of training runs that are not part of this sweep."""

    @property
    def finished(self) -> bool:
        """Whether nothing is missing."""
        return self.evaluation is not None and all(run.result is not None for run in self.runs)


def write_plan(root: Path, runs: Mapping[str, str], evaluation: Mapping[str, Any]) -> None:
    """Say what the sweep consists of before anything is run: title -> directory of each run, and how to evaluate."""
    write_json(root / PLAN, {"runs": dict(runs), "evaluation": dict(evaluation)})


def read_sweep(root: Path) -> SweepRecord:
    """The sweep in ``root``, as ``sweep.json`` lists it.

    A directory without such a list (older than it) is read as its newest evaluation; without one, as all its runs.

    Raises:
        InvalidData: there is no run in ``root``, or a file in it is not what it should be.
    """
    manifests = {path.parent.name: _read(path, MANIFEST) for path in root.glob("*/manifest.json")}
    by_start = sorted(manifests, key=lambda name: (manifests[name]["started"], name))
    training = [name for name in by_start if "algorithm" in manifests[name]["config"]]
    evaluations = [name for name in by_start if "runs" in manifests[name]["config"]]
    if not training and not (root / PLAN).exists():
        raise InvalidData(f"{root} holds no runs. {_nearby(root)}")
    if (root / PLAN).exists():
        plan = _read(root / PLAN, ("runs", "evaluation"))
        evaluations = [name for name in evaluations if _is_of(manifests[name]["config"], plan)]
        titles = plan["runs"]
    elif evaluations:
        titles = manifests[evaluations[-1]]["config"]["runs"]
    else:
        titles = {}
    runs = [read_run(root / directory, title) for title, directory in titles.items()]
    if not titles:
        runs = titled([read_run(root / directory) for directory in training])
    finished = [name for name in evaluations if (root / name / "finished.json").exists()]
    evaluation = _read(root / finished[-1] / "finished.json", ("win_rates", "answers")) if finished else None
    known = {run.directory for run in runs}
    others = [name for name in training if name not in known]
    return with_timescales(SweepRecord(root.resolve().name, runs, evaluation, bool(titles), others))


def read_run(path: Path, title: str = "") -> RunRecord:
    """One training run; ``path`` need not exist yet."""
    if not (path / "manifest.json").exists():
        return RunRecord(title, path.name)
    manifest = _read(path / "manifest.json", MANIFEST)
    run = Run(path)
    error = None
    for name in (STOPPED, "failed_step/step.json"):
        if error is None and (path / name).exists():
            error = str(_read(path / name, ("error",))["error"])
    return RunRecord(
        title or TITLES.get(manifest["config"]["algorithm"]["name"], manifest["config"]["algorithm"]["name"]),
        path.name,
        manifest,
        pd.DataFrame(run.metrics()),
        run.metrics("samples.jsonl"),
        _read(path / "finished.json", ()) if run.finished else None,
        error,
        _read(path / "reward.json", ("weights",))["weights"] if (path / "reward.json").exists() else None,
    )


def titled(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Distinct titles for runs of the same algorithm, by the settings in which they differ."""
    named = []
    for run in runs:
        rivals = [other.config for other in runs if other.title == run.title]
        differing = [
            f"{key.rpartition('.')[2]}={value}"
            for key, value in run.config.items()
            if any(other.get(key) != value for other in rivals)
        ]
        named.append(replace(run, title=f"{run.title} ({', '.join(differing)})" if differing else run.title))
    return named


def with_timescales(sweep: SweepRecord) -> SweepRecord:
    """The sweep with the timescale κ in the title of every run that has one, and in the names of its players."""
    titles = {
        run.title: f"{run.title} κ={run.config['timescale']:g}"
        for run in sweep.runs
        if run.config.get("timescale") is not None and "κ" not in run.title and "timescale" not in run.title
    }
    names = {f"{old}{role}": f"{new}{role}" for old, new in titles.items() for role in ROLES}
    runs = [replace(run, title=titles.get(run.title, run.title)) for run in sweep.runs]
    return replace(sweep, runs=runs, evaluation=sweep.evaluation and renamed(sweep.evaluation, names))


def renamed(evaluation: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """An evaluation in which players are called otherwise, old name -> new; concepts of that name are none."""

    def of_row(row: Mapping[str, Any]) -> dict[str, Any]:
        return {key: names.get(value, value) if key in PLAYERS else value for key, value in row.items()}

    found: dict[str, Any] = {}
    for key, value in evaluation.items():
        if key in ("answers", "verdicts", "attributes"):
            found[key] = {names.get(name, name): own for name, own in value.items()}
        elif key == "cycles":
            found[key] = {**value, "players": [names.get(name, name) for name in value["players"]]}
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found[key] = list(map(of_row, value))
        else:
            found[key] = value
    return found


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted name; those of the algorithm and versions of packages by their own name alone."""
    if not settings:
        return {}
    (row,) = pd.json_normalize(dict(settings)).to_dict(orient="records")
    return {str(key).removeprefix("algorithm.").removeprefix("packages."): value for key, value in row.items()}


def _is_of(config: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    return config["runs"] == plan["runs"] and config["evaluation"] == plan["evaluation"]


def _nearby(root: Path) -> str:
    """Where the user may have meant to point."""
    if not root.is_dir():
        return "There is no such directory; give the directory of a sweep, such as runs/quickstart."
    below = sorted({path.parent.parent for path in root.glob("*/*/manifest.json")})
    if below:
        return f"Give one of its sweeps: {', '.join(map(str, below))}."
    return "Give the directory of a sweep, such as runs/quickstart; a run is a directory in it with a manifest.json."


def _read(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that must have ``keys``.

    Raises:
        InvalidData: it does not.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise InvalidData(f"{path} is not JSON ({error}); was it edited or cut off?") from error
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise InvalidData(f"{path} lacks {', '.join(missing)}; it is not what this project writes there.")
    return value
