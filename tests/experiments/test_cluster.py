"""Sweeps as jobs: run for real on this machine; for SLURM, what the scheduler would be asked for."""

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest

from experiments import cluster
from experiments.run import main
from slhf.errors import ConfigError, MissingResource, RunError

submitit = pytest.importorskip("submitit")


def test_parameters_get_submitits_names():
    assert cluster.parse_parameters("partition=gpu,gpus=1,cpus=8,mem_gb=64,timeout_min=600,constraint=h100") == {
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
        "cpus_per_task": 8,
        "mem_gb": 64,
        "timeout_min": 600,
        "slurm_constraint": "h100",
    }
    assert cluster.parse_parameters("") == {}
    with pytest.raises(ConfigError, match="key=value"):
        cluster.parse_parameters("partition")


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A scheduler that takes every job: ``sbatch`` keeps the script it is given and answers with a number."""
    for name, text in {"srun": "", "sbatch": f'cp "${{@: -1}}" {tmp_path}/script; echo Submitted batch job 12'}.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "script"


def test_slurm_is_asked_for_what_was_given(sbatch, tmp_path):
    asked = cluster.parse_parameters("partition=gpu,gpus=2,cpus=4,mem_gb=32,timeout_min=90")
    executor = cluster.make_executor("slurm", tmp_path / "jobs", asked)
    job = executor.submit(time.sleep, 0)
    assert job.job_id == "12"
    lines = [line for line in sbatch.read_text().splitlines() if line.startswith("#SBATCH")]
    for option in ("partition=gpu", "gpus-per-node=2", "cpus-per-task=4", "mem=32GB", "time=90"):
        assert f"#SBATCH --{option}" in lines


def test_without_slurm_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingResource, match="--executor slurm"):
        cluster.make_executor("slurm", tmp_path, {})


def test_a_parameter_that_slurm_does_not_have_is_named(sbatch, tmp_path):
    with pytest.raises(ConfigError, match="partitoin"):
        cluster.make_executor("slurm", tmp_path, cluster.parse_parameters("partitoin=gpu"))


def fail():
    raise RunError("the disk is full")


def test_jobs_run_here_and_one_that_fails_is_named_with_its_log(tmp_path, capsys):
    """The others go on; two at a time; results come in order."""
    executor = cluster.make_executor("local", tmp_path / "jobs", {})
    tasks = [("first", partial(os.path.join, "a", "b")), ("second", fail), ("third", partial(int, "7"))]
    with pytest.raises(RunError, match="1 of 3 jobs failed: second") as caught:
        cluster.run_jobs(tasks, executor, 0.1, at_once=2)
    assert "the disk is full" in str(caught.value)
    log = Path(str(caught.value).split("log: ")[1].split(")")[0])
    assert "the disk is full" in log.read_text()
    assert capsys.readouterr().out.count(": job ") == 3


class Never:
    """An executor whose jobs do not end."""

    def __init__(self):
        self.cancelled = 0
        self.job_id, self.paths = "1", type("Paths", (), {"stderr": "log"})

    def submit(self, *_):
        return self

    def done(self):
        raise KeyboardInterrupt

    def cancel(self, check):
        self.cancelled += 1


def test_an_interrupt_cancels_all_jobs():
    executor = Never()
    with pytest.raises(KeyboardInterrupt):
        cluster.run_jobs([("a", fail), ("b", fail)], executor, 0)
    assert executor.cancelled == 2


def test_a_sweep_as_jobs_gives_what_it_gives_here(tmp_path, capsys):
    """Two runs and the report, each in a process of its own; afterwards only the report is left to do."""
    game = tmp_path / "game.csv"
    game.write_text("A,B\n0.5,0.7\n0.3,0.5\n")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "kind: finite_answers\nname: jobs\njudge: {matrix: game.csv}\ntrain: {steps: 2, batch_size: 4}\n"
        "algorithms: [{name: nash_md, tau: 0.3}, {name: rloo, tau: 0.3}]\n"
    )
    assert main([str(sweep), "--executor", "local", "--at-once", "2", "--out", str(tmp_path / "jobs")]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": job ") == 3
    assert main([str(sweep), "--out", str(tmp_path / "here")]) == 0
    here = json.loads(capsys.readouterr().out)["results"]
    there = json.loads(printed[printed.index("\n{") :])["results"]
    assert [row["learned"] for row in there] == [pytest.approx(row["learned"], abs=1e-6) for row in here]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "jobs" / "jobs").glob("*-*/finished.json")}
    assert len(written) == 2


@pytest.mark.parametrize("options", [["--json"], ["--slurm", "partition=x"], ["--at-once", "2"]])
def test_options_that_would_change_nothing_are_refused(options, capsys):
    assert main(options) == 1
    assert options[0] in capsys.readouterr().err
